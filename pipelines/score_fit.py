"""Evidence and labels → the weights of a model's score, and what people say → those weights refined.

`fit` learns from an album whose truth is known. `refit` is Bayes' way to go on from there: the pairs of that album speak as
loudly as `_ALBUM` labels, the labels of people for themselves. So a few labels bend what they speak of and leave the rest, none
leave everything, and it does not matter that they were chosen by the evidence: given that, whether a pair is a duplicate is
drawn from the same distribution. Pure, but for the table that keeps the album's evidence beside the model.

Shapes: P pairs, F features, D columns (`ndd.verify.score.expand`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ndd.errors import InputError, ModelError, UsageError
from ndd.files import atomic_path
from ndd.metrics.calibration import expected_calibration_error
from ndd.model.directory import EVIDENCE
from ndd.verify.score import (
    DEFAULT_CALIBRATION,
    UNVERIFIED_FEATURES,
    VERIFIED_FEATURES,
    PairEvidence,
    expand,
    features,
)

__all__ = ["Taught", "fit", "refit", "sections", "taught_by"]

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.bool_]

_KEPT = [at for at, name in enumerate(VERIFIED_FEATURES) if name != "cosine"]
_START: Mapping[str, Any] = {name: [DEFAULT_CALIBRATION[name][at] for at in _KEPT] for name in ("features", "weights")}
"""Where a fit begins. Without the cosine: standing out says the same and compares with strangers, and of two columns that say
the same a fit makes what the album's noise bids (docs/LOG.md, "what the score was fitted to")."""
_LEAST = 20
"""Pairs of either kind below which a fit would be a guess."""
_PULL = 5.0
"""Pull towards the built-in weights, in pairs: an album that tells two features apart badly leaves them as they were."""
_FOLDS = 5
_BENDS_TRUE, _BENDS_FALSE = (0.02, 0.46, 0.9), (0.5, 0.7495, 0.999)
"""Quantiles of the duplicates' and of the others' features at which a response may bend: where the two meet."""
_ALBUM = 1000.0
"""What the album is worth beside labels, in labels. With 300, F1 after 50 to 200 labels was lower (`bench loop`)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Taught:
    """What a calibration was fitted to. values: (P, F) VERIFIED_FEATURES; truth: (P,) True for duplicates."""

    values: Floats
    truth: Labels

    def save(self, directory: Path) -> None:
        """Write it into a model directory."""
        columns = {name: pa.array(self.values[:, at], pa.float32()) for at, name in enumerate(VERIFIED_FEATURES)}
        with atomic_path(directory / EVIDENCE) as temporary:
            pq.write_table(pa.table({**columns, "duplicate": self.truth}), temporary, compression="zstd")

    @classmethod
    def load(cls, directory: Path) -> Self | None:
        """That of a model directory; None if it has none. ModelError if it is damaged or of other features."""
        place = directory / EVIDENCE
        if not place.is_file():
            return None
        try:
            table = pq.read_table(place, columns=[*VERIFIED_FEATURES, "duplicate"], partitioning=None)
            values = np.stack([table[name].to_numpy() for name in VERIFIED_FEATURES], axis=1)
            truth = np.asarray(table["duplicate"].to_numpy(), np.bool_)
        except (pa.ArrowException, KeyError, OSError, ValueError) as error:
            why = str(error).splitlines()[0]
            raise ModelError(f"{place}: {why}; fit it again with `python -m pipelines calibrate`") from None
        return cls(values=values.astype(np.float64), truth=truth)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Labelled:
    """Pairs that people labelled, each of which counts as one of `_ALBUM`. values: (L, F); truth: (L,); odds: (L,) log-odds of
    the prior each was taken under."""

    values: Floats
    truth: Labels
    odds: Floats


def taught_by(evidence: Sequence[PairEvidence], labels: Sequence[bool]) -> Taught:
    """The verified pairs that a fit learns from: identical and flat ones are rules. labels: True for duplicates."""
    kept = [at for at, e in enumerate(evidence) if e.geometry is not None and not e.identical and not e.flat]
    return Taught(
        values=np.array([features(evidence[at]) for at in kept]).reshape(len(kept), len(VERIFIED_FEATURES)),
        truth=np.array([bool(labels[at]) for at in kept], np.bool_),
    )


def fit(
    evidence: Sequence[PairEvidence],
    labels: Sequence[bool],
    *,
    groups: Sequence[int] | None = None,
    unverified: tuple[Sequence[PairEvidence], Sequence[bool]] | None = None,
) -> dict[str, Any]:
    """The content of calibration.json.

    labels: True for duplicates. groups: pairs of one number are held out together in the cross-fitted check (default:
    each pair by itself). unverified: pairs as a search without verification meets them, and their labels, for the score of
    pairs that nobody looked at (default: the same pairs, their geometry left out). The response to every feature is
    piecewise linear and never falls, since every feature grows with the evidence for a duplicate. Both kinds weigh the same
    in the fit and the stored prior is .5; a run puts its own prior in its place. Raises InputError where there are fewer
    than 20 pairs of either kind.
    """
    if len(evidence) != len(labels) or (groups is not None and len(groups) != len(labels)):
        raise UsageError(
            f"fit: {len(evidence)} pairs and {len(labels)} labels; each pair wants one label and one group"
        )
    usable, truth = _usable(evidence, labels)
    fold = np.array([at if groups is None else groups[at] for at in usable], np.int64)
    seen = np.array([evidence[at].geometry is not None for at in usable], np.bool_)
    taught = taught_by(evidence, labels)
    if min(int(taught.truth.sum()), int((~taught.truth).sum())) < _LEAST:
        raise InputError(
            f"fit: too few verified pairs of either kind, at least {_LEAST} are needed; give more photographs"
        )
    verified = _section(_START, VERIFIED_FEATURES, taught.values, taught.truth)
    crossed = _cross_fitted(taught, fold[seen])
    return {
        "version": 1,
        "source": "fitted",
        **verified,
        "prior": 0.5,
        "unverified": _unverified(*(unverified or (evidence, labels))),
        "fit": {
            "pairs": len(truth),
            "duplicates": int(truth.sum()),
            "verified": int(seen.sum()),
            "ece": round(expected_calibration_error(crossed, taught.truth), 4),
            "log_loss": round(_log_loss(crossed, taught.truth), 4),
        },
    }


def _usable(evidence: Sequence[PairEvidence], labels: Sequence[bool]) -> tuple[list[int], Labels]:
    """Places and labels of the pairs that no rule decides. InputError where there are fewer than 20 of either kind."""
    usable = [at for at, e in enumerate(evidence) if not e.identical and not e.flat]
    truth = np.array([bool(labels[at]) for at in usable], np.bool_)
    for name, number in (("duplicate", int(truth.sum())), ("distinct", int((~truth).sum()))):
        if number < _LEAST:
            raise InputError(f"fit: {number} {name} pairs, at least {_LEAST} are needed; give more photographs")
    return usable, truth


def _unverified(evidence: Sequence[PairEvidence], labels: Sequence[bool]) -> dict[str, Any]:
    usable, truth = _usable(evidence, labels)
    bare = np.array([features(dataclasses.replace(evidence[at], geometry=None)) for at in usable])
    return _section(DEFAULT_CALIBRATION["unverified"], UNVERIFIED_FEATURES, bare, truth)


def refit(taught: Taught, values: Floats, truth: Labels, prior: Floats) -> dict[str, Any]:
    """Features, weights and bias, under a prior of .5, of the score that album and labels teach together.

    values: (L, F) features of the labelled pairs; truth: (L,); prior: (L,) share of duplicates among the candidates that each
    was taken from. Without labels the answer is the fit to the album.
    """
    labels = _Labelled(values=values, truth=truth, odds=np.log(prior) - np.log1p(-prior))
    return _section(_START, VERIFIED_FEATURES, taught.values, taught.truth, labels=labels)


def sections(table: Mapping[str, Any]) -> dict[str, Any]:
    """What of calibration.json makes scores: the parts that refining and moving replace."""
    return {name: table[name] for name in ("features", "weights", "bias", "unverified")}


def _section(
    start: Mapping[str, Any],
    known: Sequence[str],
    values: Floats,
    truth: Labels,
    labels: _Labelled | None = None,
) -> dict[str, Any]:
    names, weights, bias = _additive(values, truth, known=known, start=start, labels=labels)
    kept = [(n, round(float(w), 4)) for n, w in zip(names, weights, strict=True) if "[" not in n or w >= 5e-5]
    return {"features": [n for n, _ in kept], "weights": [w for _, w in kept], "bias": round(float(bias), 4)}


def _additive(
    values: Floats,
    truth: Labels,
    *,
    known: Sequence[str],
    start: Mapping[str, Any],
    labels: _Labelled | None = None,
) -> tuple[list[str], Floats, float]:
    """Columns, their weights and the bias. A feature that never varies keeps the weight that `start` gives it.

    known: the names of `values`' columns, of which those in `start` are used.
    """
    names: list[str] = []
    towards: list[float] = []
    for feature, weight in zip(start["features"], start["weights"], strict=True):
        column = values[:, list(known).index(feature)]
        ramps = [f"{feature}[{low:g}:{high:g}]" for low, high in pairwise(_knots(column, truth))]
        names += ramps or [feature]
        towards += [0.0] * len(ramps) if ramps else [float(weight)]
    columns = expand(values, known, names)
    weight = np.where(truth, 0.5 / truth.sum(), 0.5 / (~truth).sum())
    pairs = _Pairs(columns=columns, truth=truth, weight=weight, offset=np.zeros(len(truth)), pull=_PULL / len(truth))
    if labels is not None and len(labels.truth):
        pairs = pairs.joined(expand(labels.values, known, names), labels.truth, labels.odds)
    return names, *_logistic(pairs, start=np.asarray(towards, np.float64))


def _knots(column: Floats, truth: Labels) -> list[float]:
    """Where the response to a feature may bend: its ends, and quantiles of either kind where most of them lie."""
    inner = [np.quantile(column[truth], _BENDS_TRUE), np.quantile(column[~truth], _BENDS_FALSE)]
    found: list[float] = np.unique(np.concatenate([[column.min()], *inner, [column.max()]]).round(3)).tolist()
    return found


@dataclass(frozen=True, kw_only=True, eq=False)
class _Pairs:
    """What a regression learns from. columns: (P, D); weight: (P,), of sum 1; offset: (P,) log-odds beside the columns';
    pull: of the weights towards where they start, per squared unit of a column's spread."""

    columns: Floats
    truth: Labels
    weight: Floats
    offset: Floats
    pull: float

    def joined(self, columns: Floats, truth: Labels, offset: Floats) -> _Pairs:
        """With labels, while what is there counts as _ALBUM of them."""
        whole = _ALBUM + len(truth)
        return _Pairs(
            columns=np.vstack([self.columns, columns]),
            truth=np.concatenate([self.truth, truth]),
            weight=np.concatenate([self.weight * _ALBUM, np.ones(len(truth))]) / whole,
            offset=np.concatenate([self.offset, offset]),
            pull=self.pull * _ALBUM / whole,
        )


def _logistic(pairs: _Pairs, *, start: Floats) -> tuple[Floats, float]:
    """Logistic regression pulled towards `start`. Weights below 0 are taken out, the worse half of them at a time."""
    scale = np.maximum(pairs.columns.std(axis=0), 1e-6)
    kept = np.arange(pairs.columns.shape[1])
    at = np.append(start * scale, 0.0)
    while True:
        design = np.hstack([pairs.columns[:, kept] / scale[kept], np.ones((len(pairs.truth), 1))])
        at = _newton(pairs, design, towards=np.append(start[kept] * scale[kept], 0.0), at=at)
        negative = np.flatnonzero(at[:-1] < 0.0)
        if not len(negative):
            weights = np.zeros(len(scale))
            weights[kept] = at[:-1] / scale[kept]
            return weights, float(at[-1])
        worst = negative[np.argsort(at[negative], kind="stable")][: (len(negative) + 1) // 2]
        kept, at = np.delete(kept, worst), np.delete(at, worst)


def _newton(pairs: _Pairs, design: Floats, *, towards: Floats, at: Floats) -> Floats:
    """Minimiser of the weighted log loss and the pull on all but the last column, by damped Newton steps from `at`."""
    pull = np.append(np.full(design.shape[1] - 1, pairs.pull), 1e-12)
    sign = np.where(pairs.truth, 1.0, -1.0)

    def loss(at: Floats) -> float:
        far = at - towards
        wrong = np.logaddexp(0.0, -sign * (design @ at + pairs.offset))
        return float((pairs.weight * wrong).sum() + 0.5 * (pull * far * far).sum())

    for _ in range(200):
        p = _sigmoid(design @ at + pairs.offset)
        slope = design.T @ (pairs.weight * (p - pairs.truth)) + pull * (at - towards)
        curve = (design * (pairs.weight * p * (1.0 - p))[:, None]).T @ design + np.diag(pull)
        step = np.linalg.solve(curve, slope)
        size, before = 1.0, loss(at)
        while size > 1e-6 and loss(at - size * step) > before:
            size *= 0.5
        at = at - size * step
        if np.abs(size * step).max() < 1e-8:
            break
    return np.asarray(at, np.float64)


def _cross_fitted(taught: Taught, fold: npt.NDArray[np.int64]) -> Floats:
    """Each pair's probability from a fit that saw none of its group; under the share of duplicates among all."""
    values, truth = taught.values, taught.truth
    scores = np.full(len(truth), 0.5)
    which = np.unique(fold, return_inverse=True)[1] % _FOLDS
    share = float(truth.mean())
    shift = np.log(share / (1.0 - share))
    for number in range(_FOLDS):
        rest = which != number
        if rest.all() or not truth[rest].any() or truth[rest].all():
            continue
        names, weights, bias = _additive(values[rest], truth[rest], known=VERIFIED_FEATURES, start=_START)
        columns = expand(values[~rest], VERIFIED_FEATURES, names)
        scores[~rest] = _sigmoid(columns @ weights + bias + shift)
    return scores


def _sigmoid(x: Floats) -> Floats:
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(x, -60.0, 60.0))), np.float64)


def _log_loss(scores: Floats, truth: Labels) -> float:
    right = np.where(truth, scores, 1.0 - scores)
    return float(-np.log(np.maximum(right, 1e-12)).mean())
