"""`ray job submit … python -m pipelines train`: it logs its epochs, it can be stopped, and the same command goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
from PIL import Image

from tests.integration.head import Head, start_head
from tests.ndd.training.builders import tiny_pictures

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

EPOCHS = 20


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with start_head() as running:
        yield running


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("album")
    for i, pixels in enumerate(tiny_pictures(30, 48)):
        Image.fromarray(pixels).save(folder / f"{i:02}.png")
    return folder


def command(run: Path, album: Path, *more: str) -> tuple[str, ...]:
    start = ("python", "-m", "pipelines", "train", "--recipe", "smoke_cpu", "--data", str(album), "--out", str(run))
    return (*start, "--workers", "1", *more)


def test_a_submitted_run_leaves_a_model_and_its_log(head: Head, album: Path, tmp_path: Path) -> None:
    printed = head.submit(*command(tmp_path / "run", album), job="train")
    assert head.status("train") == "SUCCEEDED", printed
    logs = head.logs("train")
    assert "epoch 1 " in logs
    assert "epoch 2 " in logs
    assert (tmp_path / "run" / "model" / "weights.safetensors").is_file()


def test_a_stopped_run_leaves_no_process_and_goes_on_where_it_was(head: Head, album: Path, tmp_path: Path) -> None:
    run = tmp_path / "long"
    again = command(run, album, "--set", f"epochs={EPOCHS}")
    head.submit(*again, job="long", wait=False)
    head.wait_for("long", "epoch 1 ")
    assert head.status("long") == "RUNNING"
    driver = [process for process in head.processes() if str(run) in process.cmdline()]
    assert driver
    assert head.ray("job", "stop", "long").returncode == 0
    assert head.status("long") == "STOPPED"
    _, alive = psutil.wait_procs(driver, timeout=60)
    assert alive == []
    assert not (run / "model").exists()
    kept = torch.load(run / "state.pt", weights_only=True)
    assert 0 < kept["step"] < 4 * EPOCHS, "what was learned so far is kept"

    printed = head.submit(*again, job="again", timeout=800)
    assert head.status("again") == "SUCCEEDED", printed
    history = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    assert history[: kept["epoch"]] == kept["history"]
    assert [epoch["epoch"] for epoch in history] == list(range(EPOCHS))
    assert history[-1]["steps"] == 4 * EPOCHS  # no step was taken twice
    logs = head.logs("again")
    assert "epoch 1 " not in logs
    assert f"epoch {EPOCHS} " in logs
    assert (run / "model" / "weights.safetensors").is_file()
