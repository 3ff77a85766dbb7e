"""kill -9 at random moments, and disks without room: nothing acknowledged is lost, nothing half done is seen."""

from __future__ import annotations

import errno
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import pytest

from ndd.errors import StoreFull
from ndd.index.store import IndexStore, Settings
from tests.ndd.data.builders import ROOT, child_environment
from tests.ndd.index.builders import DIGEST, entry, picture, store_at
from tests.ndd.index.forks import SMALL


class Children:
    """Children of one process that writes to indexes; see `tests.ndd.index.forks`."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.ndd.index.forks"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=child_environment(), cwd=ROOT
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()
        assert self._process.returncode == 0

    def start(self, *task: object) -> Iterator[list[Any]]:
        """What the child of a task says, up to its end; a line it did not finish was not said."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(task).encode() + b"\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            # Death may cut a word short; what the parent says follows on the same line.
            said = json.loads(line[max(0, line.rfind(b'["died"')) :])
            yield said
            if said[0] == "died":
                return


def run_and_kill(children: Children, root: Path, seed: int, after: float) -> Iterator[tuple[str, list[str], str, bool]]:
    """What a child did until it was killed: (what, ids, name, acknowledged)."""
    talk = children.start("mix", str(root), seed)
    word, pid = next(talk)
    assert word == "ready", "the index opens after every kill"
    time.sleep(after)
    os.kill(pid, signal.SIGKILL)
    *said, last = talk
    assert last == ["died", -signal.SIGKILL]
    for i in range(0, len(said), 2):
        _, what, ids, name = said[i]
        yield what, ids, name, i + 1 < len(said)


def apply(model: dict[str, str], what: str, ids: list[str], name: str) -> dict[str, str]:
    """What the index holds after an operation: id → the name its picture was made from."""
    after = dict(model)
    for id in ids:
        if what == "remove":
            after.pop(id, None)
        elif what in ("add", "replace"):
            after[id] = id + name
    return after


def holds(store: IndexStore, model: dict[str, str]) -> bool:
    """True if the store holds exactly this, every byte of it."""
    if sorted(store.ids()) != sorted(model):
        return False
    for id, name in model.items():
        got = store.get(id)
        assert got is not None
        if got.picture != picture(name).pack():
            return False
        assert got.metadata == {"by": name.removeprefix(id)}
        assert store.query(picture(name).vector, k=1)[0][0].id == id
    return True


def survive(children: Children, root: Path, *, kills: int, seed: int) -> dict[str, int]:
    """Kill a writing child again and again; how often each operation was interrupted."""
    store_at(root, settings=SMALL).close()
    moments = random.Random(seed)
    model: dict[str, str] = {}
    interrupted = dict.fromkeys(("add", "replace", "remove", "snapshot", "compact", "none"), 0)
    reader = IndexStore.open(root, read_only=True, settings=SMALL)
    done = 0
    for kill in range(kills):
        candidates = [model]
        state = "none"
        for what, ids, name, acknowledged in run_and_kill(children, root, seed + kill, moments.uniform(0.0, 0.4)):
            after = apply(model, what, ids, name)
            model, candidates, state = (after, [after], "none") if acknowledged else (model, [model, after], what)
            done += 1
        interrupted[state] += 1
        picture.cache_clear()
        with IndexStore.open(root, embedding_digest=DIGEST, settings=SMALL) as store:
            found = [candidate for candidate in candidates if holds(store, candidate)]
            assert found, f"kill {kill} during {state}: neither what was before nor what was begun"
            model = found[-1]
            if kill % 5 == 4:  # the next child may meet what this one left, or find it tidied up
                store.remove([])
                store.add([entry("probe", f"probe{kill}")], replace=True)
                store.remove(["probe"])
        reader.refresh()
        assert sorted(reader.ids()) == sorted(model)
    assert done > kills
    return interrupted


def test_killed_at_random_moments_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    with Children() as children:
        survive(children, tmp_path / "index", kills=4, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_a_hundred_times_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    with Children() as children:
        interrupted = survive(children, tmp_path / "index", kills=100, seed=1000)
    assert all(interrupted[what] for what in ("add", "remove", "compact")), interrupted


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("what", ["add", "remove", "snapshot", "compact"])
def test_killed_before_each_step_to_the_disk_the_index_is_whole(tmp_path: Path, what: str) -> None:
    """Every system call that changes the disk, one after the other."""
    after = {"add": ["a", "b", "c", "d"], "remove": []}.get(what, ["a", "b"])
    with Children() as children:
        for step in range(1, 100):
            root = tmp_path / str(step)
            with store_at(root) as store:
                store.add([entry("a"), entry("gone"), entry("b")])
                store.snapshot()
                store.remove(["gone"])
            ((_, status),) = children.start("step", str(root), what, step)
            with IndexStore.open(root) as store:
                assert store.ids() in (["a", "b"], after), step
                assert store.check() == len(store)
                number = store.info()["next_number"]
                store.add([entry("e")])
                assert store.info()["next_number"] == number + 1 >= 5
                assert store.known("e").id == picture("e").id
            assert not [p.name for p in root.iterdir() if p.match(".ndd-*")]
            if status == 0:
                assert step > 1
                return
            assert status == -signal.SIGKILL
    pytest.fail("there was no end to the steps")


@contextmanager
def no_larger_files(size: int) -> Iterator[None]:
    """Every write beyond this many bytes of a file fails, as on a full disk (EFBIG)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_without_room_reads_go_on_and_writes_say_so_until_there_is_room_again(tmp_path: Path) -> None:
    with store_at(tmp_path / "index") as store:
        store.add([entry(f"p{i}") for i in range(8)])
        store.snapshot()
        size = (tmp_path / "index" / "log-00000001.ndd").stat().st_size
        kept = store.ids()
        writes = [
            lambda: store.add([entry(f"q{i}") for i in range(5)]),
            lambda: store.add([entry("p1", "other")], replace=True),
            lambda: store.remove(["p3"]),
            store.snapshot,
            store.compact,
        ]
        for room, refused in ((size + 700, writes[:1]), (size + 3, writes[:3]), (200, writes)):
            with no_larger_files(room):
                for write in refused:
                    with pytest.raises(StoreFull, match="no room"):
                        write()
                    assert store.ids() == kept
                    assert store.query(picture("p1").vector, k=1)[0][0].id == "p1"
                    assert store.known("p7").pack() == picture("p7").pack()
        assert IndexStore.open(tmp_path / "index", read_only=True).ids() == kept
        for write in writes:
            write()
        kept = store.ids()
        assert sorted(kept) == sorted(["p0", "p1", "p2", "p4", "p5", "p6", "p7", "q0", "q1", "q2", "q3", "q4"])
    with IndexStore.open(tmp_path / "index") as store:
        assert store.ids() == kept
        assert store.check() == len(kept)


def test_a_full_disk_does_not_spoil_the_write_before_the_tidying(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A snapshot is due, and there is no room for it: the pictures are added all the same."""
    settings = Settings(tail_bytes=1)
    with store_at(tmp_path / "index", settings=settings) as store:
        mkdir = Path.mkdir

        def full(self: Path, *args: object, **kwargs: object) -> None:
            if self.name.startswith("snapshot-"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            mkdir(self, *args, **kwargs)  # type: ignore[arg-type]

        monkeypatch.setattr(Path, "mkdir", full)
        store.add([entry("a")])
        store.add([entry("b")])
        assert store.info()["bytes"]["snapshot"] == 0
        monkeypatch.undo()
        for i in range(20):
            store.add([entry(f"p{i}")])
        assert store.info()["bytes"]["snapshot"] > 0
    assert len(IndexStore.open(tmp_path / "index")) == 22
