"""The training that a retraining starts: what it says, and what is left of it when either is stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ndd.errors import StoreError
from ndd.files import try_lock
from pipelines.cli import Stopped
from pipelines.retrain_child import run_child

_LOUD = """
import signal, sys, time
def stop(*_):
    sys.stderr.write("x" * 1_000_000)
    open(sys.argv[1], "w").write("in good order")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
print("ready", file=sys.stderr, flush=True)
time.sleep(600)
"""
_KEEPER = """
import os, sys
from pipelines.retrain_child import run_child
from ndd.files import try_lock
lock = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
assert try_lock(lock, exclusive=True)
work = "import os, sys, time; print(os.getpid(), file=sys.stderr, flush=True); time.sleep(600)"
run_child([sys.executable, "-c", work], lock)
"""


@pytest.fixture
def lock(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    yield descriptor
    os.close(descriptor)


class _StopAt:
    """A stream on which the signal arrives at the first line."""

    def write(self, text: str) -> int:
        raise Stopped


def test_what_failed_is_said(lock: int) -> None:
    work = "import sys; print('first', file=sys.stderr); print('no more room', file=sys.stderr); sys.exit(3)"
    with pytest.raises(StoreError, match="exit code 3: no more room"):
        run_child([sys.executable, "-c", work], lock)


@pytest.mark.timeout(60)
def test_a_child_that_says_much_at_its_end_is_heard_out(
    lock: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", _StopAt())
    with pytest.raises(Stopped):
        run_child([sys.executable, "-c", _LOUD, str(tmp_path / "ended")], lock)
    assert (tmp_path / "ended").read_text() == "in good order"


def test_the_lock_lasts_as_long_as_either_works(lock: int, tmp_path: Path) -> None:
    keeper = subprocess.Popen(
        [sys.executable, "-c", _KEEPER, str(tmp_path / ".lock")], stderr=subprocess.PIPE, text=True
    )
    assert keeper.stderr is not None
    child = int(keeper.stderr.readline())
    try:
        keeper.kill()
        keeper.wait()
        assert not try_lock(lock, exclusive=True)  # the training goes on, so nobody else may begin
    finally:
        os.kill(child, signal.SIGKILL)
    until = time.monotonic() + 20
    while not try_lock(lock, exclusive=True):
        assert time.monotonic() < until
        time.sleep(0.05)
    keeper.stderr.close()
