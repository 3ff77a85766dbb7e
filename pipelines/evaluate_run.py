"""One evaluation: what is measured, in which order, and what is said of it. The figures are plain JSON values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndd.errors import InputError
from ndd.find import Runner
from ndd.metrics.calibration import Reliability, reliability
from ndd.metrics.intervals import per_million_images
from ndd.metrics.retrieval import rows_of_pairs
from ndd.model.directory import ModelDirectory, describe
from ndd.tables import PairRow
from ndd.types import Failure
from pipelines import evaluate_pairs
from pipelines.album import Album
from pipelines.bench_find import judge
from pipelines.bench_methods import standout_rows
from pipelines.evaluate_embed import Embedded, Searched, embed_album, search_album, teller
from pipelines.evaluate_methods import neutral_vectors, rivals, standout_pairs, whole_detector
from pipelines.evaluate_pairs import PairSet, draw_pairs, labelled_pairs
from pipelines.evaluate_rank import Ranked, figures, rank
from pipelines.evaluate_truth import Truth

__all__ = ["CHAMPION", "WHOLE", "Evaluation", "Plan", "evaluate"]

CHAMPION, WHOLE = "CNN + STN: the model's descriptor", "ndd as a whole: descriptor, then verification"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to evaluate, on what. compare: name → model directory of further rows. data: folder with the neutral
    descriptor's weights. most: duplicate pairs in the paper's protocol, at most."""

    model: Path
    truth: Truth
    work: Path
    compare: Mapping[str, Path] = field(default_factory=dict)
    data: Path | None = None
    search: bool = True
    most: int = 1000
    seed: int = 0


@dataclass(eq=False, kw_only=True)
class Evaluation:
    """What was found, and what the pictures are drawn from. ranked: name → ranking; scores: method → scores of `pairs`."""

    plan: Plan
    album: Album
    model: ModelDirectory
    vectors: NDArray[np.float32]
    failures: list[Failure]
    metrics: dict[str, Any]
    ranked: dict[str, Ranked] = field(default_factory=dict)
    searched: Searched | None = None
    reliability: Reliability | None = None
    pairs: PairSet | None = None
    scores: dict[str, NDArray[np.float64]] = field(default_factory=dict)


def evaluate(plan: Plan, runner: Runner) -> Evaluation:
    """Measure everything but the suites. Raises InputError, NothingReadable, ModelError."""
    held = embed_album(plan.truth.album, plan.model, plan.work, runner)
    found = _begin(plan, held)
    if plan.truth.pairs is None:
        _ranking(found, "descriptor", standout_rows(held.vectors, found.model), low=-2.0)
        if plan.search:
            _search(found, runner)
    elif held.failures:
        raise InputError(f"{held.failures[0].path}: {held.failures[0].reason}; a labelled pair needs both pictures")
    _table(found, runner)
    return found


def _begin(plan: Plan, held: Embedded) -> Evaluation:
    album, said = held.album, describe(plan.model)
    groups = album.groups()
    facts = {
        "images": len(album.images),
        "groups": len(groups),
        "pairs": sum(len(images) * (len(images) - 1) // 2 for images in groups.values()),
        "name": album.root.name,
        "digest": album.digest(),
        "unreadable": [asdict(failure) for failure in held.failures],
    }
    model = {
        "name": said.card.get("name", said.directory.name),
        "embedding_digest": said.embedding_digest,
        "scorer_digest": said.scorer_digest,
        "config": said.config.to_dict(),
        "runtime": "torch, fp32" if said.runtime is None else f"{said.runtime.engine}, {said.runtime.precision}",
    }
    return Evaluation(
        plan=plan,
        album=album,
        model=said,
        vectors=held.vectors,
        failures=list(held.failures),
        metrics={"album": facts, "model": model},
    )


def _ranking(found: Evaluation, name: str, rows: Any, *, low: float) -> None:
    ranked = rank(found.album, rows, low=low, seed=found.plan.seed, progress=teller(f"rank by {name}"))
    found.ranked[name] = ranked
    found.metrics[name] = figures(ranked)


def _search(found: Evaluation, runner: Runner) -> None:
    """The whole search: its ranking, what it accepts, its groups, and whether its probabilities hold."""
    searched = search_album(found.album, found.plan.model, found.plan.work, runner)
    found.searched = searched
    scored = ((pair.left, pair.right, pair.score) for pair in searched.pairs)
    names = [image.image for image in found.album.images]
    _ranking(found, "search", rows_of_pairs(names, scored), low=0.0)
    named = [_short(row) for row in searched.pairs]
    groups = [replace(row, path=row.path.removeprefix("images/")) for row in searched.groups]
    judged = judge(found.album, named, groups)
    truth = {row.image: row.group for row in found.album.images}
    labels = [truth[row.left] == truth[row.right] for row in searched.pairs]
    found.reliability = reliability([row.score for row in searched.pairs], labels)
    strangers = found.ranked["search"].strangers.pairs
    found.metrics["search"] |= {
        "accepted": judged["accepted"]
        | {"false_pairs_per_million_images": asdict(per_million_images(judged["accepted"]["false"], strangers))},
        "grouped": judged["grouped"],
        "candidates": judged["candidates"] | {"calibration_error": found.reliability.error},
        "fates": judged["true_pairs"],
        "threshold": searched.run["threshold"],
        "prior": searched.run["prior"],
        "seconds": searched.run["seconds"],
    }


def _table(found: Evaluation, runner: Runner) -> None:
    """The paper's comparison; left out, and said so, where the album is too small for it."""
    plan, album = found.plan, found.album
    if plan.truth.pairs is not None:
        pairs, neutral = (
            labelled_pairs(album, plan.truth.pairs, seed=plan.seed),
            "none: the pairs are those of the table",
        )
    else:
        vectors, neutral = neutral_vectors(album, plan.data, progress=teller("neutral descriptor"))
        try:
            pairs = draw_pairs(album, vectors, most=plan.most, seed=plan.seed)
        except InputError as error:
            found.metrics["comparison"] = {"left_out": str(error)}
            return
    found.pairs = pairs
    rows: dict[str, tuple[NDArray[np.float64], str]] = {}
    for name, model in plan.compare.items():
        held = embed_album(album, model, plan.work, runner)
        rows[name] = (standout_pairs(held.vectors, pairs, describe(model)), _said(describe(model)))
    rows[CHAMPION] = (standout_pairs(found.vectors, pairs, found.model), _said(found.model))
    rows[WHOLE] = whole_detector(album, pairs, plan.model, progress=teller("compare pairs"))
    rows |= rivals(album, pairs, progress=teller("SIFT and hashes"))
    found.scores = {name: scores for name, (scores, _) in rows.items()}
    found.metrics["comparison"] = {
        "hard_strangers": neutral,
        "methods": {
            name: {"setting": setting, **evaluate_pairs.figures(pairs, scores, seed=plan.seed)}
            for name, (scores, setting) in rows.items()
        },
    }


def _said(model: ModelDirectory) -> str:
    stn = model.config.stn.kind
    transformer = "no spatial transformer" if stn == "none" else f"{stn} spatial transformer"
    return f"{model.config.backbone}, {transformer}, {model.config.image_size} px, {model.config.dim} numbers, cosine"


def _short(row: PairRow) -> PairRow:
    return replace(row, left=row.left.removeprefix("images/"), right=row.right.removeprefix("images/"))
