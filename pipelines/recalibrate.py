"""A model's score brought into line with what people said of pairs drawn at random (audit draws).

The calibration made on edited copies (`pipelines.calibrate`) ranks well; how sure it may be of itself in a given library is
what audits tell: two numbers, slope and shift of the log-odds (Platt 1999, "Probabilistic outputs for support vector
machines"), held near 1 and 0 until the answers are many. The share of duplicates among the candidates is no part of them:
each search estimates its own and adds it, so that of the search which the audits were drawn from is taken out first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ndd.detector import Detector
from ndd.files import atomic_path
from ndd.model.directory import CALIBRATION, describe
from ndd.types import Decision, ImageId
from ndd.verify.score import DEFAULT_CALIBRATION
from pipelines.answered import look_at, priors_of
from pipelines.score_fit import sections

__all__ = ["LEAST", "Audit", "audited", "platt", "recalibrate", "sure_of_loss"]

Floats = npt.NDArray[np.float64]

LEAST = 30
"""Audited pairs below which the calibration stays as it is; at least 5 of either kind."""
_EITHER = 5
_PULL = 8.0
"""Pull towards slope 1 and shift 0, in pairs."""
_DRAWS = 1000


@dataclass(frozen=True, kw_only=True, eq=False)
class Audit:
    """Audited pairs and what a model says of them.

    logits: log-odds of the scores, at even odds before the evidence. prior: share of duplicates among the candidates of
    the search each pair was drawn from. truth: True for duplicates. weight: 1 / inclusion probability, mean 1. lost: pairs
    that nothing can be learnt from: a picture that cannot be read, or is of one colour.
    """

    logits: Floats
    prior: Floats
    truth: npt.NDArray[np.bool_]
    weight: Floats
    lost: int

    @property
    def odds(self) -> Floats:
        """Log-odds as the search had them, its prior included."""
        return np.asarray(self.logits + np.log(self.prior) - np.log1p(-self.prior), np.float64)

    @property
    def enough(self) -> bool:
        """May they move the calibration?"""
        kinds = int(self.truth.sum()), int((~self.truth).sum())
        return sum(kinds) >= LEAST and min(kinds) >= _EITHER

    def figures(self) -> dict[str, Any]:
        """pairs, duplicates, and where there are both kinds ROC-AUC, accuracy at even odds and log loss, all weighted."""
        told: dict[str, Any] = {"pairs": len(self.truth), "duplicates": int(self.truth.sum()), "lost": self.lost}
        if not 0 < self.truth.sum() < len(self.truth):
            return told
        right = np.where(self.truth, self.odds > 0, self.odds <= 0)
        signed = np.where(self.truth, self.odds, -self.odds)
        return told | {
            "roc_auc": _roc_auc(self, self.weight),
            "accuracy": float(np.average(right, weights=self.weight)),
            "log_loss": float(np.average(np.logaddexp(0.0, -signed), weights=self.weight)),
        }


def audited(
    model: Path, decisions: Sequence[Decision], uri_of: Mapping[ImageId, str], *, prior_of: Mapping[str, float]
) -> Audit:
    """Score the audited pairs with `model`.

    uri_of, prior_of: see `pipelines.answered`.
    """
    detector = Detector(model)
    even = float(np.log(detector.scorer.prior) - np.log1p(-detector.scorer.prior))
    found = look_at(detector, decisions, uri_of)
    score = np.clip([match.score for match in found.matches], 1e-9, 1.0 - 1e-9)
    return Audit(
        logits=np.asarray(np.log(score) - np.log1p(-score) - even, np.float64),
        prior=priors_of(found, prior_of),
        truth=found.truth,
        weight=found.weight,
        lost=found.lost,
    )


def sure_of_loss(before: Audit, after: Audit, *, seed: int = 0) -> float | None:
    """Share of bootstrap draws of the pairs in which `after` tells them apart worse (ROC-AUC); None without enough pairs.

    The two are of the same decisions.
    """
    if not (before.enough and after.enough) or len(before.truth) != len(after.truth):
        return None
    random, count = np.random.default_rng(seed), len(before.truth)
    worse, told = 0, 0
    for _ in range(_DRAWS):
        times = np.bincount(random.integers(count, size=count), minlength=count)
        if 0 < times[before.truth].sum() < count:
            told += 1
            worse += _roc_auc(after, after.weight * times) < _roc_auc(before, before.weight * times) - 1e-12
    return worse / told if told else None


def _roc_auc(audit: Audit, weight: Floats) -> float:
    """P(a duplicate has the higher score), each pair as often as its weight says; ties count half."""
    good, bad = audit.truth, ~audit.truth
    above = audit.logits[good][:, None] - audit.logits[bad][None, :]
    each = weight[good][:, None] * weight[bad][None, :]
    return float((each * (0.5 + 0.5 * np.sign(above))).sum() / each.sum())


def platt(audit: Audit) -> tuple[float, float]:
    """(slope, shift) of the log-odds at even odds that fit the audited pairs best under their prior; slope > 0."""
    x, y, w = audit.logits, audit.truth.astype(np.float64), audit.weight
    base = audit.odds - x
    slope, shift = 1.0, 0.0
    for _ in range(100):
        p = 1.0 / (1.0 + np.exp(-np.clip(slope * x + shift + base, -60.0, 60.0)))
        step_on = w * (p - y)
        gradient = np.array([(step_on * x).sum() + _PULL * (slope - 1.0), step_on.sum() + _PULL * shift])
        curve = w * p * (1.0 - p)
        mixed = (curve * x).sum()
        hessian = np.array([[(curve * x * x).sum() + _PULL, mixed], [mixed, curve.sum() + _PULL]])
        move = np.linalg.solve(hessian, gradient)
        size = min(1.0, 0.5 / float(np.abs(move).max())) if np.abs(move).max() > 0 else 1.0
        slope, shift = max(slope - size * float(move[0]), 0.05), shift - size * float(move[1])
        if float(np.abs(move).max()) < 1e-10:
            break
    return slope, shift


def recalibrate(model: Path, audit: Audit) -> dict[str, Any]:
    """Write slope and shift of `audit` into the model's calibration, if it has enough pairs; what was done, JSON values."""
    told = audit.figures()
    if not audit.enough:
        return told | {"moved": False, "wanted": LEAST}
    slope, shift = platt(audit)
    table = dict(describe(model).calibration or DEFAULT_CALIBRATION)
    even = float(np.log(table["prior"]) - np.log1p(-table["prior"]))
    moved = _moved(table, slope, shift, even) | {"unverified": _moved(table["unverified"], slope, shift, even)}
    moved |= {
        "source": f"{table.get('source', 'built-in')}, then moved by audits",
        "audits": {**told, "slope": slope, "shift": shift},
        "fitted": table.get("fitted") or sections(table),
    }
    with atomic_path(model / CALIBRATION) as temporary:
        temporary.write_text(json.dumps(moved, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return told | {"moved": True, "slope": slope, "shift": shift}


def _moved(section: Mapping[str, Any], slope: float, shift: float, even: float) -> dict[str, Any]:
    """even: log-odds of the calibration's own prior, which its biases hold under."""
    weights = [slope * float(weight) for weight in section["weights"]]
    return {**section, "weights": weights, "bias": slope * (float(section["bias"]) - even) + shift + even}
