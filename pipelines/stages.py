"""The steps of `ndd.stages` on Ray Data, and nothing else: the same classes, in actors instead of threads."""

from __future__ import annotations

import os
import pickle
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ndd.errors import NddError
from ndd.find import T, Tally, Work, chunk_size
from pipelines.session import share_of_cpu

__all__ = ["RayRunner"]


_EVEN = 0.75
"""Share of the blocks that is handed out evenly."""


class RayRunner:
    """Runs a search's work on Ray; use inside `pipelines.session.ray_session`.

    Every step is one `map_batches` over rows that name the work (paths, numbers) with `workers` actors; each writes its
    results to files and answers with one row of counts per chunk, so neither the object store nor this process holds data.
    """

    engine = "ray"

    def __init__(self, *, workers: int, progress: Callable[[int, int], None] | None = None) -> None:
        """progress: is told (items done, items in all) of the current step whenever a chunk is done."""
        self.workers = workers
        self._progress = progress

    def map(self, work: Callable[[T], Work], task: T, items: Any, *, block: int) -> Tally:
        """Hand out the rows of the Arrow table `items` in blocks; see `ndd.find.Runner`."""
        import ray

        cuts = [items.slice(start, block) for start in range(0, len(items), block)]
        tally = Tally(blocks=len(cuts))
        if not cuts:
            return tally
        dataset = ray.data.from_arrow([cut.combine_chunks() for cut in cuts]).map_batches(
            _Actor,
            fn_constructor_args=(work, task),
            batch_format="pyarrow",
            batch_size=chunk_size(block, self.workers),
            compute=ray.data.ActorPoolStrategy(
                size=min(self.workers, len(cuts)),
                # Handed out evenly at once, the rest to whoever is done first: where a block takes milliseconds, the
                # worker that happens to answer first would take nearly all of them.
                max_tasks_in_flight_per_actor=max(2, round(_EVEN * len(cuts) / self.workers)),
            ),
            num_cpus=share_of_cpu(self.workers),
        )
        for row in dataset.iter_rows():
            if row["error"]:
                raise pickle.loads(row["error"])
            counts = {name.removeprefix("count_"): int(n) for name, n in row.items() if name.startswith("count_")}
            tally.add(str(row["worker"]), int(row["items"]), counts)
            if self._progress is not None:
                self._progress(sum(tally.workers.values()), len(items))
        return tally

    def call(self, function: Callable[[T], dict[str, Any]], task: T) -> dict[str, Any]:
        """Run `function` in a worker process: what it needs of memory is not this process's."""
        import ray

        with _as_raised():
            remote: Any = ray.remote(num_cpus=share_of_cpu(self.workers))(_call)
            answer: dict[str, Any] = ray.get(remote.remote(function, task))
        return answer


def _call(function: Callable[[T], dict[str, Any]], task: T) -> dict[str, Any]:
    """Ray takes functions, not objects that can be called."""
    return function(task)


@contextmanager
def _as_raised() -> Iterator[None]:
    """Our own errors as the worker raised them, without the wrapping that adds its traceback to the message."""
    from ray.exceptions import RayTaskError

    try:
        yield
    except RayTaskError as error:
        if isinstance(error.cause, NddError):
            raise error.cause from None
        raise


class _Actor:
    """One worker's copy of a step.

    Our own errors travel as data: raised here, Ray Data would try again, kill the actor, write its traceback to stderr
    and hand the error on as text.
    """

    def __init__(self, work: Callable[[Any], Work], task: Any) -> None:
        import cv2

        cv2.setNumThreads(1)
        self._name = f"{socket.gethostname()}/{os.getpid()}"
        self._work: Work | NddError
        try:
            self._work = work(task)
        except NddError as error:
            self._work = error

    def __call__(self, batch: Any) -> Mapping[str, list[Any]]:
        row: dict[str, list[Any]] = {"worker": [self._name], "items": [len(batch)], "error": [b""]}
        try:
            if isinstance(self._work, NddError):
                raise self._work
            counts = self._work(batch.to_pydict())
        except NddError as error:
            return row | {"error": [pickle.dumps(error)]}
        return row | {f"count_{name}": [count] for name, count in counts.items()}
