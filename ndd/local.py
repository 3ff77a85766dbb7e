"""The runner on one machine: threads, one core each. Decoding, the network and keypoints release Python's lock; for work that
holds it there is one thread, and processes beside it (`ndd.processes`) where there is enough to do."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from ndd.cores import cores
from ndd.find import T, Tally, Work, chunk_size
from ndd.processes import Helper, HelperLost

__all__ = ["LocalRunner"]

_WORTH = 0.4
"""Seconds of work for which a process is started: about what it needs to be ready, on a core that would have nothing to do."""
_MOST = 16
"""Processes at most: each holds some 60 MiB of its own."""
_LOST = 3
"""So many lost, and no more are started."""


@dataclass(frozen=True, slots=True)
class _Hand:
    """Whoever takes a batch: a thread of this process, or a process."""

    name: str
    do: Callable[[Any], dict[str, int]]


class LocalRunner:
    """Runs a search's work on the cores of this machine. helpers: processes that it has started; they end with it, and serve
    one `map` at a time: another one at the same time does without."""

    engine = "local"

    def __init__(self, *, workers: int | None = None) -> None:
        """workers: threads and processes that work at the same time; None for one per core that this process may use."""
        self.workers = workers or cores()
        self.helpers: list[Helper] = []
        self._lost = 0
        self._helping = threading.Lock()
        weakref.finalize(self, _end, self.helpers)

    def map(self, work: Callable[[T], Work], task: T, items: Any, *, block: int) -> Tally:
        """Hand out the rows of the Arrow table `items` chunk by chunk; see `ndd.find.Runner`."""
        tally = Tally(blocks=-(-len(items) // block))
        if not len(items):
            return tally
        do = work(task)
        seconds: float | None = getattr(work, "seconds_in_python", None)
        # Threads that wait for Python's lock cost more than they give: two took 1.7 times the processor time of one for
        # glances, and longer (docs/LOG.md, "a glance before a look").
        hands = [_Hand(f"worker_{at}", do) for at in range(self.workers if seconds is None else 1)]
        helping = seconds is not None and self._helping.acquire(blocking=False)
        try:
            if helping and seconds is not None:
                hands += self._told(work, task, int(len(items) * seconds / _WORTH))
            self._share(hands, items, block, tally)
        finally:
            if helping:
                self._helping.release()
        return tally

    def call(self, function: Callable[[T], dict[str, Any]], task: T) -> dict[str, Any]:
        """Run `function` here."""
        return function(task)

    def _share(self, hands: list[_Hand], items: Any, block: int, tally: Tally) -> None:
        free: SimpleQueue[_Hand] = SimpleQueue()
        for hand in hands:
            free.put(hand)
        size = chunk_size(block, len(hands))
        chunks = [items.slice(start, min(size, block - at)) for start, at in _cuts(len(items), block, size)]
        with ThreadPoolExecutor(len(hands), thread_name_prefix="worker") as pool:
            waiting = [pool.submit(self._one, free, chunk) for chunk in chunks]
            try:
                for done in as_completed(waiting):
                    tally.add(*done.result())
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise

    def _told(self, work: Callable[[T], Work], task: T, wanted: int) -> list[_Hand]:
        """At most `wanted` processes that have been told of the work."""
        wanted = min(wanted, self.workers - 1, _MOST)
        try:
            while len(self.helpers) < wanted and self._lost < _LOST:
                self.helpers.append(Helper())
        except OSError:
            self._lost = _LOST  # no process to be had: what there are, or this one alone, do it
        told: list[_Hand] = []
        for helper in self.helpers[: max(wanted, 0)]:
            try:
                helper.take(work, task)
            except HelperLost:
                self._forget(helper)
            else:
                told.append(_Hand(f"process_{len(told) + 1}", helper))
        return told

    def _one(self, free: SimpleQueue[_Hand], chunk: Any) -> tuple[str, int, dict[str, int]]:
        batch = chunk.to_pydict()
        while True:
            hand = free.get()
            try:
                counts = hand.do(batch)
            except HelperLost:
                # Killed, most likely for memory. It is not put back, and another does the same: the thread of this process
                # is always among them.
                self._forget(hand.do)
                continue
            except BaseException:
                free.put(hand)
                raise
            free.put(hand)
            return hand.name, len(chunk), counts

    def _forget(self, helper: Any) -> None:
        if helper in self.helpers:
            self.helpers.remove(helper)
            self._lost += 1
            helper.close()


def _end(helpers: list[Helper]) -> None:
    for helper in helpers:
        helper.close()


def _cuts(items: int, block: int, size: int) -> list[tuple[int, int]]:
    """(start of a chunk, where that is in its block)."""
    return [(start + at, at) for start in range(0, items, block) for at in range(0, min(block, items - start), size)]
