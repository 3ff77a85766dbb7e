"""The runner in this process: how many threads a piece of work gets, and what happens when one fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
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
    """Counts by process, and prints where answers travel. task: who its parent is, what a process beside that does at its
    first batch, and a file that it makes before: the parent does nothing until then, however long a process takes to start."""

    seconds_in_python = 1.0

    def __init__(self, task: tuple[int, str, Path]) -> None:
        self.parent, self.then, self.seen = task

    def __call__(self, batch: dict[str, Any]) -> dict[str, int]:
        print("looking at", batch)
        if os.getpid() == self.parent:
            end = time.monotonic() + 60
            while not self.seen.exists():
                assert time.monotonic() < end, "no process took part"
                time.sleep(0.01)
        else:
            self.seen.touch()
            if self.then == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.then == "fails":
                raise KeyError("in there")
            if self.then == "answers what cannot be read":
                return {"items": Unreadable()}  # type: ignore[dict-item]
        return {"items": len(batch["row"]), str(os.getpid()): len(batch["row"])}


class Unreadable:
    """Comes to nothing wherever it arrives."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _unreadable, ()


def _unreadable() -> None:
    raise MemoryError("no room for it")


def test_a_process_takes_its_share_of_it_and_ends_with_the_runner(tmp_path: Path) -> None:
    runner = LocalRunner(workers=2)
    for turn in range(2):
        tally = runner.map(InPython, (HERE, "goes on", tmp_path / str(turn)), ITEMS, block=3)
        assert tally.counts.pop("items") == 40
        assert set(tally.counts) == {str(HERE), str(runner.helpers[0].pid)}
        assert set(tally.workers) == {"worker_0", "process_1"}
    (helper,) = runner.helpers
    del runner
    assert gone(helper.pid), "a process is left"


def test_no_more_processes_than_there_is_work_for(tmp_path: Path) -> None:
    (tmp_path / "seen").touch()
    runner = LocalRunner(workers=64)
    for items, processes in [(1, 2), (40, 16)]:  # a second each
        runner.map(InPython, (HERE, "goes on", tmp_path / "seen"), ITEMS.slice(0, items), block=8)
        assert len(runner.helpers) == processes


def test_a_process_that_is_lost_takes_no_work_with_it(tmp_path: Path) -> None:
    runner = LocalRunner(workers=2)
    for turn, then in enumerate(("dies", "answers what cannot be read")):
        tally = runner.map(InPython, (HERE, then, tmp_path / then), ITEMS, block=2)
        assert tally.counts == {"items": 40, str(HERE): 40}
        assert runner.helpers == [], turn
    assert runner.map(InPython, (HERE, "goes on", tmp_path / "dies"), ITEMS, block=2).counts["items"] == 40
    assert len(runner.helpers) == 1, "another in its place"


def test_not_for_ever_are_new_ones_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Helper] = []

    def start() -> Helper:
        started.append(Helper())
        return started[-1]

    monkeypatch.setattr("ndd.local.Helper", start)
    runner = LocalRunner(workers=2)
    for turn in range(4):
        if turn == 3:
            (tmp_path / "3").touch()  # no process will
        tally = runner.map(InPython, (HERE, "dies", tmp_path / str(turn)), ITEMS, block=2)
        assert tally.counts["items"] == 40
        assert runner.helpers == []
    assert len(started) == 3


def test_without_a_python_to_start_it_is_done_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "seen").touch()
    for executable in (None, "", "/nowhere/python"):
        monkeypatch.setattr(sys, "executable", executable)
        tally = LocalRunner(workers=2).map(InPython, (HERE, "dies", tmp_path / "seen"), ITEMS, block=2)
        assert tally.counts == {"items": 40, str(HERE): 40}


def test_what_is_raised_in_a_process_arrives(tmp_path: Path) -> None:
    runner = LocalRunner(workers=2)
    with pytest.raises(KeyError, match="in there") as caught:
        runner.map(InPython, (HERE, "fails", tmp_path / "seen"), ITEMS, block=2)
    assert "test_local.py" in "".join(caught.value.__notes__), "where it happened"
    assert runner.map(InPython, (HERE, "goes on", tmp_path / "seen"), ITEMS, block=2).counts["items"] == 40


def test_two_searches_at_once_do_not_share_a_process(tmp_path: Path) -> None:
    runner = LocalRunner(workers=2)
    with ThreadPoolExecutor(2) as pool:
        tasks = [(HERE, "goes on", tmp_path / "seen")] * 2
        tallies = list(pool.map(lambda task: runner.map(InPython, task, ITEMS, block=2), tasks))
    assert [tally.counts["items"] for tally in tallies] == [40, 40]
    assert sorted(len(tally.workers) for tally in tallies)[0] == 1
    assert len(runner.helpers) == 1


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


def test_errors_that_cannot_travel_and_work_that_cannot_be_made(tmp_path: Path) -> None:
    helper = Helper()
    for task, error, said in [
        ("unmade", ValueError, "made here"),
        ("made", RuntimeError, "CannotTravel: this and that"),
    ]:
        helper.take(Odd, task)
        with pytest.raises(error, match=said):
            helper({"row": [1]})
    helper.take(InPython, (HERE, "goes on", tmp_path / "seen"))
    assert helper({"row": [1]})["items"] == 1
    helper.close()
    with pytest.raises(HelperLost):
        helper({"row": [1]})


class Sleeps:
    """Is busy for a long time, and says so."""

    def __init__(self, task: Path) -> None:
        self.seen = task

    def __call__(self, batch: dict[str, Any]) -> dict[str, int]:
        self.seen.touch()
        time.sleep(600)
        raise AssertionError("nobody waited for it")


PARENT = """
import sys
from pathlib import Path
from ndd.processes import Helper
from tests.ndd.test_local import Sleeps
helper = Helper()
helper.take(Sleeps, Path(sys.argv[1]))
print(helper.pid, flush=True)
helper({"row": [1]})
"""


def test_none_outlives_who_started_it(tmp_path: Path) -> None:
    """Killed in the middle of a batch, so that nothing could be tidied up."""
    seen, said = tmp_path / "seen", tmp_path / "said"
    with said.open("wb") as errors:
        command = [sys.executable, "-c", PARENT, str(seen)]
        started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        assert started.stdout is not None
        pid = int(started.stdout.readline())
        end = time.monotonic() + 60
        while not seen.exists() and time.monotonic() < end:
            time.sleep(0.02)
        assert _runs(pid)
        started.kill()
        started.communicate()
    assert gone(pid)
    assert said.read_bytes() == b"", "no traceback for nobody"


def test_a_fork_lets_it_be() -> None:
    """Whatever ends in a forked process, its finalizers included, leaves the parent's helper alone."""
    helper = Helper()
    forked = os.fork()
    if forked == 0:
        helper.close()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(forked, 0)[1]) == 0
    helper.take(Odd, "made")
    with pytest.raises(RuntimeError, match="CannotTravel"):
        helper({"row": [1]})
    helper.close()


def test_answers_are_apart_from_errors_even_where_those_go_nowhere(tmp_path: Path) -> None:
    """Standard error closed: what is printed must not come where answers do."""
    code = (
        "import os; os.close(2)\n"
        "from pathlib import Path; from ndd.processes import Helper; from tests.ndd.test_local import InPython\n"
        "helper = Helper(); helper.take(InPython, (os.getpid(), 'goes on', Path(os.environ['SEEN'])))\n"
        "print(helper({'row': [1, 2]})['items']); helper.close()"
    )
    environment = {**os.environ, "SEEN": str(tmp_path / "seen")}
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment, timeout=120)
    assert done.stdout == "2\n"


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
