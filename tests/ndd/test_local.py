"""The runner in this process: how many threads a piece of work gets, and what happens when one fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ndd.local import LocalRunner
from ndd.processes import Helper, HelperLost

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

    seconds_in_python = 0.001

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


HERE = os.getpid()


class InPython:
    """Counts by process, and says so where answers travel. task: what a process beside this one does at its third batch."""

    seconds_in_python = 1.0

    def __init__(self, task: tuple[int, str]) -> None:
        self.task, self.batches = task, 0

    def __call__(self, batch: dict[str, Any]) -> dict[str, int]:
        parent, then = self.task
        self.batches += 1
        print("looking at", batch)
        time.sleep(0.05)
        if os.getpid() != parent and self.batches == 3:
            if then == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            if then == "fails":
                raise KeyError("in there")
        return {"items": len(batch["row"]), str(os.getpid()): len(batch["row"])}


def test_processes_take_their_share_of_it() -> None:
    runner = LocalRunner(workers=3)
    for _ in range(2):
        tally = runner.map(InPython, (HERE, "goes on"), ITEMS, block=3)
        pids = {str(os.getpid()), *(str(helper.pid) for helper in runner.helpers)}
        assert tally.counts.pop("items") == 40
        assert set(tally.counts) == pids
        assert len(pids) == len(tally.workers) == 3
    helpers = list(runner.helpers)
    del runner
    assert all(gone(helper.pid) for helper in helpers), "processes are left"


def test_a_process_that_dies_takes_no_work_with_it() -> None:
    runner = LocalRunner(workers=2)
    tally = runner.map(InPython, (HERE, "dies"), ITEMS, block=2)
    assert tally.counts.pop("items") == 40
    assert sum(tally.counts.values()) == 40
    assert len(tally.counts) == 2, "both had a part in it"
    assert runner.helpers == []
    assert runner.map(InPython, (HERE, "goes on"), ITEMS, block=2).counts["items"] == 40
    assert len(runner.helpers) == 1, "another in its place"


def test_what_is_raised_in_a_process_arrives() -> None:
    runner = LocalRunner(workers=2)
    with pytest.raises(KeyError, match="in there") as caught:
        runner.map(InPython, (HERE, "fails"), ITEMS, block=2)
    assert "test_local.py" in "".join(caught.value.__notes__), "where it happened"
    assert runner.map(InPython, (HERE, "goes on"), ITEMS, block=2).counts["items"] == 40


class CannotTravel(Exception):
    """Wants more than it can be made of again."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} and {two}")


class Odd(InPython):
    def __init__(self, task: str) -> None:
        if task == "unmade":
            raise ValueError("cannot be made here")

    def __call__(self, batch: dict[str, Any]) -> dict[str, int]:
        raise CannotTravel("this", "that")


def test_errors_that_cannot_travel_and_work_that_cannot_be_made() -> None:
    helper = Helper()
    for task, error, said in [
        ("unmade", ValueError, "made here"),
        ("made", RuntimeError, "CannotTravel: this and that"),
    ]:
        helper.take(Odd, task)
        with pytest.raises(error, match=said):
            helper({"row": [1]})
    helper.take(InPython, (HERE, "goes on"))
    assert helper({"row": [1]})["items"] == 1
    helper.close()
    with pytest.raises(HelperLost):
        helper({"row": [1]})


def test_none_outlives_who_started_it() -> None:
    """Killed, so that nothing could be tidied up."""
    code = "import os, signal; from ndd.processes import Helper; h = Helper(); print(h.pid, flush=True); signal.pause()"
    started = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert started.stdout is not None
    pid = int(started.stdout.readline())
    assert not gone(pid, within=0)
    started.kill()
    started.communicate()
    assert gone(pid)


def gone(pid: int, *, within: float = 20.0) -> bool:
    """Whether a process ends in so many seconds."""
    end = time.monotonic() + within
    while _runs(pid):
        if time.monotonic() >= end:
            return False
        time.sleep(0.05)
    return True


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"  # ended, and nobody has asked for its exit status yet
