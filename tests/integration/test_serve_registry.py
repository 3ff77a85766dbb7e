"""A server whose model is `models:/ndd@champion` in a real registry, a SQLite file: it follows the alias."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from ndd.model.directory import describe
from ndd.verify.score import DEFAULT_CALIBRATION
from pipelines.registry import register, set_alias
from tests.mlflow import MLFLOW_WARNINGS
from tests.samples import photographs, small_model
from tests.serve.running import Running, encoded, running

pytestmark = MLFLOW_WARNINGS


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, Path]:
    """Two models of one embedding and one of another; the first is the champion."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    first, other = small_model(tmp_path / "first"), small_model(tmp_path / "other", seed=1)
    calibrated = Path(shutil.copytree(first, tmp_path / "calibrated"))
    table: dict[str, Any] = {**DEFAULT_CALIBRATION, "bias": -30.0}
    (calibrated / "calibration.json").write_text(json.dumps(table))
    return {"first": first, "calibrated": calibrated, "other": other}


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.1)


def crown(model: Path) -> None:
    """What a promotion does in the registry."""
    set_alias("champion", register(model, origin="test"))


def dethrone() -> None:
    """Nobody is champion."""
    from mlflow import MlflowClient

    uri = os.environ["MLFLOW_TRACKING_URI"]
    MlflowClient(tracking_uri=uri, registry_uri=uri).delete_registered_model_alias("ndd", "champion")


def scorer(server: Running) -> str:
    with server.client() as client:
        return str(client.model()["digests"]["scorer"])


def test_the_alias_is_followed_and_what_cannot_be_served_is_refused(tmp_path: Path, models: Mapping[str, Path]) -> None:
    crown(models["first"])
    picture = encoded(photographs()["cat"])
    with running(tmp_path, Path("models:/ndd@champion"), {"watch_seconds": 0.2, "review.rate": 0}) as server:
        assert scorer(server) == describe(models["first"]).scorer_digest
        with server.client() as client:
            client.add(picture, id="cat")
            crown(models["calibrated"])
            until(lambda: scorer(server) == describe(models["calibrated"]).scorer_digest)
            assert client.query(picture).matches[0].id == "cat", "a recalibrated model keeps the index"
            crown(models["other"])
            until(lambda: client.model()["refused"] is not None)
            assert scorer(server) == describe(models["calibrated"]).scorer_digest
            dethrone()
            until(lambda: "cannot be loaded" in str(client.model()["refused"]))
            crown(models["first"])
            until(lambda: scorer(server) == describe(models["first"]).scorer_digest)
            assert client.model()["refused"] is None
            assert client.query(picture).matches[0].id == "cat"
