"""The paper's protocol: balanced labelled pairs, a threshold fixed on other photographs, the same pairs for every method.

Groups are dealt into folds, and every pair lies within one fold, so no photograph is on both sides of a split. To each
duplicate pair comes one of strangers: in turns a random one and a hard one, a nearest non-duplicate of the same picture under
a neutral descriptor that is none of the methods compared. Random strangers alone are told apart by anything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndd.errors import InputError
from ndd.metrics.bootstrap import group_draws, percentile_interval
from ndd.metrics.pairs import Confusion, confusion, roc_auc
from ndd.metrics.retrieval import average_precision
from pipelines.album import Album
from pipelines.evaluate_truth import LabelledPair

__all__ = [
    "FOLDS",
    "VALIDATION",
    "PairSet",
    "best_threshold",
    "draw_pairs",
    "figures",
    "labelled_pairs",
    "scores_by_kind",
]

FOLDS, VALIDATION = 5, 0
"""Folds, and the one on which the threshold of the table is fixed."""
_DRAWS = 200

Rows = NDArray[np.int64]
Scores = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PairSet:
    """P labelled pairs. left, right: pictures of the album; group: number of left's group; fold: 0…FOLDS−1, of both.

    kind: `duplicate`, `random`, `hard`, or `distinct` where the truth gave the pair.
    """

    left: Rows
    right: Rows
    label: NDArray[np.bool_]
    kind: NDArray[Any]
    group: Rows
    fold: Rows

    def __len__(self) -> int:
        return len(self.left)


def draw_pairs(album: Album, neutral: NDArray[np.floating], *, most: int = 1000, seed: int = 0) -> PairSet:
    """At most `most` duplicate pairs, spread evenly over the groups, and as many of strangers. neutral: (N, D), unit length.

    Raises InputError where there are too few groups for the folds.
    """
    group, fold_of = _folds(album, seed)
    rng = np.random.default_rng(seed)
    picked = _duplicates(group, fold_of, most, rng)
    folds = {int(fold_of[group[left]]) for left, _ in picked}
    if len(folds) < FOLDS:
        raise InputError(
            f"{album.root}: {len(album.groups())} groups of copies are too few for {FOLDS} folds of photographs; "
            "give a larger album"
        )
    taken = {frozenset(pair) for pair in picked}
    rows = [(left, right, True, "duplicate") for left, right in picked]
    for at, (left, _) in enumerate(picked):
        pool = np.flatnonzero((fold_of[group] == fold_of[group[left]]) & (group != group[left]))
        pool = rng.permutation(pool) if at % 2 else pool[np.argsort(-(neutral[pool] @ neutral[left]), kind="stable")]
        for other in pool.tolist():
            if frozenset((left, other)) not in taken:
                taken.add(frozenset((left, other)))
                rows.append((left, other, False, "random" if at % 2 else "hard"))
                break
    return _pair_set(rows, group, fold_of)


def labelled_pairs(album: Album, pairs: tuple[LabelledPair, ...], *, seed: int = 0) -> PairSet:
    """The pairs that a table names. A pair of two groups belongs to the fold of its left picture."""
    group, fold_of = _folds(album, seed)
    rows = [(p.left, p.right, p.duplicate, "duplicate" if p.duplicate else "distinct") for p in pairs]
    return _pair_set(rows, group, fold_of)


def best_threshold(labels: NDArray[np.bool_], scores: Scores) -> float:
    """The score with the highest F1 when pairs at or above it are accepted; midway to the next lower score, so that it
    does not sit on one of the pairs it was chosen on. The highest of equally good ones."""
    order = np.argsort(-scores, kind="stable")
    ranked, truth = scores[order], labels[order]
    hits, number = np.cumsum(truth), np.arange(1, len(truth) + 1)
    ends = np.append(np.flatnonzero(np.diff(ranked) != 0), len(ranked) - 1)
    f1 = 2 * hits[ends] / (number[ends] + truth.sum())
    at = int(ends[int(np.argmax(f1))])
    below = ranked[at + 1] if at + 1 < len(ranked) else ranked[at]
    return float((ranked[at] + below) / 2)


def figures(pairs: PairSet, scores: Scores, *, draws: int = _DRAWS, seed: int = 0) -> dict[str, Any]:
    """The paper's measures as plain JSON values: threshold from fold VALIDATION, everything else from the others.

    `folds`: the same with each fold tested in turn at the threshold of all others, mean and standard deviation. map: mean
    over pictures of the AP of their pairs. Raises ValueError on NaN or where scores and pairs differ in number.
    """
    if scores.shape != (len(pairs),) or np.isnan(scores).any():
        bad = np.flatnonzero(np.isnan(scores))
        where = f"pair {int(bad[0])} has none" if len(bad) else f"{scores.shape[0]} of {len(pairs)}"
        raise ValueError(f"every pair needs one score: {where}")
    validation = pairs.fold == VALIDATION
    if not _both(pairs.label[validation]) or not _both(pairs.label[~validation]):
        raise InputError("pairs of both kinds are needed in the validation part and outside of it; give more pairs")
    threshold = best_threshold(pairs.label[validation], scores[validation])
    test = np.flatnonzero(~validation)
    drawn = [_measures(pairs, scores, rows, threshold) for rows in _resampled(pairs.group[test], test, draws, seed)]
    found = _measures(pairs, scores, test, threshold)
    counts = confusion(pairs.label[test], scores[test], threshold=threshold)
    return {
        "threshold": threshold,
        "pairs": {kind: int((pairs.kind[test] == kind).sum()) for kind in dict.fromkeys(pairs.kind.tolist())},
        "confusion": asdict(counts),
        **{name: asdict(percentile_interval(value, [of[name] for of in drawn])) for name, value in found.items()},
        "accepted": {
            str(kind): float((scores[test][pairs.kind[test] == kind] >= threshold).mean())
            for kind in dict.fromkeys(pairs.kind.tolist())
        },
        "folds": _cross(pairs, scores),
    }


def _measures(pairs: PairSet, scores: Scores, rows: Rows, threshold: float) -> dict[str, float]:
    label, score = pairs.label[rows], scores[rows]
    counts: Confusion = confusion(label, score, threshold=threshold)
    return {
        "accuracy": counts.accuracy,
        "precision": counts.precision,
        "recall": counts.recall,
        "f1": counts.f1,
        "roc_auc": roc_auc(label, score),
        "pr_auc": average_precision(score, label) if label.any() else float("nan"),
        "map": _mean_over_pictures(pairs, scores, rows),
    }


def _mean_over_pictures(pairs: PairSet, scores: Scores, rows: Rows) -> float:
    """mAP: every picture that has both kinds of pairs is a query among the pictures it is paired with."""
    ends = np.concatenate((pairs.left[rows], pairs.right[rows]))
    twice = np.concatenate((rows, rows))
    order = np.argsort(ends, kind="stable")
    found = []
    for of in np.split(twice[order], np.flatnonzero(np.diff(ends[order])) + 1):
        label = pairs.label[of]
        if _both(label):
            found.append(_small_ap(scores[of], label))
    return float(np.mean(found)) if found else float("nan")


def _small_ap(scores: Scores, label: NDArray[np.bool_]) -> float:
    """AP of a handful of pairs, equal scores together: that of `average_precision`, without its overhead."""
    own = scores[label]
    reached = scores[None, :] >= own[:, None]
    return float(np.mean((reached & label).sum(axis=1) / reached.sum(axis=1)))


def _cross(pairs: PairSet, scores: Scores) -> dict[str, Any]:
    found = []
    for fold in range(FOLDS):
        test = np.flatnonzero(pairs.fold == fold)
        rest = pairs.fold != fold
        if _both(pairs.label[test]) and _both(pairs.label[rest]):
            found.append(_measures(pairs, scores, test, best_threshold(pairs.label[rest], scores[rest])))
    if not found:
        return {}
    return {
        name: {"mean": float(np.mean([of[name] for of in found])), "sd": float(np.std([of[name] for of in found]))}
        for name in found[0]
    }


def _resampled(group: Rows, rows: Rows, draws: int, seed: int) -> list[Rows]:
    """`rows` with those of each group repeated as often as the group was drawn."""
    names, number = np.unique(group, return_inverse=True)
    return [np.repeat(rows, weights[number]) for weights in group_draws(len(names), draws=draws, seed=seed)]


def _duplicates(group: Rows, fold_of: Rows, most: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Pairs of one group, group by group in turns until there are `most`."""
    queues = []
    for number in range(len(fold_of)):
        members = np.flatnonzero(group == number).tolist()
        pairs = [(a, b) for at, a in enumerate(members) for b in members[at + 1 :]]
        if pairs:
            queues.append([pairs[k] for k in rng.permutation(len(pairs))])
    queues = [queues[k] for k in rng.permutation(len(queues))]
    picked: list[tuple[int, int]] = []
    turn = 0
    while len(picked) < most and any(turn < len(queue) for queue in queues):
        picked += [queue[turn] for queue in queues if turn < len(queue)]
        turn += 1
    return picked[:most]


def _pair_set(rows: list[tuple[int, int, bool, str]], group: Rows, fold_of: Rows) -> PairSet:
    left = np.array([row[0] for row in rows], np.int64)
    right = np.array([row[1] for row in rows], np.int64)
    label = np.array([row[2] for row in rows], np.bool_)
    kind = np.array([row[3] for row in rows])
    return PairSet(left, right, label, kind, group[left], fold_of[group[left]])


def _folds(album: Album, seed: int) -> tuple[Rows, Rows]:
    """Number of each picture's group, and the fold of each group: dealt out in turns, those with copies for themselves."""
    sizes: dict[str, int] = {}
    for row in album.images:
        sizes[row.group] = sizes.get(row.group, 0) + 1
    number = {name: at for at, name in enumerate(sizes)}
    fold_of = np.zeros(len(sizes), np.int64)
    for shared in (True, False):
        names = [name for name, size in sizes.items() if (size > 1) is shared]
        for turn, name in enumerate(
            sorted(names, key=lambda name: hashlib.sha256(f"{seed}\n{name}".encode()).digest())
        ):
            fold_of[number[name]] = turn % FOLDS
    return np.array([number[row.group] for row in album.images], np.int64), fold_of


def _both(label: NDArray[np.bool_]) -> bool:
    return bool(label.any() and not label.all())


def scores_by_kind(pairs: PairSet, scores: Scores) -> Mapping[str, Scores]:
    """kind → its scores, for histograms."""
    return {str(kind): scores[pairs.kind == kind] for kind in dict.fromkeys(pairs.kind.tolist())}
