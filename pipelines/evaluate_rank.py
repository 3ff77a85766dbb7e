"""A ranking of all pairs of an album, and what it is worth: overall, by edit family, by severity, with intervals.

All N(N−1)/2 pairs are ranked, but never held at once: scores come in blocks. Intervals are 95 % percentiles of a bootstrap
over groups, the same draws for every ranking of an album.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndd.metrics.bootstrap import WeightedRanking, group_draws, percentile_interval, weighted_mean
from ndd.metrics.intervals import Interval, per_million_images
from ndd.metrics.retrieval import RetrievalResult, ScoreRows, evaluate_groups
from ndd.metrics.strangers import Strangers, count_strangers
from pipelines.album import ORIGINAL, Album

__all__ = ["DRAWS", "KS", "PRECISIONS", "SEVERITIES", "Ranked", "family_of_pairs", "figures", "rank"]

PRECISIONS = (0.9, 0.99, 0.999)
KS = (1, 5, 10)
SEVERITIES = {"weak": (0.0, 1 / 3), "medium": (1 / 3, 2 / 3), "strong": (2 / 3, 1.0)}
DRAWS = 200
_BINS = 80

Values = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Ranked:
    """What was counted. labels (N,): number of each picture's group; draws (B, G): the bootstrap's."""

    album: Album
    labels: NDArray[np.int64]
    result: RetrievalResult
    strangers: Strangers
    draws: NDArray[np.int64]

    @property
    def families(self) -> NDArray[Any]:
        """(N,) edit family of each picture."""
        return np.array([row.family for row in self.album.images])

    def weighted(self) -> WeightedRanking:
        """The ranking, ready for weights of the groups."""
        of_pair = self.labels[self.result.pairs[:, 0]]
        near = self.strangers
        return WeightedRanking.of(
            (self.result.pair_scores, of_pair), (near.scores, self.labels[near.left], self.labels[near.right])
        )


def rank(
    album: Album,
    rows: ScoreRows,
    *,
    low: float = -1.0,
    seed: int = 0,
    draws: int = DRAWS,
    progress: Callable[[int, int], None] | None = None,
) -> Ranked:
    """Rank all pairs. rows: see `ndd.metrics.retrieval.evaluate_groups`; low: the lowest score there can be (highest: 1)."""
    groups = [row.group for row in album.images]
    names = {name: at for at, name in enumerate(dict.fromkeys(groups))}
    result = evaluate_groups(rows, groups, ks=KS)
    edges = np.linspace(low, 1.0, _BINS + 1)
    strangers = count_strangers(rows, groups, result.pair_scores, edges=edges, progress=progress)
    labels = np.array([names[name] for name in groups], np.int64)
    return Ranked(album, labels, result, strangers, group_draws(len(names), draws=draws, seed=seed))


def figures(ranked: Ranked) -> dict[str, Any]:
    """The figures as plain JSON values; an interval is {value, low, high}."""
    result, strangers = ranked.result, ranked.strangers
    points = [result.curve.recall_at_precision(wanted) for wanted in PRECISIONS]
    drawn = np.array(_drawn(ranked))
    reached = [point for point in points if point.threshold is not None]
    return {
        "map": _interval(_mean_ap(ranked)),
        "micro_ap": asdict(percentile_interval(result.micro_average_precision, drawn[:, 0])),
        "pr_auc": result.micro_average_precision,
        "roc_auc": strangers.roc_auc,
        "recall_at_k": {str(k): float(np.nanmean(result.query_recall[k])) for k in KS},
        "recall_at_precision": {
            str(point.wanted): {
                **asdict(percentile_interval(point.recall, drawn[:, 1 + at])),
                "threshold": point.threshold,
            }
            for at, point in enumerate(points)
        },
        "false_pairs_per_million_images": {
            str(point.wanted): {
                **asdict(per_million_images(_false_at(ranked, point.threshold), strangers.pairs)),
                "false": _false_at(ranked, point.threshold),
                "strangers": strangers.pairs,
            }
            for point in reached
            if point.threshold is not None
        },
        "families": _families(ranked, points[1].threshold),
    }


def family_of_pairs(album: Album, pairs: NDArray[np.int64]) -> NDArray[Any]:
    """(P,) family of the copy in each (original, copy) pair; empty text for all other pairs."""
    families = np.array([row.family for row in album.images])
    left, right = families[pairs[:, 0]], families[pairs[:, 1]]
    return np.where(left == ORIGINAL, right, np.where(right == ORIGINAL, left, ""))


def _false_at(ranked: Ranked, threshold: float | None) -> int:
    if threshold is None:
        return 0
    curve = ranked.result.curve
    return int(curve.false_positives[np.flatnonzero(curve.thresholds >= threshold)[-1]])


def _drawn(ranked: Ranked) -> list[list[float]]:
    """For each draw: µAP, then recall at each of PRECISIONS."""
    ranking = ranked.weighted()
    found = []
    for weights in ranked.draws:
        micro, recalls, _, _ = ranking.figures(weights, precisions=PRECISIONS)
        found.append([micro, *recalls])
    return found


def _mean_ap(ranked: Ranked, rows: NDArray[np.bool_] | None = None) -> Interval:
    values = ranked.result.query_ap if rows is None else np.where(rows, ranked.result.query_ap, np.nan)
    return percentile_interval(float(np.nanmean(values)), weighted_mean(values, ranked.labels, ranked.draws))


def _families(ranked: Ranked, threshold: float | None) -> dict[str, Any]:
    """Family → AP of its copies as queries and recall of its (original, copy) pairs, all and by severity."""
    of_pair = family_of_pairs(ranked.album, ranked.result.pairs)
    severity = np.array([np.nan if row.severity is None else row.severity for row in ranked.album.images])
    pair_severity = np.fmax(severity[ranked.result.pairs[:, 0]], severity[ranked.result.pairs[:, 1]])
    found: dict[str, Any] = {}
    for family in sorted({str(name) for name in of_pair if name}):
        mine = of_pair == family
        by_severity = {
            name: _recall(ranked, mine & _between(pair_severity, span), threshold)
            for name, span in SEVERITIES.items()
            if (mine & _between(pair_severity, span)).any()
        }
        found[family] = {
            "copies": int(mine.sum()),
            "map": _interval(_mean_ap(ranked, ranked.families == family)),
            "recall": _recall(ranked, mine, threshold),
            "severity": by_severity,
        }
    return found


def _recall(ranked: Ranked, rows: NDArray[np.bool_], threshold: float | None) -> dict[str, Any]:
    """Share of the pairs of `rows` (P,) at or above the threshold."""
    caught = ranked.result.pair_scores >= threshold if threshold is not None else np.zeros(len(rows), np.bool_)
    values = np.where(rows, caught.astype(np.float64), np.nan)
    drawn = weighted_mean(values, ranked.labels[ranked.result.pairs[:, 0]], ranked.draws)
    return {**asdict(percentile_interval(float(np.nanmean(values)), drawn)), "pairs": int(rows.sum())}


def _between(values: Values, span: Sequence[float]) -> NDArray[np.bool_]:
    inside: NDArray[np.bool_] = (values >= span[0]) & ((values < span[1]) | (span[1] == 1.0))
    return inside


def _interval(interval: Interval) -> Mapping[str, float]:
    return asdict(interval)
