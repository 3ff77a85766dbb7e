"""Atomic writes: whole or absent, durable before return. Digests."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from ndd import files
from ndd.files import atomic_path


def test_atomic_path_shows_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    target = tmp_path / "a.npy"
    target.write_text("old")
    with atomic_path(target) as temporary:
        assert temporary.suffix == ".npy"
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    with pytest.raises(KeyError), atomic_path(target) as temporary:
        temporary.write_text("broken")
        raise KeyError
    assert target.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.npy"]


def test_bytes_are_synced_before_the_name_and_the_name_before_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, os.replace

    def spy_fsync(descriptor: int) -> None:
        events.append("sync " + os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    def spy_replace(source: Path, target: Path) -> None:
        events.append(f"rename {source}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(os, "replace", spy_replace)
    with atomic_path(tmp_path / "a") as temporary:
        temporary.write_text("x")
    assert events == [f"sync {temporary}", f"rename {temporary}", f"sync {tmp_path}"]


def test_a_digest_is_of_all_contents_in_their_order(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(b"a" * 3_000_000)
    second.write_bytes(b"bc")
    assert files.digest_of(first, second) == hashlib.sha256(b"a" * 3_000_000 + b"bc").hexdigest()
    assert files.digest_of(second, first) == hashlib.sha256(b"bc" + b"a" * 3_000_000).hexdigest()
    with pytest.raises(FileNotFoundError) as caught:
        files.digest_of(first, tmp_path / "third")
    assert caught.value.filename == str(tmp_path / "third")


def test_a_digest_is_remembered_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    fresh = files.digest_of(path)
    assert fresh not in files._DIGESTS.values(), "it may be written again within the clock's grain"
    monkeypatch.setattr(files, "_SETTLED", -(10**18))
    assert files.digest_of(path) == fresh
    assert fresh in files._DIGESTS.values()
    monkeypatch.setattr(files.hashlib, "sha256", lambda: pytest.fail("it was read again"))
    assert files.digest_of(path) == fresh
    monkeypatch.undo()
    time.sleep(0.05)
    kept = path.stat()
    path.write_bytes(b"two")
    os.utime(path, ns=(kept.st_atime_ns, kept.st_mtime_ns))  # as an archive unpacks it
    assert files.digest_of(path) == hashlib.sha256(b"two").hexdigest()
