"""What can be kept of half a billion stranger pairs in bounded memory: a histogram, the order against the positives, the
highest ones.

Shapes: N pictures, P positives. Nothing N × N is ever held: scores come block by block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ndd.metrics.retrieval import ScoreRows

__all__ = ["Strangers", "count_strangers"]


@dataclass(frozen=True, eq=False)
class Strangers:
    """All pairs of different groups, summed up.

    pairs: how many. roc_auc: P(a positive scores higher than a stranger pair), ties counting half. histogram: counts between
    edges. scores, left, right: the highest ones, descending, as (M,) arrays with the pictures' numbers.
    """

    pairs: int
    roc_auc: float
    edges: NDArray[np.float64]
    histogram: NDArray[np.int64]
    scores: NDArray[np.float64]
    left: NDArray[np.int64]
    right: NDArray[np.int64]


def count_strangers(
    rows: ScoreRows,
    groups: Sequence[str],
    positives: NDArray[np.float64],
    *,
    edges: NDArray[np.float64],
    most: int = 20_000,
    chunk: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> Strangers:
    """Go once through all pairs i < j of different groups. rows: see `evaluate_groups`; positives (P,): their scores.

    edges: of the histogram, ascending; scores outside count in the first or last bin. most: how many of the highest are kept.
    Raises ValueError on NaN.
    """
    names = {name: at for at, name in enumerate(dict.fromkeys(groups))}
    labels = np.array([names[name] for name in groups])
    ranked, count = np.sort(positives), len(labels)
    kept: list[NDArray[np.float64]] = [np.empty((3, 0))]
    histogram, wins, pairs, floor = np.zeros(len(edges) - 1, np.int64), 0.0, 0, -np.inf
    for start in range(0, count, chunk):
        stop = min(start + chunk, count)
        scores = rows(start, stop)
        right = np.arange(count)
        mask = (labels[start:stop, None] != labels[None, :]) & (right[None, :] > np.arange(start, stop)[:, None])
        values = scores[mask].astype(np.float64)
        if np.isnan(values).any():
            raise ValueError(
                f"the scores of pictures {start}…{stop - 1} hold NaN: a pair without a score cannot be ranked"
            )
        pairs += len(values)
        above = np.searchsorted(ranked, values, side="right")
        wins += float((2 * len(ranked) - above - np.searchsorted(ranked, values, side="left")).sum())
        bins = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(histogram) - 1)
        histogram += np.bincount(bins, minlength=len(histogram))
        high = np.flatnonzero(values > floor)
        i, j = np.nonzero(mask)
        kept.append(np.stack((values[high], (i[high] + start).astype(np.float64), j[high].astype(np.float64))))
        kept, floor = _highest(kept, most)
        if progress is not None:
            progress(stop, count)
    best = kept[0]
    auc = wins / (2.0 * len(ranked) * pairs) if pairs and len(ranked) else float("nan")
    return Strangers(pairs, auc, edges, histogram, best[0], best[1].astype(np.int64), best[2].astype(np.int64))


def _highest(parts: list[NDArray[np.float64]], most: int) -> tuple[list[NDArray[np.float64]], float]:
    """The `most` highest of all parts, by (score, left, right), and the score below which nothing can get in any more."""
    joined = np.concatenate(parts, axis=1)
    order = np.lexsort((joined[2], joined[1], -joined[0]))[:most]
    best = joined[:, order]
    return [best], float(best[0, -1]) if best.shape[1] == most else -np.inf
