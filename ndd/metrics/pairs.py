"""How right decisions about pairs are: confusion, precision, recall, F1, AUC, and the same for groups.

The positive class is *duplicate*. Pure functions of arrays and of sets of pairs.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable
from dataclasses import dataclass
from itertools import combinations
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Confusion", "compare_pairs", "confusion", "pairs_of_groups", "roc_auc"]

Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True, slots=True, kw_only=True)
class Confusion:
    """Counts of decided pairs, and the ratios that follow. A ratio of nothing (0/0) is nan, never a flattering 1."""

    true_positive: int
    false_positive: int
    false_negative: int
    true_negative: int

    @property
    def precision(self) -> float:
        """Share of true pairs among the accepted."""
        return _ratio(self.true_positive, self.true_positive + self.false_positive)

    @property
    def recall(self) -> float:
        """Share of accepted pairs among the true."""
        return _ratio(self.true_positive, self.true_positive + self.false_negative)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall: 2TP / (2TP + FP + FN)."""
        return _ratio(2 * self.true_positive, 2 * self.true_positive + self.false_positive + self.false_negative)

    @property
    def false_positive_rate(self) -> float:
        """Share of accepted pairs among the different."""
        return _ratio(self.false_positive, self.false_positive + self.true_negative)

    @property
    def accuracy(self) -> float:
        """Share of right decisions; says little where true pairs are rare."""
        right = self.true_positive + self.true_negative
        return _ratio(right, right + self.false_positive + self.false_negative)


def confusion(labels: ArrayLike, scores: ArrayLike, *, threshold: float) -> Confusion:
    """Counts when the pairs with score ≥ `threshold` are accepted. labels (P,) true for duplicate, scores (P,)."""
    truth, values = _labelled(labels, scores)
    accepted = values >= threshold
    return Confusion(
        true_positive=int((accepted & truth).sum()),
        false_positive=int((accepted & ~truth).sum()),
        false_negative=int((~accepted & truth).sum()),
        true_negative=int((~accepted & ~truth).sum()),
    )


def roc_auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve: P(score of a duplicate > of another pair), ties counting half (Mann & Whitney 1947).

    nan if one of the two classes is absent.
    """
    truth, values = _labelled(labels, scores)
    positives, negatives = values[truth], np.sort(values[~truth])
    if len(positives) == 0 or len(negatives) == 0:
        return float("nan")
    below = np.searchsorted(negatives, positives, side="left")
    not_above = np.searchsorted(negatives, positives, side="right")
    return float((below + not_above).sum() / (2.0 * len(positives) * len(negatives)))


def compare_pairs(
    predicted: Iterable[tuple[Name, Name]], true: Iterable[tuple[Name, Name]], *, images: int
) -> Confusion:
    """Accepted pairs against the true ones among `images` pictures; (a, b) and (b, a) are one pair.

    Raises ValueError if a pair occurs twice on one side or joins a picture to itself: counted silently, such a table
    would flatter or punish itself.
    """
    found, wanted = _unordered(predicted, "predicted"), _unordered(true, "true")
    both = len(found & wanted)
    everything = images * (images - 1) // 2
    union = len(found) + len(wanted) - both
    if union > everything:
        raise ValueError(f"{images} pictures have {everything} pairs, but {union} different pairs are named")
    return Confusion(
        true_positive=both,
        false_positive=len(found) - both,
        false_negative=len(wanted) - both,
        true_negative=everything - union,
    )


def pairs_of_groups(groups: Iterable[Collection[Name]]) -> list[tuple[Name, Name]]:
    """Every pair inside a group, in the order of its members; raises ValueError if a picture is in two groups."""
    seen: set[Name] = set()
    pairs: list[tuple[Name, Name]] = []
    for group in groups:
        for name in group:
            if name in seen:
                raise ValueError(f"{name!r} is in two groups, or twice in one")
            seen.add(name)
        pairs.extend(combinations(group, 2))
    return pairs


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


def _labelled(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    truth, values = np.asarray(labels, bool), np.asarray(scores, np.float64)
    if truth.ndim != 1 or truth.shape != values.shape:
        raise ValueError(f"expected two arrays (P,) of one length, got {truth.shape} and {values.shape}")
    if np.isnan(values).any():
        raise ValueError("scores hold NaN: a pair without a score cannot be judged")
    return truth, values


def _unordered(pairs: Iterable[tuple[Name, Name]], side: str) -> set[frozenset[Name]]:
    seen: set[frozenset[Name]] = set()
    for a, b in pairs:
        pair = frozenset((a, b))
        if len(pair) < 2:
            raise ValueError(f"{side}: {a!r} is paired with itself")
        if pair in seen:
            raise ValueError(f"{side}: the pair {a!r}, {b!r} occurs twice")
        seen.add(pair)
    return seen
