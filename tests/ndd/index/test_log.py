"""The log: whole frames or nothing, whatever a crash leaves; damage to what was acknowledged is named with its place."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from ndd.errors import StoreError, StoreFull
from ndd.index.log import FRAME, HEADER, Log, Torn
from ndd.index.store import IndexStore
from tests.ndd.index.builders import entry, store_at


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log.create(tmp_path / "log-00000001.ndd")


def payloads(log: Log) -> list[bytes]:
    return [payload for _, payload in log.frames(HEADER)]


def test_what_is_appended_is_read_back_with_its_place(log: Log) -> None:
    sent = [b"one", b"", b"three" * 1000]
    end = log.append(sent, at=HEADER)
    end = log.append([b"four"], at=end)
    assert end == log.size
    found = list(Log(log.path, writable=False).frames(HEADER))
    assert [payload for _, payload in found] == [*sent, b"four"]
    assert all(log.read(at, len(payload)) == payload for at, payload in found)
    assert list(Log.placed([*sent, b"four"], HEADER)) == found


def test_a_log_cut_anywhere_keeps_the_whole_frames_before(log: Log, tmp_path: Path) -> None:
    sent = [b"a" * 30, b"b" * 50, b"c" * 10]
    ends = [log.append([part], at=log.size) for part in sent]
    content = log.path.read_bytes()
    for size in range(HEADER, len(content) + 1):
        (tmp_path / "cut").write_bytes(content[:size])
        cut = Log(tmp_path / "cut", writable=True)
        whole = sum(end <= size for end in ends)
        assert payloads(cut) == sent[:whole]
        end = ([HEADER, *ends])[whole]
        assert cut.cut(end) == (Torn(cut.path, end, size - end) if size > end else None)
        assert cut.size == end
        cut.append([b"next"], at=end)
        assert payloads(cut) == [*sent[:whole], b"next"]


@pytest.mark.parametrize("junk", [bytes(5000), b"NFRM" * 400, b"\xff" * 3])
def test_junk_at_the_end_is_a_torn_tail(log: Log, junk: bytes) -> None:
    """After a power cut some file systems keep the new length without the bytes."""
    end = log.append([b"whole"], at=HEADER)
    log.path.write_bytes(log.path.read_bytes() + junk)
    assert payloads(log) == [b"whole"]
    assert log.cut(end) == Torn(log.path, end, len(junk))
    assert log.path.with_name(log.path.name + ".damaged").read_bytes() == junk


def test_damage_before_whole_frames_is_named_with_file_and_offset(log: Log) -> None:
    first = log.append([b"a" * 40], at=HEADER)
    second = log.append([b"b" * 40], at=first)
    log.append([b"c" * 40], at=second)
    content = log.path.read_bytes()
    for at in range(first, second):
        changed = bytearray(content)
        changed[at] ^= 1
        log.path.write_bytes(changed)
        with pytest.raises(
            StoreError, match=rf"log-00000001.ndd, offset {first}: damaged, whole data goes on at {second}"
        ):
            payloads(Log(log.path, writable=False))


def test_frames_of_other_logs_and_other_places_do_not_count(log: Log, tmp_path: Path) -> None:
    """Bytes that users store may be anything, also what a log holds."""
    end = log.append([b"mine"], at=HEADER)
    frame = log.path.read_bytes()[HEADER:end]
    log.path.write_bytes(log.path.read_bytes() + frame)  # same log, another offset
    assert payloads(log) == [b"mine"]
    other = Log.create(tmp_path / "other")
    other.path.write_bytes(other.path.read_bytes() + frame)  # same offset, another log
    assert payloads(other) == []
    log.cut(end)
    log.append([frame + b"NFRM" + frame, b"last"], at=end)
    changed = bytearray(log.path.read_bytes())
    changed[-1] ^= 1  # the last frame: torn, though what it stands behind is full of marks
    log.path.write_bytes(changed)
    assert payloads(log) == [b"mine", frame + b"NFRM" + frame]


@pytest.mark.parametrize("content", [b"", b"NDDLOG1\n", b"PNG" * 20, b"NDDLOG1\n" + bytes(12)])
def test_another_file_is_not_taken_for_a_log(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "photo").write_bytes(content)
    with pytest.raises(StoreError, match="photo, offset 0: not a log"):
        Log(tmp_path / "photo", writable=False)


def test_an_append_is_on_disk_before_it_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[str, int]] = []
    fsync = os.fsync

    def spy(descriptor: int) -> None:
        fsync(descriptor)
        synced.append((os.readlink(f"/proc/self/fd/{descriptor}"), os.fstat(descriptor).st_size))

    with store_at(tmp_path / "index") as store:
        monkeypatch.setattr(os, "fsync", spy)
        store.add([entry(f"p{i}") for i in range(20)])
        log = tmp_path / "index" / "log-00000001.ndd"
        assert synced == [(str(log), log.stat().st_size)]  # one for all of them
        synced.clear()
        store.remove(["p3", "p4"])
        assert synced == [(str(log), log.stat().st_size)]


def test_an_append_that_fails_half_way_leaves_nothing(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    end = log.append([b"first"], at=HEADER)
    write = os.pwrite

    def half(descriptor: int, data: bytes, offset: int) -> int:
        if len(data) < 40:
            raise OSError(28, "No space left on device")
        return write(descriptor, data[: len(data) // 2], offset)

    monkeypatch.setattr(os, "pwrite", half)
    with pytest.raises(StoreFull, match=r"log-00000001.ndd: no room \(No space left on device\); nothing was added"):
        log.append([b"x" * 500], at=end)
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, offset: write(descriptor, data[:7], offset))
    log.append([b"y" * 500], at=end)  # short writes are completed
    assert payloads(log) == [b"first", b"y" * 500]


def test_a_torn_tail_is_cut_by_the_next_writer_and_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with store_at(tmp_path / "index") as store:
        store.add([entry("a")])
        path = tmp_path / "index" / "log-00000001.ndd"
        whole = path.read_bytes()
        store.add([entry("b")])
    torn = path.read_bytes()[len(whole) : -5]
    path.write_bytes(whole + torn)
    caplog.set_level(logging.WARNING)
    reader = IndexStore.open(tmp_path / "index", read_only=True)
    assert reader.ids() == ["a"]
    with IndexStore.open(tmp_path / "index") as store:
        assert store.ids() == ["a"]
        assert path.read_bytes() == whole
        store.add([entry("c")])
        said = f"log-00000001.ndd: {len(torn)} bytes cut off at {len(whole)}"
        assert store.info()["repaired"] == [said]
        assert "cut short by a crash" in caplog.text
    reader.refresh()
    assert reader.ids() == ["a", "c"]


def test_damage_in_the_middle_of_an_index_is_an_error_with_its_place(tmp_path: Path) -> None:
    with store_at(tmp_path / "index") as store:
        for name in "abc":
            store.add([entry(name)])
    path = tmp_path / "index" / "log-00000001.ndd"
    content = bytearray(path.read_bytes())
    content[HEADER + FRAME + 200] ^= 1
    path.write_bytes(content)
    with pytest.raises(StoreError, match=rf"log-00000001.ndd, offset {HEADER}: damaged"):
        IndexStore.open(tmp_path / "index")


def test_a_damaged_picture_is_named_and_the_others_are_unharmed(tmp_path: Path) -> None:
    """Beyond a snapshot nothing is read again at opening: damage is met where it lies."""
    with store_at(tmp_path / "index") as store:
        store.add([entry("a"), entry("b")])
        store.snapshot()
    path = tmp_path / "index" / "log-00000001.ndd"
    content = bytearray(path.read_bytes())
    content[HEADER + FRAME + 200] ^= 1
    path.write_bytes(content)
    with IndexStore.open(tmp_path / "index") as store:
        for use in (lambda: store.known("a"), store.check, store.compact):
            with pytest.raises(StoreError, match=rf"log-00000001.ndd, offset {HEADER + FRAME}: damaged"):
                use()
        assert store.known("b").id
        store.add([entry("c")])
        assert store.ids() == ["a", "b", "c"]
    assert IndexStore.open(tmp_path / "index").ids() == ["a", "b", "c"]


@pytest.mark.parametrize("name", ["files.json", "vector.npy", "names.npy", "alive.npy"])
def test_a_damaged_snapshot_costs_time_and_nothing_else(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with store_at(tmp_path / "index") as store:
        store.add([entry("a"), entry("b"), entry("c")])
        store.remove(["b"])
        store.snapshot()
        wanted = store.query(store.known("a").vector, k=3)
    (path,) = (tmp_path / "index").glob(f"snapshot-*/{name}")
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with IndexStore.open(tmp_path / "index") as store:
        assert "read from its beginning" in caplog.text
        assert store.ids() == ["a", "c"]
        assert store.query(store.known("a").vector, k=3) == wanted
        caplog.clear()
        store.snapshot()
    assert IndexStore.open(tmp_path / "index").ids() == ["a", "c"]
    assert caplog.text == ""


def test_a_damaged_list_of_files_is_an_error(tmp_path: Path) -> None:
    store_at(tmp_path / "index").close()
    path = tmp_path / "index" / "index.json"
    for content in (path.read_text().replace('"dim": 16', '"dim": 17'), "{}", "", path.read_text()[:-9]):
        path.write_text(content)
        with pytest.raises(StoreError, match=r"index\.json: "):
            IndexStore.open(tmp_path / "index")
