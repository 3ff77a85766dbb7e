"""Training on Ray from end to end: it takes the local engine's steps, tells MLflow, and outlives a killed worker."""

from __future__ import annotations

import argparse
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from PIL import Image

from ndd.home import home
from ndd.model import checkpoint
from pipelines import train
from pipelines.session import ray_session
from tests.mlflow import MLFLOW_WARNINGS
from tests.ndd.training.builders import tiny_pictures

pytestmark = MLFLOW_WARNINGS  # Ray, too, warns of settings of its own that it sets itself

TWENTY = ["--recipe", "smoke_cpu", "--threads", "1", "--set", "epochs=2", "--set", "examples=80"]


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("album")
    for i, pixels in enumerate(tiny_pictures(40, 48)):
        Image.fromarray(pixels).save(folder / f"{i:02}.png")
    return folder


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    with ray_session(workers=2):
        yield


def run(album: Path, out: Path, *arguments: object) -> int:
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    return train.run(parser.parse_args([str(a) for a in ("--data", album, "--out", out, *TWENTY, *arguments)]))


def state_of(out: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(out / "state.pt", weights_only=True)
    return state


def tracked(out: Path) -> tuple[Any, Any, dict[str, str]]:
    """MLflow's client, the run, and what the run directory notes of it."""
    from mlflow import MlflowClient

    noted = json.loads((out / "mlflow.json").read_text())
    assert noted["uri"] == f"sqlite:///{home().mlflow_db}"
    client = MlflowClient(tracking_uri=noted["uri"], registry_uri=noted["uri"])
    return client, client.get_run(noted["run_id"]), noted


@pytest.mark.timeout(900)
@pytest.mark.usefixtures("ray")
def test_twenty_steps_on_ray_are_those_of_the_local_engine(
    album: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(album, tmp_path / "local", "--engine", "local") == 0
    capsys.readouterr()
    assert run(album, tmp_path / "ray", "--engine", "ray", "--workers", 1) == 0
    summary = json.loads(capsys.readouterr().out)
    local, on_ray = state_of(tmp_path / "local"), state_of(tmp_path / "ray")
    assert local["step"] == on_ray["step"] == 20
    for part in ("model", "average"):
        for name, value in local[part].items():
            assert torch.allclose(on_ray[part][name].double(), value.double(), rtol=0, atol=1e-6), name
    for ours, theirs in zip(local["history"], on_ray["history"], strict=True):
        for name, value in ours.items():
            assert name == "seconds" or theirs[name] == pytest.approx(value, abs=1e-6), name

    client, mlflow_run, noted = tracked(tmp_path / "ray")
    card = checkpoint.load(tmp_path / "ray" / "model").card
    assert mlflow_run.info.status == "FINISHED"
    assert mlflow_run.data.params["recipe"] == "smoke_cpu"
    assert mlflow_run.data.params["optim.lr"] == "0.002"
    assert mlflow_run.data.tags["data_digest"] == card["data"]["digest"] == summary["data"]["digest"]
    assert mlflow_run.data.tags["code_version"] == card["versions"]["code"]
    losses = [m.value for m in client.get_metric_history(mlflow_run.info.run_id, "loss")]
    assert losses == pytest.approx([epoch["loss"] for epoch in on_ray["history"]])
    versions = client.search_model_versions("name = 'ndd'")
    mine = next(v for v in versions if v.run_id == mlflow_run.info.run_id)
    assert str(mine.version) == noted["version"] == summary["version"]
    assert mine.tags["embedding_digest"] == summary["embedding_digest"]
    assert client.get_registered_model("ndd").aliases == {}  # only promotion and retraining set any
    with Image.open(client.download_artifacts(mlflow_run.info.run_id, "plots/health.png")) as curves:
        assert min(curves.size) > 300
    kept = Path(client.download_artifacts(mlflow_run.info.run_id, "model"))
    assert checkpoint.load(kept).embedding_digest == summary["embedding_digest"]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("ray")
def test_a_killed_worker_does_not_end_the_run(album: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    killed: list[int] = []

    def kill_one() -> None:
        wait_for(lambda: (out / "state.pt").exists(), 240)
        worker = max(training_workers(), key=lambda process: process.create_time())
        killed.append(state_of(out)["step"])
        worker.send_signal(signal.SIGKILL)

    thread = threading.Thread(target=kill_one)
    thread.start()
    code = run(album, out, "--set", "examples=64", "--engine", "ray", "--workers", 2, "--save-seconds", 0)
    thread.join()
    assert code == 0
    state = state_of(out)
    assert killed
    assert killed[0] < state["step"] == 16
    assert [epoch["epoch"] for epoch in state["history"]] == [0, 1]
    assert [epoch["steps"] for epoch in state["history"]] == [8, 16]
    client, mlflow_run, _ = tracked(out)
    assert mlflow_run.info.status == "FINISHED"
    steps = {m.step for m in client.get_metric_history(mlflow_run.info.run_id, "loss")}
    assert steps == {0, 1}
    assert len(client.search_runs([mlflow_run.info.experiment_id], "attributes.run_name = 'run'")) == 1
    assert checkpoint.load(out / "model").card["workers"] == 2


def training_workers() -> list[psutil.Process]:
    found = []
    for process in psutil.Process(os.getpid()).children(recursive=True):
        try:
            if "RayTrainWorker" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("it never came")
        time.sleep(0.1)
