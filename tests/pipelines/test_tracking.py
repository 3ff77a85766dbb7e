"""What MLflow is told: one run however often it is gone on with, one version per run, never an alias."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ndd.errors import StoreError
from ndd.home import home
from ndd.model.directory import describe, shipped
from pipelines.tracking import REGISTERED_MODEL, TrackedRun, tracking_uri
from tests.mlflow import MLFLOW_WARNINGS

pytestmark = [*MLFLOW_WARNINGS, pytest.mark.usefixtures("tracked")]


def client(uri: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def model_at(directory: Path) -> Path:
    directory.mkdir(parents=True)
    (directory / "config.json").write_text("{}")
    (directory / "weights.safetensors").write_bytes(directory.as_posix().encode())
    return directory


def test_where_it_is(monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    assert tracking_uri() == uri
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert tracking_uri() == f"sqlite:///{home().mlflow_db}"
    assert home().mlflow_db.parent.is_dir()


def test_a_run_that_goes_on_stays_one_run(tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = TrackedRun.open(
        tmp_path, params={"optim": {"lr": 0.5}, "kind": "none", "big": list(range(4000))}, tags={"a": "b"}
    )
    first.log_epoch({"epoch": 0, "loss": 2.0, "similarity": float("nan")})
    first.end("KILLED")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////nowhere/else.db")  # the run stays where it began
    again = TrackedRun.open(tmp_path, params={"optim": {"lr": 9.0}}, tags={})
    assert again == first
    assert again.epochs() == {0}
    again.log_epoch({"epoch": 1, "loss": 1.0})
    run = client(uri).get_run(first.run_id)
    assert run.info.status == "RUNNING"
    assert run.data.params["optim.lr"] == "0.5"
    assert run.data.params["kind"] == "none"
    assert run.data.tags["a"] == "b"
    assert run.data.metrics == {"loss": 1.0}
    assert [(m.step, m.value) for m in client(uri).get_metric_history(first.run_id, "loss")] == [(0, 2.0), (1, 1.0)]
    again.end("FINISHED")
    assert client(uri).get_run(first.run_id).info.status == "FINISHED"


def test_versions(tmp_path: Path, uri: str) -> None:
    """The shipped model is the first version, every run's the next, and none has an alias."""
    runs = []
    for name in ("one", "two"):
        run = TrackedRun.open(tmp_path / name, params={}, tags={})
        model = model_at(tmp_path / name / "model")
        version = run.register(model, tags={"data_digest": name})
        assert run.register(model, tags={}) == version
        runs.append((version, run, model))
    versions = {v.version: v for v in client(uri).search_model_versions(f"name = '{REGISTERED_MODEL}'")}
    assert {int(v) for v in versions} == {1, 2, 3}
    by_number = {str(v): found for v, found in versions.items()}
    assert by_number["1"].tags["embedding_digest"] == describe(shipped()).embedding_digest
    for version, run, model in runs:
        assert by_number[version].run_id == run.run_id
        assert by_number[version].tags["embedding_digest"] == describe(model).embedding_digest
        kept = Path(client(uri).download_artifacts(run.run_id, "model"))
        files = {p.name: p.read_bytes() for p in kept.iterdir()}
        assert files.pop("MLmodel")
        assert files == {p.name: p.read_bytes() for p in model.iterdir()}
    assert client(uri).get_registered_model(REGISTERED_MODEL).aliases == {}


def test_artifacts_lie_beside_the_database(tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path / "working directory"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    run = TrackedRun.open(tmp_path / "run", params={}, tags={})
    place = client(uri).get_run(run.run_id).info.artifact_uri
    assert place.startswith(Path(uri.removeprefix("sqlite:///")).parent.as_uri())
    assert not list(elsewhere.iterdir())


def test_a_run_that_is_gone_is_told(tmp_path: Path, uri: str) -> None:
    (tmp_path / "mlflow.json").write_text(json.dumps({"uri": uri, "run_id": "0" * 32}))
    with pytest.raises(StoreError, match="MLFLOW_TRACKING_URI"):
        TrackedRun.open(tmp_path, params={}, tags={})
    (tmp_path / "mlflow.json").write_text("{")
    with pytest.raises(StoreError, match=r"mlflow\.json"):
        TrackedRun.open(tmp_path, params={}, tags={})


@pytest.mark.filterwarnings("ignore::UserWarning")  # MLflow's own type hints, at import
def test_a_registered_version_scores_pairs(tmp_path: Path, uri: str) -> None:
    import mlflow
    import pandas as pd

    from ndd.detector import Detector
    from tests.ndd.pictures import encode, photo

    TrackedRun.open(tmp_path / "run", params={}, tags={}).register(model_at(tmp_path / "run" / "model"), tags={})
    mlflow.set_tracking_uri(uri)
    model = mlflow.pyfunc.load_model(f"models:/{REGISTERED_MODEL}/1")  # the shipped one
    signature = model.metadata.signature
    assert signature.inputs.input_names() == ["left", "right"]
    assert [(c.name, c.type.name) for c in signature.outputs.inputs] == [
        ("score", "double"), ("distance", "double"), ("duplicate", "boolean"),
    ]  # fmt: skip
    one, other = encode(photo(), "PNG"), encode(photo()[::-1, ::-1, ::-1], "PNG")
    (tmp_path / "small.jpg").write_bytes(encode(photo()[::2, ::2], "JPEG", quality=90))
    pairs = pd.DataFrame({"left": [one, str(tmp_path / "small.jpg")], "right": [str(tmp_path / "small.jpg"), other]})
    found = model.predict(pairs)
    assert list(found.columns) == ["score", "distance", "duplicate"]
    detector = Detector(shipped())
    for row, (left, right) in enumerate(zip(pairs["left"], pairs["right"], strict=True)):
        expected = detector.compare(left, right)
        assert found.loc[row].tolist() == [expected.score, expected.distance, expected.duplicate]
    assert found["score"][0] > found["score"][1]
    for wrong, message in (({"left": [one]}, "right"), ({"left": [one], "right": [7]}, "row 0, column 'right'")):
        with pytest.raises(Exception, match=message):
            model.predict(pd.DataFrame(wrong))


def test_the_curves_are_drawn_again_each_epoch(tmp_path: Path, uri: str) -> None:
    from PIL import Image

    run = TrackedRun.open(tmp_path / "run", params={}, tags={})
    history = [{"epoch": 0, "loss": 2.0, "val_mrr": 0.1, "centre_norm": 0.9}, {"epoch": 1, "loss": 1.0, "val_mrr": 0.2}]
    sizes = []
    for epochs in (1, 2):
        run.log_health(history[:epochs])
        kept = Path(client(uri).download_artifacts(run.run_id, "plots/health.png"))
        with Image.open(kept) as picture:
            sizes.append((picture.size, picture.convert("L").resize((64, 64)).tobytes()))
    assert sizes[0][0] == sizes[1][0]
    assert sizes[0][1] != sizes[1][1]
