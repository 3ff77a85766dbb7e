"""The single-process runner: threads, one core each. Decoding, the network and keypoints release Python's lock; work that
holds it runs on one thread."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from ndd.find import T, Tally, Work, chunk_size

__all__ = ["LocalRunner"]


class LocalRunner:
    """Runs a search's work in threads of this process."""

    engine = "local"

    def __init__(self, *, workers: int | None = None) -> None:
        """workers: threads; None for one per core that this process may use."""
        self.workers = workers or len(os.sched_getaffinity(0))

    def map(self, work: Callable[[T], Work], task: T, items: Any, *, block: int) -> Tally:
        """Hand out the rows of the Arrow table `items` chunk by chunk; see `ndd.find.Runner`."""
        tally = Tally(blocks=-(-len(items) // block))
        if not len(items):
            return tally
        do = work(task)
        # Threads that wait for Python's lock cost more than they give: two took 1.7 times the processor time of one for
        # glances, and longer (docs/LOG.md, "a glance before a look").
        workers = 1 if getattr(work, "holds_lock", False) else self.workers
        size = chunk_size(block, workers)
        chunks = [items.slice(start, min(size, block - at)) for start, at in _cuts(len(items), block, size)]
        with ThreadPoolExecutor(workers, thread_name_prefix="worker") as pool:
            waiting = [pool.submit(_one, do, chunk) for chunk in chunks]
            try:
                for done in as_completed(waiting):
                    tally.add(*done.result())
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        return tally

    def call(self, function: Callable[[T], dict[str, Any]], task: T) -> dict[str, Any]:
        """Run `function` here."""
        return function(task)


def _cuts(items: int, block: int, size: int) -> list[tuple[int, int]]:
    """(start of a chunk, where that is in its block)."""
    return [(start + at, at) for start in range(0, items, block) for at in range(0, min(block, items - start), size)]


def _one(do: Work, chunk: Any) -> tuple[str, int, dict[str, int]]:
    return threading.current_thread().name, len(chunk), do(chunk.to_pydict())
