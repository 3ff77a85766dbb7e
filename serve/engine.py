"""A detector that many requests share: pictures of different requests go through the network together.

The network takes `MICRO_BATCH` pictures at a time whether they are there or not (`ndd.stages.embed`), so eight requests
cost what one costs. Worker threads take whatever waits, up to that many, as soon as they are free: nobody waits for a
batch to fill, and while one thread decodes another computes. Matching runs in threads of its own; one picture against
several is shared with threads that have nothing else to do.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from ndd.detector import Detector
from ndd.errors import DecodeError, NddError
from ndd.known import KnownPicture
from ndd.stages.embed import MICRO_BATCH
from ndd.types import Match

__all__ = ["Engine", "digests_of"]

T = TypeVar("T")
Looked = KnownPicture | DecodeError


@dataclass(slots=True)
class _Work:
    content: bytes
    done: Future[Looked] = field(default_factory=Future)


class Engine:
    """One model and the threads that work for it, until it is retired and nobody holds it any more."""

    def __init__(self, detector: Detector, *, threads: int) -> None:
        self.detector = detector
        self._waiting: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._taking = threading.Lock()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="ndd-match")
        # Apart from the pool, whose threads wait for these: in one pool all might wait for one another.
        self._helpers = ThreadPoolExecutor(max(threads - 1, 1), thread_name_prefix="ndd-help")
        self._shares = threads
        self._lookers = [
            threading.Thread(target=self._look_for_ever, name=f"ndd-look-{i}", daemon=True) for i in range(threads)
        ]
        self._holders = 0
        self._retired = False
        self._mutex = threading.Lock()
        for looker in self._lookers:
            looker.start()

    @property
    def digests(self) -> dict[str, str]:
        """Which model this is."""
        return digests_of(self.detector)

    def check(self) -> None:
        """Raises RuntimeError if a thread has died."""
        if not self._retired and not all(looker.is_alive() for looker in self._lookers):
            raise RuntimeError("a thread of the engine has ended")

    @contextlib.contextmanager
    def held(self) -> Iterator[Engine]:
        """Keep the engine going for the block."""
        with self._mutex:
            self._holders += 1
        try:
            yield self
        finally:
            with self._mutex:
                self._holders -= 1
                last = self._retired and not self._holders
            if last:
                self._close()

    def retire(self) -> None:
        """Let the threads end once nobody holds the engine."""
        with self._mutex:
            first = not self._retired
            self._retired = True
            last = first and not self._holders
        if last:
            self._close()

    @property
    def waiting(self) -> int:
        """Pictures that no thread has taken yet."""
        return self._waiting.qsize()

    async def look(self, contents: Sequence[bytes]) -> list[Looked]:
        """What is to be known of each picture, in order; one that cannot be read costs no other."""
        works = [_Work(content) for content in contents]
        for work in works:
            self._waiting.put(work)
        return list(await asyncio.gather(*(asyncio.wrap_future(work.done) for work in works)))

    async def match(self, a: KnownPicture, b: KnownPicture) -> Match:
        """What two pictures are to each other."""
        return await self.run(lambda: self.detector.match(a, b))

    def compare(self, picture: KnownPicture, others: Sequence[KnownPicture]) -> list[Match]:
        """What a picture is to each of several others. For `run`: it blocks."""
        found: dict[int, Match] = {}
        left = deque(range(len(others)))

        def work(most: int) -> None:
            for _ in range(most):
                try:
                    at = left.popleft()
                except IndexError:  # nothing is left
                    return
                found[at] = self.detector.match(picture, others[at])

        work(1)  # alone: the picture's own keypoints are found when they are first asked for
        helping = [self._helpers.submit(work, len(others)) for _ in range(min(self._shares, len(left)) - 1)]
        work(len(others))
        for help in helping:
            if not help.cancel():  # whoever has not begun is not waited for
                help.result()
        return [found[at] for at in range(len(others))]

    async def run(self, work: Callable[[], T]) -> T:
        """Do something slow beside the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def _close(self) -> None:
        for _ in self._lookers:
            self._waiting.put(None)
        self._pool.shutdown(wait=False)
        self._helpers.shutdown(wait=False)

    def _look_for_ever(self) -> None:
        while True:
            with self._taking:  # one thread at a time fills its batch: two would share what waits between them
                works, last = self._take()
            if works:
                self._look_at(works)
            if last:
                return

    def _take(self) -> tuple[list[_Work], bool]:
        works: list[_Work] = []
        while len(works) < MICRO_BATCH:
            try:
                work = self._waiting.get() if not works else self._waiting.get_nowait()
            except queue.Empty:
                break
            if work is None:
                return works, True
            works.append(work)
        return works, False

    def _look_at(self, works: list[_Work]) -> None:
        wanted = [work for work in works if work.done.set_running_or_notify_cancel()]
        if not wanted:
            return
        try:
            known: Sequence[Looked] = self.detector.look_many([work.content for work in wanted])
        except (NddError, MemoryError, OSError, ValueError, ArithmeticError, RuntimeError) as error:
            if (
                len(wanted) > 1
            ):  # something nobody foresaw in one of them: each by itself, so that the others get theirs
                for work in wanted:
                    self._look_alone(work)
                return
            known = [_unforeseen(error)]
        for work, one in zip(wanted, known, strict=True):
            work.done.set_result(one)

    def _look_alone(self, work: _Work) -> None:
        try:
            work.done.set_result(self.detector.look_many([work.content])[0])
        except (NddError, MemoryError, OSError, ValueError, ArithmeticError, RuntimeError) as error:
            work.done.set_result(_unforeseen(error))


def digests_of(detector: Detector) -> dict[str, str]:
    """The digests of a detector's model."""
    return {"embedding": detector.model.embedding_digest, "scorer": detector.model.scorer_digest}


def _unforeseen(error: Exception) -> DecodeError:
    return error if isinstance(error, DecodeError) else DecodeError(f"unexpected {type(error).__name__}")
