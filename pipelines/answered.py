"""Pairs that people answered for, as a model sees them now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ndd.detector import Detector
from ndd.errors import DecodeError
from ndd.known import KnownPicture
from ndd.types import Decision, ImageId, Match, Verdict

__all__ = ["Answered", "look_at", "priors_of"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Answered:
    """decisions and, of the same length, what the model says of each. lost: pairs that nothing can be learnt from: a picture
    cannot be read, or is of one colour, which a rule decides and no estimate that could be improved."""

    decisions: Sequence[Decision]
    matches: Sequence[Match]
    lost: int

    @property
    def truth(self) -> npt.NDArray[np.bool_]:
        """(P,) True for duplicates."""
        return np.array([decision.verdict is Verdict.DUPLICATE for decision in self.decisions], np.bool_)

    @property
    def weight(self) -> Floats:
        """(P,) 1 / inclusion probability, of mean 1."""
        weight = np.array([1.0 / decision.p_draw for decision in self.decisions], np.float64)
        return np.asarray(weight / weight.mean() if len(weight) else weight, np.float64)


def look_at(detector: Detector, decisions: Sequence[Decision], uri_of: Mapping[ImageId, str]) -> Answered:
    """Compare the two pictures of every decision. uri_of: where they lie."""
    seen: dict[ImageId, KnownPicture] = {}

    def look(id: ImageId) -> KnownPicture:
        if id not in seen:
            seen[id] = detector.look(uri_of[id])
        return seen[id]

    kept, matches, lost = [], [], 0
    for decision in decisions:
        try:
            left, right = look(decision.left_id), look(decision.right_id)
        except DecodeError:
            lost += 1
            continue
        if left.facts["flat"] or right.facts["flat"]:
            lost += 1
            continue
        kept.append(decision)
        matches.append(detector.match(left, right))
    return Answered(decisions=kept, matches=matches, lost=lost)


def priors_of(answered: Answered, known: Mapping[str, float]) -> Floats:
    """(P,) share of duplicates among the candidates of the search that each pair was drawn from.

    known: pair_id → that share. Where it is not known, the weighted share of duplicates among such pairs stands for it.
    """
    found = np.array([known.get(decision.pair_id, np.nan) for decision in answered.decisions], np.float64)
    other = np.isnan(found)
    truth, weight = answered.truth, answered.weight
    share = (float((weight * truth)[other].sum()) + 1.0) / (float(weight[other].sum()) + 2.0)
    return np.where(other, share, found)
