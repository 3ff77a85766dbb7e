"""$NDD_HOME: where it is, and that looking at it leaves no trace."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs
import pytest

from ndd.errors import StoreError
from ndd.home import Home, home


def test_places_below_the_named_directory_and_nothing_created(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NDD_HOME", str(tmp_path / "h"))
    at = home()
    assert (at.decisions, at.queue, at.index, at.mlflow_db, at.champion) == tuple(
        tmp_path / "h" / name for name in ("decisions", "queue", "index", "mlflow.db", "champion")
    )
    assert at / "champion" == at.champion
    assert os.fspath(at) == str(tmp_path / "h")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [None, ""])
def test_unset_or_empty_is_the_platform_directory(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv("NDD_HOME", raising=False)
    if value is not None:
        monkeypatch.setenv("NDD_HOME", value)
    assert home() == Home(Path(platformdirs.user_data_dir("ndd", appauthor=False)))
    assert home().root.is_absolute()


def test_relative_and_tilde_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker process has another working directory: a relative home would be another place there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NDD_HOME", "mine/../here")
    assert home().root == tmp_path / "here"
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    monkeypatch.setenv("NDD_HOME", "~/ndd")
    assert home().root == tmp_path / "me" / "ndd"


def test_a_file_is_no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("NDD_HOME", str(tmp_path / "file"))
    with pytest.raises(StoreError, match="NDD_HOME names a file"):
        home()
