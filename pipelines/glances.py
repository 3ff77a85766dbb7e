"""`python -m pipelines glances`: learn what a glance makes of two pictures, from photographs (`ndd.verify.glance`).

An edited-copy album is built from them and searched as everyone searches, up to where pairs are glanced at; a logistic
regression tells the proposed copies from the proposed strangers.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndd.errors import UsageError
from ndd.files import atomic_path
from ndd.find import FindRequest, T, Tally, Work, find
from ndd.local import LocalRunner
from ndd.parquet import read_table
from ndd.stages.chunks import PROPOSALS
from ndd.stages.task import SearchTask
from ndd.stages.work import GlanceWork
from ndd.verify.glance import FEATURES, WEIGHTS, by_looks, evidence
from pipelines.album import Album, build_album, read_photos, read_tar

__all__ = ["Proposals", "add_arguments", "learn", "proposals", "run"]

_LEAST = 50
"""Copies, and strangers, below which nothing is learnt."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("photos", type=Path, help="folder or tar of photographs, which get edited copies")
    parser.add_argument("--singles", type=Path, help="folder or tar of photographs without copies")
    parser.add_argument("--limit", type=int, default=900, help="photographs used of each, the first by name (900)")
    parser.add_argument("--copies", type=int, default=4, help="edited copies of each photograph (4)")
    parser.add_argument("--seed", type=int, default=7, help="of the edits (7)")
    parser.add_argument("--model", type=Path, help="model directory (default: as everywhere)")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="file to write (default: the one ndd reads)")


def run(arguments: argparse.Namespace) -> int:
    """Learn, write, say from what; the exit code."""
    if arguments.limit < 1 or arguments.copies < 1:
        raise UsageError(f"--limit {arguments.limit} --copies {arguments.copies}: both must be at least 1")
    photos, singles = (
        sorted(found, key=lambda photo: photo.name)[: arguments.limit]
        for found in (_read(arguments.photos), _read(arguments.singles) if arguments.singles else [])
    )
    with tempfile.TemporaryDirectory(prefix="ndd-glances-") as work:
        album = build_album(photos, Path(work) / "album", copies=arguments.copies, seed=arguments.seed, singles=singles)
        seen = proposals(album, work=Path(work) / "found", model=arguments.model)
    said = learn(seen)
    with atomic_path(arguments.out) as temporary:
        temporary.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(
        f"{arguments.out}: from {said['copies']} copies and {said['strangers']} strangers; sure without them were "
        f"{seen.sure[0]} and {seen.sure[1]} more, {seen.missed} copies were lost before\n"
    )
    return 0


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Proposals:
    """P pairs that a search would glance at. features: (P, F). copies: (P,) bool. sure: how many copies and strangers go on
    whatever their keypoints say. missed: copies that do not: nobody proposed them, or they have too few keypoints."""

    features: NDArray[np.float64]
    copies: NDArray[np.bool_]
    sure: tuple[int, int]
    missed: int


def proposals(album: Album, *, work: Path, model: Path | None) -> Proposals:
    """Search `album` as far as its glances. work: a directory for the search. Raises what a search raises."""
    runner = _Looking(album)
    try:
        find(FindRequest(paths=[album.root / "images"], out=work, model=model), runner)
    except _Seen:
        assert runner.seen is not None
        return runner.seen
    raise AssertionError("a search glances at what it has proposed, be it nothing")


def learn(seen: Proposals) -> dict[str, float]:
    """What glance.json holds: bias, the weight of each of FEATURES, and how many copies and strangers it is from. UsageError
    where there are too few of either."""
    from sklearn.linear_model import LogisticRegression

    strangers = int((~seen.copies).sum())
    if min(strangers, len(seen.copies) - strangers) < _LEAST:
        raise UsageError(
            f"{len(seen.copies) - strangers} copies and {strangers} strangers were proposed, {_LEAST} of each are wanted; "
            "name more photographs"
        )
    mean, spread = seen.features.mean(axis=0), np.maximum(seen.features.std(axis=0), 1e-9)
    fitted = LogisticRegression(C=1.0, max_iter=3000).fit((seen.features - mean) / spread, seen.copies)
    weights = fitted.coef_[0] / spread
    said = {"bias": float(fitted.intercept_[0] - weights @ mean)}
    said |= {name: float(weight) for name, weight in zip(FEATURES, weights, strict=True)}
    return {name: round(value, 4) for name, value in said.items()} | {
        "copies": len(seen.copies) - strangers,
        "strangers": strangers,
    }


class _Seen(Exception):
    """The search has come as far as it is wanted."""


class _Looking(LocalRunner):
    """Takes down what a glance would see, and ends the search there."""

    def __init__(self, album: Album) -> None:
        super().__init__()
        self._group = {Path(image.image).relative_to("images").as_posix(): image.group for image in album.images}
        self.seen: Proposals | None = None

    def map(self, work: Callable[[T], Work], task: T, items: Any, *, block: int) -> Tally:
        """As every runner; never returns from glances."""
        if work is GlanceWork and isinstance(task, SearchTask):
            self.seen = self._look(task)
            raise _Seen
        return super().map(work, task, items, block=block)

    def _look(self, task: SearchTask) -> Proposals:
        work, album = GlanceWork(task), task.album()
        names = np.unique([self._group[path] for path in album.texts("path")], return_inverse=True)[1]
        table = read_table(task.proposed, PROPOSALS)
        left, right = (table.column(name).to_numpy() for name in ("left", "right"))
        copies, standout = names[left] == names[right], work.standout(range(len(table)))
        rows: dict[int, Sequence[float]] = {}
        sure = np.zeros(len(table), bool)
        for at, out in enumerate(standout.tolist()):
            seen = work.seen(at)
            said = math.inf if seen is None else by_looks(*seen, standout=out)
            sure[at] = said == math.inf
            if said is None and seen is not None:
                rows[at] = evidence(*seen, standout=out)
        sizes = np.bincount(names)
        asked = copies[list(rows)]
        return Proposals(
            features=np.array(list(rows.values()), np.float64).reshape(len(rows), len(FEATURES)),
            copies=asked,
            sure=(int((sure & copies).sum()), int((sure & ~copies).sum())),
            missed=int((sizes * (sizes - 1) // 2).sum() - asked.sum() - (sure & copies).sum()),
        )


def _read(place: Path) -> Sequence[Any]:
    if not place.exists():
        raise UsageError(f"{place}: there is no such folder or tar; name one with photographs")
    return list(read_tar(place) if place.suffix == ".tar" else read_photos(place))
