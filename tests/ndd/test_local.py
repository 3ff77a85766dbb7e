"""The runner in this process: how many threads a piece of work gets, and what happens when one fails."""

from __future__ import annotations

import threading
from typing import Any

import pyarrow as pa
import pytest

from ndd.local import LocalRunner

ITEMS = pa.table({"row": list(range(40))})


class Together:
    """Waits in each chunk for as many threads as the task says; alone, it would wait for ever."""

    def __init__(self, task: int) -> None:
        self.barrier = threading.Barrier(task)

    def __call__(self, batch: dict[str, Any]) -> dict[str, int]:
        self.barrier.wait(timeout=20)
        return {"items": len(batch["row"])}


class Alone:
    """Notices whoever works beside it."""

    holds_lock = True

    def __init__(self, task: int) -> None:
        self.busy = threading.Lock()

    def __call__(self, batch: dict[str, Any]) -> dict[str, int]:
        assert self.busy.acquire(blocking=False), "two threads at once"
        threading.Event().wait(0.01)
        self.busy.release()
        return {"items": len(batch["row"])}


def test_work_is_spread_over_the_threads() -> None:
    tally = LocalRunner(workers=2).map(Together, 2, ITEMS, block=20)
    assert tally.counts == {"items": 40}
    assert len(tally.workers) == 2
    assert tally.blocks == 2


def test_work_that_holds_pythons_lock_has_one_thread() -> None:
    tally = LocalRunner(workers=4).map(Alone, 0, ITEMS, block=10)
    assert tally.counts == {"items": 40}
    assert len(tally.workers) == 1
    assert tally.blocks == 4


def test_nothing_to_do_makes_no_worker() -> None:
    def never(task: int) -> Together:
        raise AssertionError("made for nothing")

    assert LocalRunner(workers=2).map(never, 0, ITEMS.slice(0, 0), block=10).counts == {}


def test_what_a_worker_raises_arrives() -> None:
    class Fails:
        def __init__(self, task: int) -> None: ...

        def __call__(self, batch: dict[str, Any]) -> dict[str, int]:
            raise KeyError("this one")

    with pytest.raises(KeyError, match="this one"):
        LocalRunner(workers=2).map(Fails, 0, ITEMS, block=10)
