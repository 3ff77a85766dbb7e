"""The steps of `ndd.stages` on Ray Data, and nothing else: the same classes, in actors instead of threads."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from typing import Any

from ndd.find import T, Tally, Work, chunk_size
from pipelines.session import share_of_cpu

__all__ = ["RayRunner"]


class RayRunner:
    """Runs a search's work on Ray; use inside `pipelines.session.ray_session`.

    Every step is one `map_batches` over rows that name the work (paths, numbers) with `workers` actors; each writes its
    results to files and answers with one row of counts per chunk, so neither the object store nor this process holds data.
    """

    engine = "ray"

    def __init__(self, *, workers: int) -> None:
        self.workers = workers

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
            compute=ray.data.ActorPoolStrategy(size=min(self.workers, len(cuts))),
            num_cpus=share_of_cpu(self.workers),
        )
        for row in dataset.iter_rows():
            counts = {name.removeprefix("count_"): int(n) for name, n in row.items() if name.startswith("count_")}
            tally.add(str(row["worker"]), int(row["items"]), counts)
        return tally

    def call(self, function: Callable[[T], dict[str, Any]], task: T) -> dict[str, Any]:
        """Run `function` in a worker process: what it needs of memory is not this process's."""
        import ray

        answer: dict[str, Any] = ray.get(ray.remote(num_cpus=share_of_cpu(self.workers))(function).remote(task))
        return answer


class _Actor:
    """One worker's copy of a step."""

    def __init__(self, work: Callable[[Any], Work], task: Any) -> None:
        import cv2

        cv2.setNumThreads(1)
        self._work = work(task)
        self._name = f"{socket.gethostname()}/{os.getpid()}"

    def __call__(self, batch: Any) -> Mapping[str, list[Any]]:
        counts = self._work(batch.to_pydict())
        row: dict[str, list[Any]] = {"worker": [self._name], "items": [len(batch)]}
        return row | {f"count_{name}": [count] for name, count in counts.items()}
