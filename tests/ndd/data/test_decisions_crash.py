"""Decisions through crashes, damage, full disks and other writers: nothing acknowledged is ever lost."""

from __future__ import annotations

import fcntl
import itertools
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ndd.data.decisions import DecisionStore
from ndd.errors import StoreError
from tests.ndd.data.builders import child_environment, decision


@pytest.fixture
def store(tmp_path: Path) -> DecisionStore:
    return DecisionStore(tmp_path / "decisions")


def cut(tmp_path: Path, content: bytes) -> DecisionStore:
    """A store whose log is `content`."""
    place = tmp_path / "cut"
    place.mkdir(exist_ok=True)
    for leftover in place.iterdir():
        leftover.unlink()
    (place / "decisions.csv").write_bytes(content)
    return DecisionStore(place)


def test_a_log_cut_anywhere_keeps_every_earlier_line_and_goes_on(
    store: DecisionStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Prefixes of a real log, every one near the ends of lines, as a crash in the middle of a write leaves them."""
    caplog.set_level(logging.WARNING)
    answers = [decision(at=i, reviewer='a, "b"') for i in range(3)]
    store.extend(answers[:2])
    content = store.path.read_bytes()
    ends_of_lines = [i + 1 for i, byte in enumerate(content) if byte == ord("\n")]
    assert len(ends_of_lines) == 3  # header and two rows
    near = {end + i for end in (0, *ends_of_lines) for i in range(-12, 13)}
    for size in sorted(near & set(range(len(content) + 1)) | set(range(0, len(content), 17))):
        whole = max(0, sum(end <= size for end in ends_of_lines) - 1)
        torn = size > 0 and size not in ends_of_lines
        damaged = cut(tmp_path, content[:size])
        caplog.clear()
        assert damaged.load() == answers[:whole], size
        assert len(damaged.damage()) == torn, size
        assert damaged.append(answers[2])
        assert damaged.load() == DecisionStore(damaged.path.parent).load() == [*answers[:whole], answers[2]], size
        assert damaged.damage() == [], size
        aside = damaged.path.with_name("decisions.csv.damaged")
        assert aside.exists() == torn, size  # what was cut off is kept
        assert ("cut short by a crash" in caplog.text) == torn, size
        if torn:
            assert content[:size].endswith(aside.read_bytes()[:-1])


def test_a_tail_of_zeros_is_a_torn_tail(store: DecisionStore, tmp_path: Path) -> None:
    """After a power cut some file systems keep the new length without the bytes."""
    store.append(decision())
    damaged = cut(tmp_path, store.path.read_bytes() + bytes(5000))
    assert damaged.load() == [decision()]
    assert damaged.append(decision(at=1))
    assert damaged.damage() == []
    assert DecisionStore(damaged.path.parent).load() == [decision(), decision(at=1)]
    nothing = cut(tmp_path, bytes(300))
    assert nothing.load() == []
    assert nothing.append(decision())
    assert nothing.load() == [decision()]


def test_any_changed_byte_costs_its_line_alone_and_is_reported(store: DecisionStore, tmp_path: Path) -> None:
    answers = [decision(at=i) for i in range(3)]
    store.extend(answers)
    content = store.path.read_bytes()
    lines = content.splitlines(keepends=True)
    start = len(lines[0]) + len(lines[1])
    for at in range(start, start + len(lines[2]) - 1, 7):
        changed = bytearray(content)
        changed[at] ^= 1
        if changed[at] == ord("\n"):
            continue
        damaged = cut(tmp_path, bytes(changed))
        assert damaged.load() == [answers[0], answers[2]], at
        assert [d.line for d in damaged.damage()] == [3]
        assert damaged.append(decision(at=9))
        assert [d.line for d in damaged.damage()] == [3]  # still reported, and the line is still there
        assert damaged.path.read_bytes().startswith(bytes(changed))


def test_a_disk_that_is_full_adds_nothing(store: DecisionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.append(decision())
    before = store.path.read_bytes()
    write = os.pwrite

    def half(descriptor: int, data: bytes, offset: int) -> int:
        if len(data) < 20:
            raise OSError(28, "No space left on device")
        return write(descriptor, data[: len(data) // 2], offset)

    monkeypatch.setattr(os, "pwrite", half)
    with pytest.raises(StoreError, match="No space left on device"):
        store.append(decision(at=1))
    monkeypatch.undo()
    assert store.path.read_bytes() == before
    assert store.append(decision(at=1))
    assert len(store.load()) == 2


def test_short_writes_are_completed(store: DecisionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, offset: write(descriptor, data[:10], offset))
    store.extend([decision(), decision(at=1)])
    assert DecisionStore(store.path.parent).load() == [decision(), decision(at=1)]


def test_an_append_is_on_disk_before_it_returns(store: DecisionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[str, int]] = []
    fsync = os.fsync

    def spy(descriptor: int) -> None:
        fsync(descriptor)
        synced.append((os.readlink(f"/proc/self/fd/{descriptor}"), os.fstat(descriptor).st_size))

    monkeypatch.setattr(os, "fsync", spy)
    store.append(decision())
    log, directory = str(store.path), str(store.path.parent)
    assert (log, store.path.stat().st_size) in synced
    assert directory in [name for name, _ in synced]
    synced.clear()
    store.append(decision(at=1))
    assert synced == [(log, store.path.stat().st_size)]


KILLED = """
import itertools, sys
from ndd.data.decisions import DecisionStore
from tests.ndd.data.builders import decision
store = DecisionStore(sys.argv[1])
print("ready", flush=True)
for i in itertools.count(int(sys.argv[2])):
    answer = decision(at=i)
    store.append(answer)
    print(answer.decision_id, flush=True)
"""


def test_killed_at_random_moments_no_acknowledged_decision_is_missing(store: DecisionStore) -> None:
    """SIGKILL while appending in a loop: all that was acknowledged is there, each once, and the store works on."""
    moments = random.Random(20261122)
    acknowledged: list[str] = []
    for i in range(10):
        child = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(store.path.parent), str(i * 1_000_000)],
            stdout=subprocess.PIPE,
            env=child_environment(),
        )
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        acknowledged += [child.stdout.readline().decode().strip() for _ in range(moments.randrange(30))]
        time.sleep(moments.uniform(0.0, 0.004))  # anywhere between and within the steps of an append
        child.send_signal(signal.SIGKILL)
        acknowledged += child.stdout.read().decode().split("\n")[:-1]  # a line cut short was not acknowledged
        assert child.wait() == -signal.SIGKILL
        child.stdout.close()
        stored = [d.decision_id for d in store.load()]
        assert set(acknowledged) <= set(stored)
        assert len(stored) == len(set(stored)) <= len(acknowledged) + i + 1  # one in flight for each kill
        assert store.append(decision("probe", i))
        acknowledged.append(decision("probe", i).decision_id)
    assert len(acknowledged) > 50
    assert len(store.load()) == len(DecisionStore(store.path.parent).load())


def test_a_writer_waits_for_readers_and_for_writers_and_a_reader_for_writers(store: DecisionStore) -> None:
    store.append(decision())
    other = DecisionStore(store.path.parent)
    uses = {
        fcntl.LOCK_SH: [lambda: other.append(decision(at=1))],
        fcntl.LOCK_EX: [lambda: other.append(decision(at=2)), other.load],
    }
    for lock, waiting in uses.items():
        for use in waiting:
            thread = threading.Thread(target=use)
            with store.path.open("rb") as held:
                fcntl.flock(held, lock)
                thread.start()
                thread.join(0.2)
                assert thread.is_alive()
            thread.join()
    with store.path.open("rb") as held:  # readers share
        fcntl.flock(held, fcntl.LOCK_SH)
        assert store.load() == [decision(), decision(at=1), decision(at=2)]


WRITER = """
import sys
from ndd.data.decisions import DecisionStore
from tests.ndd.data.builders import decision
store = DecisionStore(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for i in range(25):
    store.append(decision(at=i, reviewer=sys.argv[2]))
    store.append(decision("shared", i))
"""


def test_concurrent_writers_lose_nothing_and_repeat_nothing(store: DecisionStore) -> None:
    names = ["ada", "bob", "cyd", "dan"]
    command = [sys.executable, "-c", WRITER, str(store.path.parent)]
    children = [
        subprocess.Popen([*command, n], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=child_environment())
        for n in names
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
    own = [decision("mine", i) for i in range(25)]
    writer = threading.Thread(target=lambda: [store.append(d) for d in own])
    writer.start()
    assert [child.communicate(b"go\n", timeout=120)[0] for child in children] == [b""] * 4
    writer.join()
    assert [child.returncode for child in children] == [0] * 4
    wanted = [decision(at=i, reviewer=n) for i, n in itertools.product(range(25), names)]
    wanted += [decision("shared", i) for i in range(25)] + own
    stored = store.load()
    assert len(stored) == len(wanted) == 150
    assert {d.decision_id for d in stored} == {d.decision_id for d in wanted}
    assert store.damage() == []
