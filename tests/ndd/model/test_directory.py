"""Where the model is looked for, and that a place which was named is never passed over."""

from __future__ import annotations

from pathlib import Path

import pytest

from ndd.errors import ModelError
from ndd.home import home
from ndd.model.directory import resolve, shipped


def model_at(directory: Path) -> Path:
    directory.mkdir(parents=True)
    (directory / "config.json").write_text("{}")
    (directory / "weights.safetensors").write_bytes(b"")
    return directory


def test_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named, from_environment = model_at(tmp_path / "named"), model_at(tmp_path / "environment")
    promoted = model_at(Path(home()) / "champion")
    assert resolve() == promoted
    monkeypatch.setenv("NDD_MODEL", str(from_environment))
    assert resolve() == from_environment
    assert resolve(named) == named
    monkeypatch.setenv("NDD_MODEL", "")
    assert resolve() == promoted


@pytest.mark.parametrize("origin", ["--model", "NDD_MODEL", "champion"])
def test_a_named_place_without_a_model_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, origin: str
) -> None:
    if origin == "champion":
        (Path(home()) / "champion").mkdir(parents=True)
    else:
        model_at(Path(home()) / "champion")
    if origin == "NDD_MODEL":
        monkeypatch.setenv("NDD_MODEL", str(tmp_path / "nowhere"))
    with pytest.raises(ModelError, match=origin):
        resolve(tmp_path / "nowhere" if origin == "--model" else None)


def test_the_shipped_one_lies_in_the_package() -> None:
    import ndd

    assert shipped() == Path(ndd.__file__).parent / "champion"
