"""The hard and hostile sets of an evaluation, by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ndd.errors import UsageError
from ndd.find import Runner
from pipelines.album import Photo, read_photos, read_tar
from pipelines.evaluate_run import Evaluation

__all__ = ["run_suites"]


def run_suites(names: Sequence[str], found: Evaluation, runner: Runner, *, photos: Path | None) -> dict[str, Any]:
    """Suite → its figures, each with a `page` of rows. photos: a folder of photographs; None for the reserve of the data
    folder. Raises UsageError where there are none."""
    sources = _photos(photos, found.plan.data)
    done: dict[str, Any] = {}
    for name in names:
        work = found.plan.work / name
        if name == "travel":
            from pipelines.evaluate_travel import travel

            done[name] = travel(sources, found.plan.model, work, runner, seed=found.plan.seed)
        elif name == "hard":
            from pipelines.evaluate_hard import hard

            done[name] = hard(sources, found.plan.model, seed=found.plan.seed)
        elif name == "attack":
            from pipelines.evaluate_attack import attack

            done[name] = attack(sources, found.plan.model, seed=found.plan.seed)
    return done


def _photos(folder: Path | None, data: Path | None) -> list[Photo]:
    if folder is not None:
        return list(read_photos(folder))
    if data is None:
        raise UsageError("a suite wants photographs: --photos, or a data folder with --data or NDD_DATA")
    return list(read_tar(data / "corpus" / "reserve.tar"))
