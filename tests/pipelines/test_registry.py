"""References to models, against a real registry in a SQLite file."""

from __future__ import annotations

from pathlib import Path

import pytest

from ndd.errors import ModelError, StoreError
from ndd.home import home
from ndd.model.directory import CARD, describe, shipped
from pipelines.registry import alias, fetch, register, set_alias
from pipelines.tracking import Registry, content_digest
from tests.mlflow import MLFLOW_WARNINGS
from tests.samples import small_model

pytestmark = [*MLFLOW_WARNINGS, pytest.mark.usefixtures("tracked")]


def test_from_a_directory_to_a_version_and_back(tmp_path: Path) -> None:
    model = small_model(tmp_path / "mine", seed=1)
    version = register(model, origin="test")
    assert int(version) > 1, "the shipped model is the first"
    assert register(model, origin="again") == version, "the same files are one version"
    fetched = fetch(f"models:/ndd/{version}")
    assert content_digest(fetched) == content_digest(model)
    assert describe(fetched).embedding_digest == describe(model).embedding_digest
    assert fetched.parent == home() / "models"
    assert fetch(f"models:/ndd/{version}") == fetched
    assert content_digest(fetch("models:/ndd/1")) == content_digest(shipped())
    assert not list((home() / "models").glob(".fetch-*")), "nothing half done stays"


def test_an_alias_is_moved_and_followed(tmp_path: Path) -> None:
    first, second = (register(small_model(tmp_path / str(seed), seed=seed), origin="test") for seed in (2, 3))
    assert alias("tried") is None
    set_alias("tried", first)
    was = fetch("models:/ndd@tried")
    set_alias("tried", second)
    assert alias("tried") == second
    assert fetch("models:/ndd@tried") != was
    with pytest.raises(StoreError, match="no version 4711"):
        set_alias("tried", "4711")
    assert alias("tried") == second


@pytest.mark.parametrize(
    "text", ["models:/other@champion", "models:/ndd", "models:/ndd/x", "models:/ndd/4711", "models:/ndd@no"]
)
def test_a_reference_that_leads_nowhere(text: str) -> None:
    with pytest.raises(ModelError, match="models:/ndd"):
        fetch(text)


def test_a_path_is_a_model_directory_or_an_error(tmp_path: Path) -> None:
    assert fetch(None) == shipped()
    assert fetch(shipped()) == shipped()
    with pytest.raises(ModelError, match="nowhere"):
        fetch(tmp_path / "nowhere")


def test_files_that_were_changed_behind_the_registry_are_refused(tmp_path: Path) -> None:
    version = register(small_model(tmp_path / "mine", seed=5), origin="test")
    registry = Registry()
    held = registry.download(registry.by_number(version), tmp_path)
    source = registry.by_number(version).source.removeprefix("file://")
    assert held.is_dir()
    (Path(source) / CARD).write_text('{"note": "changed"}')
    with pytest.raises(StoreError, match="not those that were registered"):
        fetch(f"models:/ndd/{version}")
    assert not [path for path in (home() / "models").glob("*") if path.is_dir()]


def test_figures_and_files_become_a_finished_run(tmp_path: Path, uri: str) -> None:
    from mlflow import MlflowClient

    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.svg").write_text("<svg/>")
    (tmp_path / "metrics.json").write_text("{}")
    figures = {"search.map.value": 0.5, "nothing": float("nan")}
    files = [tmp_path / "metrics.json", tmp_path / "pictures"]
    run = Registry().log("a name", figures=figures, files=files, experiment="ndd-evaluate")
    client = MlflowClient(tracking_uri=uri)
    assert client.get_run(run).data.metrics == {"search.map.value": 0.5}
    assert client.get_run(run).info.status == "FINISHED"
    assert {item.path for item in client.list_artifacts(run)} == {"metrics.json", "pictures"}
    assert [item.path for item in client.list_artifacts(run, "pictures")] == ["pictures/a.svg"]
