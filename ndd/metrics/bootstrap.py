"""How much a figure depends on the photographs it was taken on: the bootstrap by group.

Pairs of one photograph's copies stand and fall together, so groups are drawn with replacement, not pairs: drawing pairs would
give intervals several times too short. A stranger pair lies between two groups and counts by the product of their draws
(the two-way bootstrap of Owen 2007, "The pigeonhole bootstrap"). Shapes: B draws, G groups, P positives, M negatives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ndd.metrics.intervals import Interval

__all__ = ["WeightedRanking", "group_draws", "percentile_interval", "weighted_mean"]

Counts = NDArray[np.int64]


def group_draws(groups: int, *, draws: int, seed: int) -> Counts:
    """(B, G) how often each group was drawn: G draws with replacement in every line. The same seed gives the same lines,
    so two models measured on one album can be compared draw by draw."""
    if groups < 1 or draws < 1:
        raise ValueError(f"wants at least one group and one draw, got {groups} and {draws}")
    rng = np.random.default_rng(seed)
    return rng.multinomial(groups, np.full(groups, 1.0 / groups), size=draws).astype(np.int64)


def percentile_interval(value: float, drawn: ArrayLike, *, confidence: float = 0.95) -> Interval:
    """`value` with the percentiles of its bootstrap draws (Efron 1979); draws that are nan (nothing to count) are left out."""
    values = np.asarray(drawn, np.float64)
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return Interval(value, float("nan"), float("nan"))
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(values, [tail, 1.0 - tail])
    return Interval(value, float(low), float(high))


def weighted_mean(values: NDArray[np.float64], groups: Counts, draws: Counts) -> NDArray[np.float64]:
    """(B,) mean of values (n,) that belong to groups (n,), each counted as often as its group was drawn. nan values are
    left out; nan where nothing is left."""
    known = np.isfinite(values)
    weights = draws[:, groups[known]]
    with np.errstate(invalid="ignore"):
        result: NDArray[np.float64] = (weights @ values[known]) / weights.sum(axis=1)
    return result


@dataclass(frozen=True, eq=False)
class WeightedRanking:
    """A ranking of positive and negative pairs whose figures can be computed for any weights of the groups.

    scores (P + M,) descending; positive (P + M,); left, right (P + M,) the groups of the pair's ends, equal for a positive.
    last (P + M,): the end of the tie that an entry belongs to; equal scores enter together.
    """

    scores: NDArray[np.float64]
    positive: NDArray[np.bool_]
    left: Counts
    right: Counts
    last: Counts

    @classmethod
    def of(
        cls,
        positives: tuple[NDArray[np.float64], Counts],
        negatives: tuple[NDArray[np.float64], Counts, Counts],
    ) -> WeightedRanking:
        """positives: scores and group of each. negatives: scores and the two groups of each, the highest M there are."""
        scores = np.concatenate((positives[0], negatives[0]))
        positive = np.arange(len(scores)) < len(positives[0])
        left = np.concatenate((positives[1], negatives[1]))
        right = np.concatenate((positives[1], negatives[2]))
        order = np.argsort(-scores, kind="stable")
        ranked = scores[order]
        last = np.searchsorted(-ranked, -ranked, side="right") - 1
        return cls(ranked, positive[order], left[order], right[order], last)

    def figures(
        self, weights: Counts, *, precisions: Sequence[float] = (), thresholds: Sequence[float] = ()
    ) -> tuple[float, list[float], list[float], list[float]]:
        """For weights (G,) of the groups: µAP, recall at each precision, and at each threshold the (weighted) recall and
        number of accepted strangers. nan where no positive was drawn."""
        each, hits, false = self._counted(weights)
        total = int(hits[-1]) if len(hits) else 0
        if total == 0:
            nothing = float("nan")
            return nothing, [nothing] * len(precisions), [nothing] * len(thresholds), [nothing] * len(thresholds)
        precision = hits / np.maximum(hits + false, 1)
        micro = float((each * precision)[self.positive].sum() / total)
        recalls = []
        for wanted in precisions:
            reached = np.flatnonzero((precision >= wanted) & (hits > 0))
            recalls.append(float(hits[reached].max() / total) if len(reached) else 0.0)
        ends = [int(np.searchsorted(-self.scores, -t, side="right")) - 1 for t in thresholds]
        caught = [float(hits[end] / total) if end >= 0 else 0.0 for end in ends]
        wrong = [float(false[end]) if end >= 0 else 0.0 for end in ends]
        return micro, recalls, caught, wrong

    def false_at_recall(self, weights: Counts, recall: float) -> float:
        """For weights (G,) of the groups: the (weighted) strangers accepted by the highest threshold that finds `recall`
        of the positives. nan where no positive was drawn."""
        _, hits, false = self._counted(weights)
        total = int(hits[-1]) if len(hits) else 0
        if total == 0:
            return float("nan")
        # A recall is a quotient of such counts: half a count is nearer than any other.
        return float(false[int(np.flatnonzero(hits >= recall * total - 0.5)[0])])

    def _counted(self, weights: Counts) -> tuple[Counts, Counts, Counts]:
        """(P + M,) what each entry counts, and the positives and strangers accepted down to it."""
        of_left = weights[self.left]
        each = np.where(self.positive, of_left, of_left * weights[self.right])
        hits = np.cumsum(np.where(self.positive, each, 0))[self.last]
        false = np.cumsum(np.where(self.positive, 0, each))[self.last]
        return each, hits, false
