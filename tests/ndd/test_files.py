"""Atomic writes: whole or absent, durable before return."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

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
