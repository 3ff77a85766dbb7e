"""How well a score ranks true pairs before others: AP, mAP, µAP, recall at a stated precision, recall at k.

Pure functions of arrays. A high score means duplicate. **Tie rule**, here and in scikit-learn's
`average_precision_score`: equal scores enter the ranking together, so each gets the precision at the end of its tie.
The figure depends on no order of the input, and a method that scores everything alike gets the base rate, no more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "OperatingPoint",
    "PrecisionRecall",
    "RetrievalResult",
    "ScoreRows",
    "average_precision",
    "evaluate_groups",
    "mean_average_precision",
    "micro_average_precision",
    "precision_recall",
    "recall_at_k",
    "rows_of_pairs",
]

ScoreRows = Callable[[int, int], NDArray[np.float32]]
"""(start, stop) → the scores (stop − start, N) of pictures start…stop−1 against all N."""


def rows_of_pairs(names: Sequence[str], scored: Iterable[tuple[str, str, float]]) -> ScoreRows:
    """Rows of scores from the pairs that a search gave, (left, right, score) with names out of `names`; a pair that it
    did not give scores 0, as it does for whoever uses the search."""
    at = {name: row for row, name in enumerate(names)}
    partners: list[list[tuple[int, float]]] = [[] for _ in at]
    for left, right, score in scored:
        partners[at[left]].append((at[right], score))
        partners[at[right]].append((at[left], score))

    def rows(start: int, stop: int) -> NDArray[np.float32]:
        scores = np.zeros((stop - start, len(at)), np.float32)
        for line, near in zip(scores, partners[start:stop], strict=True):
            for column, score in near:
                line[column] = score
        return scores

    return rows


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """The best recall at a wanted precision; `threshold` is None, and recall 0, where no threshold reaches it."""

    wanted: float
    recall: float
    precision: float
    threshold: float | None


@dataclass(frozen=True)
class PrecisionRecall:
    """Counts at each distinct score of a positive, descending: accepted are the pairs with score ≥ threshold.

    Between two positives' scores precision only falls and recall stays, so no other threshold matters.
    thresholds, true_positives, false_positives: (T,) arrays; positives: the number of positives there are.
    """

    thresholds: NDArray[np.float64]
    true_positives: NDArray[np.int64]
    false_positives: NDArray[np.int64]
    positives: int

    @property
    def precision(self) -> NDArray[np.float64]:
        """(T,) share of true pairs among the accepted."""
        return self.true_positives / (self.true_positives + self.false_positives)

    @property
    def recall(self) -> NDArray[np.float64]:
        """(T,) share of the true pairs that are accepted."""
        return self.true_positives / self.positives

    def average_precision(self) -> float:
        """Σ (R_t − R_{t−1}) P_t over the thresholds, without interpolation."""
        return float(np.sum(np.diff(self.recall, prepend=0.0) * self.precision))

    def recall_at_precision(self, wanted: float) -> OperatingPoint:
        """The lowest threshold with precision ≥ `wanted` (0 < wanted ≤ 1), and the recall there."""
        if not 0.0 < wanted <= 1.0:
            raise ValueError(f"a precision lies in (0, 1], got {wanted}")
        reached = np.flatnonzero(self.precision >= wanted)
        if len(reached) == 0:
            return OperatingPoint(wanted, 0.0, float("nan"), None)
        at = reached[-1]
        return OperatingPoint(wanted, float(self.recall[at]), float(self.precision[at]), float(self.thresholds[at]))


def precision_recall(positives: ArrayLike, negatives: Iterable[ArrayLike]) -> PrecisionRecall:
    """The curve of `positives` (P scores, P ≥ 1) against `negatives`, given in chunks of any size.

    Exact, yet only the positives are held: each chunk is counted against them. Raises ValueError on NaN or without
    a positive.
    """
    ranked = np.sort(_scores(positives, "positives"))
    if len(ranked) == 0:
        raise ValueError("precision and recall want at least one positive pair")
    thresholds = np.unique(ranked)
    hits = len(ranked) - np.searchsorted(ranked, thresholds, side="left")
    counts = np.zeros(len(thresholds) + 1, np.int64)
    for chunk in negatives:
        # How many thresholds a negative reaches: it is a false positive at every one of them.
        reached = np.searchsorted(thresholds, _scores(chunk, "negatives"), side="right")
        counts += np.bincount(reached, minlength=len(counts))
    false = np.cumsum(counts[::-1])[::-1][1:]
    return PrecisionRecall(thresholds[::-1], hits[::-1].astype(np.int64), false[::-1], len(ranked))


def average_precision(scores: ArrayLike, relevant: ArrayLike) -> float:
    """AP of one ranking: `scores` (N,), `relevant` (N,) bool with at least one true."""
    values, flags = _scores(scores, "scores"), np.asarray(relevant, bool)
    if values.shape != flags.shape:
        raise ValueError(f"scores {values.shape} and relevant {flags.shape} differ in shape")
    return precision_recall(values[flags], [values[~flags]]).average_precision()


def mean_average_precision(scores: ArrayLike, relevant: ArrayLike) -> float:
    """Mean of the AP of each query with at least one relevant item; nan if there is none.

    scores, relevant: (Q, N). Rank a query against itself and it answers itself: leave that column out (or score it
    −inf and call it irrelevant).
    """
    values, flags = _scores(scores, "scores"), np.asarray(relevant, bool)
    if values.ndim != 2 or values.shape != flags.shape:
        raise ValueError(f"expected two arrays (Q, N) of one shape, got {values.shape} and {flags.shape}")
    each = [average_precision(row, flag) for row, flag in zip(values, flags, strict=True) if flag.any()]
    return float(np.mean(each)) if each else float("nan")


def micro_average_precision(scores: ArrayLike, labels: ArrayLike) -> float:
    """µAP: the AP of all pairs of all queries in ONE ranking (Perronnin et al. 2009; Douze et al. 2021, DISC21).

    scores, labels: (P,), each unordered pair once, label true for a duplicate.
    """
    return average_precision(scores, labels)


def recall_at_k(scores: ArrayLike, relevant: ArrayLike, k: int) -> float:
    """Mean over queries with relevant items of |relevant ∩ first k| / min(k, |relevant|); nan if there is none.

    scores, relevant: (Q, N). A tie that straddles rank k counts by the share of it that fits: the expectation over
    random orders of the tie.
    """
    values, flags = _scores(scores, "scores"), np.asarray(relevant, bool)
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if values.ndim != 2 or values.shape != flags.shape:
        raise ValueError(f"expected two arrays (Q, N) of one shape, got {values.shape} and {flags.shape}")
    each = [_recall_of_query(row, flag, k) for row, flag in zip(values, flags, strict=True) if flag.any()]
    return float(np.mean(each)) if each else float("nan")


@dataclass(frozen=True)
class RetrievalResult:
    """Every picture ranked against every other one.

    query_ap: (N,) AP of each picture as a query, nan where it has no partner. curve: all unordered pairs together.
    pairs: (P, 2) indexes i < j of the true pairs; pair_scores: (P,) their scores. query_recall: k → (N,) recall at k.
    """

    query_ap: NDArray[np.float64]
    curve: PrecisionRecall
    pairs: NDArray[np.int64]
    pair_scores: NDArray[np.float64]
    query_recall: Mapping[int, NDArray[np.float64]] = field(default_factory=dict)

    @property
    def mean_average_precision(self) -> float:
        """mAP over the pictures that have a partner."""
        return float(np.nanmean(self.query_ap))

    @property
    def micro_average_precision(self) -> float:
        """µAP over all unordered pairs."""
        return self.curve.average_precision()


def evaluate_groups(
    rows: ScoreRows, groups: Sequence[str], *, chunk: int = 256, ks: Sequence[int] = ()
) -> RetrievalResult:
    """Rank all N(N−1)/2 pairs of N pictures, those of one group being the true ones.

    rows: scores of a block of pictures against all, computed as asked for: it is called twice for each block, so
    memory stays at `chunk` × N scores. For a pair i < j, rows' entry [i, j] counts; queries see their whole row but
    themselves. ks: for which k the recall at k is wanted. Raises ValueError if no two pictures share a group, or on NaN scores.
    """
    count = len(groups)
    names = {name: index for index, name in enumerate(dict.fromkeys(groups))}
    labels = np.array([names[name] for name in groups])
    blocks = [(start, min(start + chunk, count)) for start in range(0, count, chunk)]
    query_ap = np.full(count, np.nan)
    query_recall = {k: np.full(count, np.nan) for k in ks}
    pairs, pair_scores = [], []
    for start, stop in blocks:
        scores = _block(rows, start, stop, count)
        same = labels[start:stop, None] == labels[None, :]
        same[np.arange(stop - start), np.arange(start, stop)] = False
        for row in np.flatnonzero(same.any(axis=1)):
            others = np.arange(count) != start + row
            query_ap[start + row] = average_precision(scores[row, others], same[row, others])
            for k, recalls in query_recall.items():
                recalls[start + row] = _recall_of_query(scores[row, others].astype(np.float64), same[row, others], k)
        left, right = np.nonzero(same & _upper(start, stop, count))
        pairs.append(np.column_stack((left + start, right)))
        pair_scores.append(scores[left, right])
    positives = np.concatenate(pair_scores) if pair_scores else np.empty(0)
    if len(positives) == 0:
        raise ValueError("no two pictures share a group: there is nothing to find")
    negatives = (
        _block(rows, start, stop, count)[(labels[start:stop, None] != labels[None, :]) & _upper(start, stop, count)]
        for start, stop in blocks
    )
    curve = precision_recall(positives, negatives)
    found = np.concatenate(pairs).astype(np.int64)
    return RetrievalResult(query_ap, curve, found, positives.astype(np.float64), query_recall)


def _scores(values: ArrayLike, name: str) -> NDArray[np.float64]:
    array = np.asarray(values, np.float64)
    if np.isnan(array).any():
        raise ValueError(f"{name} hold NaN: a pair without a score cannot be ranked")
    return array


def _recall_of_query(scores: NDArray[np.float64], relevant: NDArray[np.bool_], k: int) -> float:
    if k >= len(scores):
        return 1.0
    edge = np.partition(scores, len(scores) - k)[len(scores) - k]
    above, tied = scores > edge, scores == edge
    fits = (k - above.sum()) / tied.sum()
    found = (relevant & above).sum() + fits * (relevant & tied).sum()
    return float(found / min(k, relevant.sum()))


def _block(rows: ScoreRows, start: int, stop: int, count: int) -> NDArray[np.float32]:
    scores = rows(start, stop)
    if scores.shape != (stop - start, count):
        raise ValueError(f"rows({start}, {stop}) gave {scores.shape}, expected {(stop - start, count)}")
    return scores


def _upper(start: int, stop: int, count: int) -> NDArray[np.bool_]:
    upper: NDArray[np.bool_] = np.arange(count)[None, :] > np.arange(start, stop)[:, None]
    return upper
