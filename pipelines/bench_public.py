"""The methods on public test pictures whose ground truth nobody of this project made.

Three sets: `hashtools` and `oxford_affine` (edits of a picture, views of a scene), averaged over their groups because
one photograph supplies most of the pairs; `ukbench1000` (an object seen from four sides, relation `scene`), by mAP and by
the N-S score: how many of an object's four pictures are among the first four answers to one of them, itself included
(Nistér, Stewénius 2006, "Scalable Recognition with a Vocabulary Tree"). What a score means under `scene` is learnt on one
half of the objects, by isotonic regression, and everything is reported on the other half.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression

from ndd.errors import UsageError
from ndd.metrics.calibration import expected_calibration_error
from ndd.metrics.pairs import confusion
from ndd.metrics.retrieval import RetrievalResult, ScoreRows, evaluate_groups, recall_at_k
from pipelines.accuracy import open_album
from pipelines.album import Album
from pipelines.bench_methods import check_methods, rankings

__all__ = ["GROUPED", "METHODS", "OBJECTS", "by_group", "halves", "measure", "ns_score", "scene", "table"]

METHODS = ("ndd", "mobilenetv2", "pdq8", "pdq", "phash", "sift", "fastdup")
GROUPED, OBJECTS = ("hashtools", "oxford_affine"), "ukbench1000"
_PRECISION = 0.99
_SCENE = 0.9
"""Precision that a threshold for `scene` is chosen for: sides of an object may show nothing in common."""


def measure(
    data: Path, *, methods: Sequence[str] = METHODS, model: Path | None, work: Path, sets: Sequence[str] = ()
) -> dict[str, Any]:
    """set → images, and method → its figures, as plain JSON values. `data` holds bench/*.tar; raises UsageError."""
    check_methods(methods)
    wanted = tuple(sets) or (*GROUPED, OBJECTS)
    unknown = [name for name in wanted if name not in (*GROUPED, OBJECTS)]
    if unknown:
        raise UsageError(f"public set {', '.join(unknown)}: known are {', '.join((*GROUPED, OBJECTS))}")
    figures: dict[str, Any] = {}
    for name in wanted:
        album = open_album(data / "bench" / f"{name}.tar", data, work=work, seed=0)
        figures[name] = {"images": len(album.images), "groups": len(album.groups()), "methods": {}}
        for method, (rows, facts) in rankings(album, methods, model=model, data=data, work=work):
            result = evaluate_groups(rows, [row.group for row in album.images])
            of = by_group(album, result) if name in GROUPED else _objects(album, rows, result)
            figures[name]["methods"][method] = {**facts, **of}
    return figures


def by_group(album: Album, result: RetrievalResult) -> dict[str, Any]:
    """mAP, and recall where the whole ranking has 99 % precision: of each group, and averaged over the groups."""
    point = result.curve.recall_at_precision(_PRECISION)
    names = np.array([row.group for row in album.images])
    of_pair = names[result.pairs[:, 0]]
    groups = {
        group: {
            "map": float(result.query_ap[names == group].mean()),
            "recall": float((result.pair_scores[of_pair == group] >= point.threshold).mean()) if point.recall else 0.0,
            "pairs": int((of_pair == group).sum()),
        }
        for group in album.groups()
    }
    mean = {figure: float(np.mean([of[figure] for of in groups.values()])) for figure in ("map", "recall")}
    return {**mean, "micro_ap": result.micro_average_precision, "groups": groups}


def ns_score(rows: ScoreRows, groups: Sequence[str]) -> float:
    """Mean number, 1…4, of pictures of the query's group among the first four answers, the query being the first."""
    count = len(groups)
    scores = np.array(rows(0, count), np.float64)
    np.fill_diagonal(scores, -np.inf)
    names = np.asarray(groups)
    same = names[:, None] == names[None, :]
    np.fill_diagonal(same, False)
    return 1.0 + 3.0 * recall_at_k(scores, same, 3)


def halves(groups: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row numbers of every other group, in the order of their names, and of the rest."""
    first = set(sorted(set(groups))[::2])
    mine = np.array([group in first for group in groups])
    return np.flatnonzero(mine), np.flatnonzero(~mine)


def scene(rows: ScoreRows, groups: Sequence[str]) -> dict[str, Any]:
    """Relation `scene`: calibrated on the pairs within one half of the groups, reported on those within the other.

    threshold: the lowest probability at which the first half's pairs have a precision of `_SCENE`; 2 where none has.
    """
    scores = np.asarray(rows(0, len(groups)), np.float64)
    learnt, judged = halves(groups)
    known, known_truth = _pairs_within(scores, groups, learnt)
    fitted = IsotonicRegression(out_of_bounds="clip").fit(known, known_truth)
    found, truth = _pairs_within(scores, groups, judged)
    before, after = (np.clip(fitted.predict(values), 0.0, 1.0) for values in (known, found))
    threshold = _threshold(before, known_truth)
    at = confusion(truth, after, threshold=threshold)
    own, names = scores[np.ix_(judged, judged)].astype(np.float32), [groups[row] for row in judged]
    result = evaluate_groups(lambda start, stop: own[start:stop], names)
    return {
        "images": len(judged),
        "map": result.mean_average_precision,
        "micro_ap": result.micro_average_precision,
        "ns_score": ns_score(lambda start, stop: own[start:stop], names),
        "threshold": threshold,
        "precision": at.precision,
        "recall": at.recall,
        "calibration_error": expected_calibration_error(after, truth),
    }


def _pairs_within(
    scores_NN: NDArray[np.float64], groups: Sequence[str], rows: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    left, right = (rows[at] for at in np.triu_indices(len(rows), 1))
    names = np.asarray(groups)
    return scores_NN[left, right], names[left] == names[right]


def _threshold(scores: NDArray[np.float64], truth: NDArray[np.bool_]) -> float:
    steps = np.unique(scores)
    good = [step for step in steps if truth[scores >= step].mean() >= _SCENE]
    return float(good[0]) if good else 2.0


def _objects(album: Album, rows: ScoreRows, result: RetrievalResult) -> dict[str, Any]:
    groups = [row.group for row in album.images]
    if any(groups.count(group) != 4 for group in set(groups)):
        raise UsageError(f"{album.root.name}: the N-S score wants four pictures of each object")
    return {
        "map": result.mean_average_precision,
        "micro_ap": result.micro_average_precision,
        "ns_score": ns_score(rows, groups),
        "scene": scene(rows, groups),
    }


def table(figures: Mapping[str, Any]) -> str:
    """The figures for people: a table for each set."""
    return "\n\n".join("\n".join(_lines(name, of)) for name, of in figures.items())


def _lines(name: str, figures: Mapping[str, Any]) -> Iterator[str]:
    yield f"{name}: {figures['images']} pictures, {figures['groups']} groups"
    methods = figures["methods"]
    groups = next(iter(methods.values())).get("groups", {})
    heads = ("mAP", "R@P99", *groups) if groups else ("mAP", "µAP", "N-S")
    yield f"{'descriptor':<14}" + "".join(f"{head:>12}" for head in heads)
    for method, of in methods.items():
        if groups:
            values = [of["map"], of["recall"], *(group["map"] for group in of["groups"].values())]
        else:
            values = [of["map"], of["micro_ap"], of["ns_score"]]
        yield f"{method:<14}" + "".join(f"{value:>12.3f}" for value in values)
    if not groups:
        yield f"\n`scene`, calibrated on half of the objects for a precision of {_SCENE}, the other half:"
        heads = ("mAP", "µAP", "N-S", "precision", "recall", "cal. error")
        yield f"{'descriptor':<14}" + "".join(f"{head:>12}" for head in heads)
        for method, of in methods.items():
            names = ("map", "micro_ap", "ns_score", "precision", "recall", "calibration_error")
            yield f"{method:<14}" + "".join(f"{of['scene'][name]:>12.3f}" for name in names)
