"""A model's score brought into line with what people said of pairs drawn at random (audit draws).

The calibration made on edited copies (`pipelines.calibrate`) ranks well; how sure it may be of itself in a given library is
what audits tell: two numbers, slope and shift of the log-odds (Platt 1999, "Probabilistic outputs for support vector
machines"), held near 1 and 0 until the answers are many.
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
from ndd.errors import DecodeError
from ndd.files import atomic_path
from ndd.known import KnownPicture
from ndd.metrics.pairs import roc_auc
from ndd.model.directory import CALIBRATION, describe
from ndd.types import Decision, ImageId, Verdict
from ndd.verify.score import DEFAULT_CALIBRATION

__all__ = ["LEAST", "Audit", "audited", "platt", "recalibrate"]

Floats = npt.NDArray[np.float64]

LEAST = 30
"""Audited pairs below which the calibration stays as it is; at least 5 of either kind."""
_EITHER = 5
_PULL = 8.0
"""Pull towards slope 1 and shift 0, in pairs."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Audit:
    """Audited pairs and what a model says of them. logits: of the scores under the calibration's prior. truth: True for
    duplicates. weight: 1 / inclusion probability, mean 1. lost: pairs whose pictures could not be read."""

    logits: Floats
    truth: npt.NDArray[np.bool_]
    weight: Floats
    lost: int

    @property
    def enough(self) -> bool:
        """May they move the calibration?"""
        kinds = int(self.truth.sum()), int((~self.truth).sum())
        return sum(kinds) >= LEAST and min(kinds) >= _EITHER

    def figures(self) -> dict[str, Any]:
        """pairs, duplicates, and where there are both kinds ROC-AUC, accuracy at .5 and log loss, all weighted."""
        told: dict[str, Any] = {"pairs": len(self.truth), "duplicates": int(self.truth.sum()), "lost": self.lost}
        if not 0 < self.truth.sum() < len(self.truth):
            return told
        right = np.where(self.truth, self.logits > 0, self.logits <= 0)
        signed = np.where(self.truth, self.logits, -self.logits)
        return told | {
            "roc_auc": roc_auc(self.truth, self.logits),
            "accuracy": float(np.average(right, weights=self.weight)),
            "log_loss": float(np.average(np.logaddexp(0.0, -signed), weights=self.weight)),
        }


def audited(model: Path, decisions: Sequence[Decision], uri_of: Mapping[ImageId, str]) -> Audit:
    """Score the audited pairs with `model`. uri_of: where the pictures lie."""
    detector = Detector(model)
    seen: dict[ImageId, KnownPicture] = {}
    logits, truth, weight, lost = [], [], [], 0
    for decision in decisions:
        try:
            left, right = (_look(detector, id, uri_of, seen) for id in (decision.left_id, decision.right_id))
        except DecodeError:
            lost += 1
            continue
        score = min(max(detector.match(left, right).score, 1e-9), 1.0 - 1e-9)
        logits.append(float(np.log(score) - np.log1p(-score)))
        truth.append(decision.verdict is Verdict.DUPLICATE)
        weight.append(1.0 / decision.p_draw)
    share = np.asarray(weight, np.float64)
    return Audit(
        logits=np.asarray(logits, np.float64),
        truth=np.asarray(truth, np.bool_),
        weight=share / share.mean() if len(share) else share,
        lost=lost,
    )


def _look(
    detector: Detector, id: ImageId, uri_of: Mapping[ImageId, str], seen: dict[ImageId, KnownPicture]
) -> KnownPicture:
    if id not in seen:
        seen[id] = detector.look(uri_of[id])
    return seen[id]


def platt(audit: Audit) -> tuple[float, float]:
    """(slope, shift) of the log-odds that fit the audited pairs best; slope > 0."""
    x, y, w = audit.logits, audit.truth.astype(np.float64), audit.weight
    slope, shift = 1.0, 0.0
    for _ in range(100):
        p = 1.0 / (1.0 + np.exp(-np.clip(slope * x + shift, -60.0, 60.0)))
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
    moved = _moved(table, slope, shift) | {"unverified": _moved(table["unverified"], slope, shift)}
    moved |= {"source": "fitted, then moved by audits", "audits": {**told, "slope": slope, "shift": shift}}
    with atomic_path(model / CALIBRATION) as temporary:
        temporary.write_text(json.dumps(moved, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return told | {"moved": True, "slope": slope, "shift": shift}


def _moved(section: Mapping[str, Any], slope: float, shift: float) -> dict[str, Any]:
    weights = [slope * float(weight) for weight in section["weights"]]
    return {**section, "weights": weights, "bias": slope * float(section["bias"]) + shift}
