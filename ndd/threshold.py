"""The score from which pairs are accepted, from a person's own answers: at a stated precision, or not at all.

Only answers to pairs drawn at random for an audit count: pairs chosen because they were doubtful, or because somebody came
across them, say nothing of the rest. Each counts by 1/p, p the probability with which it was drawn (Horvitz & Thompson
1952), so the audit may look harder where the score is doubtful. The interval is the binomial one at the effective sample
size of the weights (Korn & Graubard 1998), divided among the thresholds looked at (Bonferroni), so choosing among them costs
nothing of the confidence. An answer `unsure` counts as not a duplicate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ndd.errors import UsageError
from ndd.metrics.intervals import Interval, binomial_interval, incomplete_beta

__all__ = ["LADDER", "AuditLabel", "Choice", "choose", "precision_at", "sample_needed"]

LADDER = (0.5, 0.7, 0.9, 0.97)
"""Thresholds looked at beside the old one. Fixed beforehand: chosen by the answers, they would flatter themselves."""
_ENOUGH = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditLabel:
    """One answered pair of an audit. score: of this run. p_draw: inclusion probability in (0, 1]."""

    score: float
    duplicate: bool
    p_draw: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.score <= 1.0:
            raise ValueError(f"a score lies in 0…1, got {self.score!r}")
        if not 0.0 < self.p_draw <= 1.0:
            raise ValueError(f"an inclusion probability lies in (0, 1], got {self.p_draw!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """threshold: to accept from. changed: False where the old one was kept. precision: at `threshold`, with its interval.

    labels: how many answers lie at or above it; missing: how many more are needed to reach the target somewhere, 0 if it is
    reached, None if no number would do (the precision seems to be below the target everywhere).
    """

    threshold: float
    changed: bool
    reached: bool
    precision: Interval
    labels: int
    missing: int | None


def choose(labels: Sequence[AuditLabel], *, precision: float, old: float, confidence: float = 0.95) -> Choice:
    """The lowest threshold whose precision is at least `precision` with the stated confidence; else the old one.

    Raises UsageError for a precision or confidence outside (0, 1).
    """
    for name, value in (("precision", precision), ("confidence", confidence)):
        if not 0.0 < value < 1.0:
            raise UsageError(f"{name} must lie between 0 and 1, got {value}")
    rungs = sorted({old, *LADDER})
    each = 1.0 - (1.0 - confidence) / len(rungs)
    for threshold in rungs:
        interval, _ = precision_at(labels, threshold, confidence=each)
        if interval.low >= precision:
            count = sum(label.score >= threshold for label in labels)
            return Choice(
                threshold=threshold,
                changed=threshold != old,
                reached=True,
                precision=interval,
                labels=count,
                missing=0,
            )
    interval, _ = precision_at(labels, old, confidence=each)
    needed = [_missing(labels, threshold, precision, each) for threshold in rungs]
    return Choice(
        threshold=old,
        changed=False,
        reached=False,
        precision=interval,
        labels=sum(label.score >= old for label in labels),
        missing=min((count for count in needed if count is not None), default=None),
    )


def precision_at(labels: Sequence[AuditLabel], threshold: float, *, confidence: float) -> tuple[Interval, float]:
    """Precision of the pairs with score ≥ threshold with its two-sided interval, and the effective number of answers.

    nan in [0, 1], and 0, where no answer lies there.
    """
    mine = [label for label in labels if label.score >= threshold]
    if not mine:
        return Interval(float("nan"), 0.0, 1.0), 0.0
    weights = 1.0 / np.array([label.p_draw for label in mine])
    truth = np.array([label.duplicate for label in mine], np.float64)
    share = float((weights * truth).sum() / weights.sum())
    effective = _effective(weights, truth, share)
    interval = binomial_interval(min(share, 1.0) * effective, effective, confidence=confidence)
    return Interval(share, interval.low, interval.high), effective


def sample_needed(share: float, precision: float, *, confidence: float) -> int | None:
    """Smallest sample in which a share of `share` has a lower limit of at least `precision`; None if there is none."""
    if share <= precision:
        return None
    tail = (1.0 - confidence) / 2.0

    def proved(count: int) -> bool:
        # The lower limit is at least `precision` if Beta's mass below it is at most the tail: one evaluation, no search.
        hits = share * count
        return incomplete_beta(hits, count - hits + 1.0, precision) <= tail

    low, high = 0, 1
    while not proved(high):
        low, high = high, 2 * high
        if high > _ENOUGH:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if proved(middle) else (middle, high)
    return high


def _missing(labels: Sequence[AuditLabel], threshold: float, precision: float, confidence: float) -> int | None:
    """How many more answers at or above the threshold would do, if they went on as they have so far."""
    interval, effective = precision_at(labels, threshold, confidence=confidence)
    share = 1.0 if np.isnan(interval.value) else interval.value
    wanted = sample_needed(share, precision, confidence=confidence)
    if wanted is None:
        return None
    count = sum(label.score >= threshold for label in labels)
    worth = effective / count if count else 1.0  # of one answer, given how unequal the weights are
    return max(1, int(np.ceil(wanted / worth)) - count)


def _effective(weights: NDArray[np.float64], truth: NDArray[np.float64], share: float) -> float:
    """Answers that an equal draw would have needed for the same certainty: by the weights alone (Kish 1965), and by how the
    answers vary with them; the smaller one."""
    by_weights = float(weights.sum() ** 2 / (weights**2).sum())
    count = len(weights)
    if count < 2 or not 0.0 < share < 1.0:
        return by_weights
    variance = count / (count - 1) * float((weights**2 * (truth - share) ** 2).sum()) / float(weights.sum()) ** 2
    return min(by_weights, share * (1.0 - share) / variance, float(count))
