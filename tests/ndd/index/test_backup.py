"""Copies of an index elsewhere: whole at any moment, only what is new is sent, and what comes back is the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ndd.cli import main
from ndd.errors import StoreError, UsageError
from ndd.index.backup import backup, restore
from ndd.index.store import IndexStore
from tests.bucket import bucket
from tests.ndd.index.builders import DIGEST, entry, picture, store_at


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A URL for copies."""
    if request.param == "folder":
        yield f"file://{tmp_path}/copy"
        return
    for name, value in (("ACCESS_KEY_ID", "k"), ("SECRET_ACCESS_KEY", "s"), ("EC2_METADATA_DISABLED", "true")):
        monkeypatch.setenv(f"AWS_{name}", value)
    with bucket({}) as options:
        yield f"s3://b/copies/mine{options}"


def test_what_comes_back_is_what_was_there(place: str, tmp_path: Path) -> None:
    with store_at(tmp_path / "index") as store:
        store.add([entry(f"p{i}", i=i) for i in range(6)])
        first = backup(store, place)
        assert (first["images"], first["sent"]) == (6, 1)
        assert backup(store, place) == {"images": 6, "sent": 0, "bytes": 0}
        store.add([entry("later")])
        store.remove(["p2"])
        second = backup(store, place)
        assert (second["images"], second["sent"]) == (6, 1)
        assert second["bytes"] < first["bytes"]
        store.add([entry("too late")])
        with restore(place, tmp_path / "again") as again:
            assert again.ids() == ["p0", "p1", "p3", "p4", "p5", "later"]
            assert all(again.get(id) == store.get(id) for id in again.ids())
            assert again.embedding_digest == DIGEST
            assert again.info()["next_number"] == 8
            again.add([entry("more")])
        store.compact()
        store.add([entry("p2")])
        assert backup(store, place)["images"] == 8
        with restore(place, tmp_path / "third") as third:
            assert third.ids() == store.ids()
            assert third.known("p2").pack() == picture("p2").pack()
        assert not list((tmp_path / "index").glob(".held*"))
    assert len(IndexStore.open(tmp_path / "again")) == 7


def test_old_logs_leave_the_copy_and_foreign_files_stay(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    with store_at(tmp_path / "index") as store:
        store.add([entry("a"), entry("b")])
        backup(store, f"file://{copy}")
        (copy / "readme.txt").write_text("mine")
        before = {path.name for path in copy.iterdir()}
        store.remove(["a"])
        store.compact()
        backup(store, f"file://{copy}")
    after = {path.name for path in copy.iterdir()}
    assert before & after == {"index.json", "readme.txt"}


def test_damaged_copies_give_no_index(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    with store_at(tmp_path / "index") as store:
        store.add([entry("a"), entry("b")])
        backup(store, f"file://{copy}")
    (log,) = (path for path in copy.glob("log-*") if path.stat().st_size > 100)
    whole = log.read_bytes()
    for content in (whole[:-7], whole[:300] + b"x" + whole[301:], whole[:200]):
        log.write_bytes(content)
        with pytest.raises(StoreError):
            restore(f"file://{copy}", tmp_path / "again")
        assert list((tmp_path / "again").glob("*.json")) == []
    log.unlink()
    with pytest.raises(StoreError, match="no copy of an index"):
        restore(f"file://{copy}", tmp_path / "again")
    with pytest.raises(StoreError, match="no copy of an index"):
        restore(f"file://{tmp_path}/nothing", tmp_path / "again")
    with pytest.raises(StoreError, match="not empty"):
        restore(f"file://{copy}", tmp_path / "index")
    with pytest.raises(UsageError, match="not a place for copies"):
        restore("nonsense://x", tmp_path / "again")


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with store_at(tmp_path / "index") as store:
        store.add([entry("a")])
    url = f"file://{tmp_path}/copy"
    assert main(["index", "backup", str(tmp_path / "index"), url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 1
    assert main(["index", "restore", str(tmp_path / "again"), url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 1
