"""Evidence about a pair → probability that the two are duplicates, and what they are to each other.

A logistic regression on a handful of monotone features, each bent piecewise (a generalised additive model: Hastie &
Tibshirani 1990), fitted on an edited-copy album (`pipelines.calibrate`) and kept as `calibration.json` in the model
directory. Its probabilities hold under the calibration prior; a run re-estimates the prior from its own scores, because
the share of duplicates among candidates differs by orders of magnitude between albums (Saerens, Latinne & Decaestecker
2002, "Adjusting the outputs of a classifier to new a priori probabilities").
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from ndd.config import json_digest
from ndd.errors import ModelError
from ndd.types import Relation
from ndd.verify.geometry import GeometricEvidence

__all__ = [
    "DEFAULT_CALIBRATION",
    "UNVERIFIED_FEATURES",
    "VERIFIED_FEATURES",
    "PairEvidence",
    "Scorer",
    "estimate_prior",
    "expand",
    "features",
    "least_score",
    "relation_of",
    "threshold_for_precision",
]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class PairEvidence:
    """All that is known about a pair.

    distance: 1 − cosine of the embeddings, in [0, 2]. hash_bits: Hamming distance of the 256-bit perceptual hashes, the
    least over the eight dihedral forms. geometry: None if the pair was not verified. identical: the same bytes.
    flat: one of the pictures is (nearly) a single colour, so nothing can be concluded. upright: the nearest of the eight
    hash forms is the unturned one. hubness: mean of the two pictures', see `ndd.model.background`.
    """

    distance: float
    hash_bits: int
    geometry: GeometricEvidence | None = None
    identical: bool = False
    flat: bool = False
    upright: bool = True
    hubness: float = 0.0

    @property
    def standout(self) -> float:
        """By how much the two are nearer than they are to strangers anyway, in [-2, 2]."""
        return 1.0 - self.distance - self.hubness


def _cosine(e: PairEvidence, g: GeometricEvidence) -> float:
    return min(max(1.0 - e.distance, 0.0), 1.0)


def _hash(e: PairEvidence, g: GeometricEvidence) -> float:
    # Unrelated pictures differ in 128 bits; the least of eight forms of them in about 105.
    return max(0.0, 1.0 - e.hash_bits / 96.0)


_VERIFIED: Mapping[str, Callable[[PairEvidence, GeometricEvidence], float]] = {
    "inliers": lambda e, g: math.log1p(g.inliers),
    "inlier_ratio": lambda e, g: math.sqrt(g.inlier_ratio),
    "likeness": lambda e, g: g.likeness,
    # Many matches that agree only roughly are what two similar faces have.
    "detail": lambda e, g: g.likeness * math.log1p(g.inliers),
    "agreement": lambda e, g: g.agreement,
    "core": lambda e, g: g.core,
    "explained": lambda e, g: max(g.explained_left, g.explained_right),
    # A caption that two pictures share agrees perfectly and explains little: only both together are worth much.
    "joint": lambda e, g: g.agreement * max(g.explained_left, g.explained_right),
    "cosine": _cosine,
    "standout": lambda e, g: e.standout,
    "hash": _hash,
}
"""Each grows with the evidence for a duplicate."""

VERIFIED_FEATURES = tuple(_VERIFIED)
UNVERIFIED_FEATURES = ("cosine", "standout", "hash")


def features(evidence: PairEvidence) -> Floats:
    """(11,) VERIFIED_FEATURES of a pair with geometry, (3,) UNVERIFIED_FEATURES of one without."""
    geometry = evidence.geometry
    names = UNVERIFIED_FEATURES if geometry is None else VERIFIED_FEATURES
    return np.array([_VERIFIED[name](evidence, geometry or GeometricEvidence()) for name in names], np.float64)


def _verified(evidence: Sequence[PairEvidence]) -> Floats:
    """(P, 11), pair by pair."""
    return np.array([features(e) for e in evidence]).reshape(len(evidence), len(VERIFIED_FEATURES))


def _unverified(evidence: Sequence[PairEvidence]) -> Floats:
    """(P, 3): `features` of pairs without geometry, to the last bit, all at once: there may be a hundred for each picture."""
    distance, bits, hubness = (
        np.array([getattr(e, name) for e in evidence], np.float64) for name in ("distance", "hash_bits", "hubness")
    )
    cosine = np.minimum(np.maximum(1.0 - distance, 0.0), 1.0)
    return np.stack([cosine, 1.0 - distance - hubness, np.maximum(0.0, 1.0 - bits / 96.0)], axis=1)


DEFAULT_CALIBRATION: Mapping[str, Any] = {
    "version": 1,
    "source": "built-in",
    "features": list(VERIFIED_FEATURES),
    "weights": [0.05, 0.7, 0.0, 0.0, 3.6, 8.7, 0.9, 6.9, 1.0, 0.0, 2.0],
    "bias": -11.2,
    "prior": 0.5,
    "unverified": {"features": list(UNVERIFIED_FEATURES), "weights": [12.0, 0.0, 8.0], "bias": -9.0},
}
"""Used where a model directory has no calibration.json: fitted without a descriptor, so it trusts geometry and hash."""

_EPSILON = 1e-9
_DOUBT = 20
_RAMP = re.compile(r"(\w+)\[(-?[\d.]+):(-?[\d.]+)\]")


def expand(values_PF: Floats, names: Sequence[str], of: Sequence[str]) -> Floats:
    """(P, len(of)) columns: a feature by its name in `names`, or `name[low:high]`, which rises from 0 to 1 between the two.

    Sums of such ramps with weights of at least 0 are the rising piecewise linear functions: evidence may count for more in
    one range than in another, and never against. Raises ValueError for a name that is neither.
    """
    columns = []
    for text in of:
        found = _RAMP.fullmatch(text)
        name, low, high = (found[1], float(found[2]), float(found[3])) if found else (text, 0.0, 1.0)
        if name not in names or high <= low:
            raise ValueError(text)
        column = values_PF[:, list(names).index(name)]
        columns.append(np.clip((column - low) / (high - low), 0.0, 1.0) if found else column)
    return np.stack(columns, axis=1) if columns else np.zeros((len(values_PF), 0))


@dataclass(frozen=True, slots=True, eq=False)
class _Additive:
    known: tuple[str, ...]
    names: tuple[str, ...]
    weights: Floats
    bias: float

    @classmethod
    def read(cls, table: Mapping[str, Any], known: Sequence[str], where: str) -> Self:
        try:
            names = tuple(str(name) for name in table["features"])
            weights = np.array([float(w) for w in table["weights"]], np.float64)
            bias = float(table["bias"])
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"{where}: wants features, weights and bias, got {error!r}; fit it again") from None
        if len(names) != len(weights) or not np.isfinite([*weights, bias]).all():
            raise ModelError(
                f"{where}: {len(names)} features and {len(weights)} weights, or a value that is not finite; "
                "fit the calibration again"
            )
        try:
            expand(np.zeros((0, len(known))), known, names)
        except ValueError as error:
            raise ModelError(f"{where}: unknown features ['{error}']; fit the calibration again") from None
        return cls(tuple(known), names, weights, bias)

    def __call__(self, evidence: Sequence[PairEvidence]) -> Floats:
        """(P,) log-odds."""
        values = _unverified(evidence) if self.known == UNVERIFIED_FEATURES else _verified(evidence)
        # Column by column: the sum of one pair must not depend on how many are scored with it.
        total = np.full(len(evidence), self.bias)
        for weight, column in zip(self.weights, expand(values, self.known, self.names).T, strict=True):
            total += weight * column
        return total


@dataclass(frozen=True, slots=True, eq=False, init=False)
class Scorer:
    """P(duplicate | evidence) under `prior`, the assumed share of duplicates among the candidates.

    calibration: the content of calibration.json, or None for DEFAULT_CALIBRATION. Raises ModelError for a damaged one.
    """

    calibration: Mapping[str, Any]
    prior: float
    _verified: _Additive = field(repr=False)
    _unverified: _Additive = field(repr=False)

    def __init__(self, calibration: Mapping[str, Any] | None = None, *, prior: float | None = None) -> None:
        table = DEFAULT_CALIBRATION if calibration is None else calibration
        if table.get("version") != 1:
            raise ModelError(f"calibration: version 1 is understood, got {table.get('version')!r}; fit it again")
        fitted = table.get("prior")
        for value in (fitted, fitted if prior is None else prior):
            if not isinstance(value, float) or not 0.0 < value < 1.0:
                raise ModelError(f"calibration: prior must lie between 0 and 1, got {value!r}; fit it again")
        unverified = table.get("unverified")
        if not isinstance(unverified, Mapping):
            raise ModelError("calibration: the section 'unverified' is missing; fit it again")
        set_ = object.__setattr__
        set_(self, "calibration", table)
        set_(self, "prior", fitted if prior is None else prior)
        set_(self, "_verified", _Additive.read(table, VERIFIED_FEATURES, "calibration"))
        set_(self, "_unverified", _Additive.read(unverified, UNVERIFIED_FEATURES, "calibration.unverified"))

    @property
    def digest(self) -> str:
        """sha256 of the calibration in use; the built-in one has its own."""
        return json_digest(dict(self.calibration))

    def with_prior(self, prior: float) -> Scorer:
        """The same evidence weighed under another share of duplicates."""
        return Scorer(self.calibration, prior=float(prior))

    def score(self, evidence: Sequence[PairEvidence]) -> Floats:
        """(P,) float64 in [0, 1]. Identical bytes score 1; a flat picture that is not identical scores 0."""
        return self.under(self.log_odds(evidence))

    def log_odds(self, evidence: Sequence[PairEvidence]) -> Floats:
        """(P,) of the evidence, whatever the prior; ∞ for identical bytes, −∞ for a flat picture that is not identical."""
        found = np.array([math.inf if e.identical else -math.inf for e in evidence], np.float64)
        open_ = [at for at, e in enumerate(evidence) if not e.identical and not e.flat]
        for linear, seen in ((self._verified, True), (self._unverified, False)):
            rows = [at for at in open_ if (evidence[at].geometry is not None) is seen]
            if rows:
                found[rows] = linear([evidence[at] for at in rows])
        return found

    def under(self, log_odds_P: Floats) -> Floats:
        """(P,) scores under this prior of what `log_odds` said."""
        shift = _logit(self.prior) - _logit(float(self.calibration["prior"]))
        return np.array([_score(odds, shift) for odds in log_odds_P.tolist()], np.float64)


def estimate_prior(scores: npt.ArrayLike, *, prior: float = 0.5) -> float:
    """Share of duplicates among candidates, from their scores under `prior` (EM; Saerens et al. 2002, eq. 2.8).

    Scores of exactly 0 or 1 are facts, not estimates, and are left out. Two imaginary candidates of even odds keep the
    answer sane for a handful of real ones; it lies in [1e-4, .95], and without candidates it is `prior`.
    """
    given = np.asarray(scores, np.float64)
    given = given[(given > 0.0) & (given < 1.0)]
    if not len(given):
        return float(prior)
    logits = np.log(given) - np.log1p(-given) - _logit(prior)
    share = float(prior)
    for _ in range(200):
        adjusted = 1.0 / (1.0 + np.exp(-np.clip(logits + _logit(share), -700.0, 700.0)))
        fresh = min(max((float(adjusted.sum()) + 1.0) / (len(given) + 2.0), 1e-4), 0.95)
        if abs(fresh - share) < 1e-7:
            break
        share = fresh
    return round(share, 6)


def threshold_for_precision(scores: npt.ArrayLike, q: float) -> float:
    """The lowest score t such that the candidates with score ≥ t have mean score ≥ q; ties stand or fall together.

    Where no candidate reaches that, and for no candidates at all, the answer is q, which then accepts none.
    """
    ordered = -np.sort(-np.asarray(scores, np.float64))
    if not len(ordered) or ordered[0] < q:
        return float(q)
    means = np.cumsum(ordered) / np.arange(1, len(ordered) + 1)
    last_of_tie = np.append(ordered[1:] < ordered[:-1], True)
    good = np.flatnonzero(last_of_tie & (means >= q - 1e-12))
    return float(ordered[good[-1]]) if len(good) else float(q)


def least_score(q: float) -> float:
    """The score below which no pair is accepted where a precision of q is wanted, in [.5, 1].

    Where sure pairs abound, the mean would make up for any number of doubtful ones, and the estimate is poorest among those
    (drawings of one hand, say). So a pair may be _DOUBT times as doubtful as the average is to be, and never likelier distinct.
    """
    return max(0.5, 1.0 - _DOUBT * (1.0 - q))


def relation_of(evidence: PairEvidence) -> Relation | None:
    """What the two are to each other if they are duplicates; None where the evidence shows nothing shared."""
    if evidence.identical:
        return Relation.EXACT
    if evidence.flat:
        return None
    geometry = evidence.geometry
    if geometry is None:
        return _relation_unverified(evidence)
    if geometry.transform is None:
        return _relation_unverified(evidence) if evidence.hash_bits <= 40 else None
    if geometry.agreement < 0.3 and max(geometry.explained_left, geometry.explained_right) < 0.2:
        return Relation.SCENE if geometry.inliers >= 8 else None
    return Relation.REENCODED if _same_frame(geometry) else Relation.EDITED


def _relation_unverified(evidence: PairEvidence) -> Relation | None:
    if evidence.upright and evidence.hash_bits <= 8 and evidence.distance <= 0.1:
        return Relation.REENCODED
    return Relation.EDITED if evidence.hash_bits <= 48 or evidence.distance <= 0.5 else None


def _same_frame(geometry: GeometricEvidence) -> bool:
    """Corner to corner, neither turned nor cropped nor recoloured beyond what an encoder does."""
    if geometry.mirrored or geometry.transform is None:
        return False
    h = np.array(geometry.transform)
    corners = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 1.0], [0.0, 1.0, 1.0]])
    moved = corners @ h.T
    drift = np.abs(moved[:, :2] / moved[:, 2:] - corners[:, :2]).max()
    return bool(drift < 0.02 and geometry.agreement > 0.95 and geometry.difference < 0.03)


def _score(odds: float, shift: float) -> float:
    if math.isinf(odds):
        return float(odds > 0)
    return 1.0 / (1.0 + math.exp(-min(max(odds + shift, -40.0), 40.0)))


def _logit(p: float) -> float:
    p = min(max(p, _EPSILON), 1.0 - _EPSILON)
    return math.log(p / (1.0 - p))
