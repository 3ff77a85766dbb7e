"""`python -m pipelines train --engine local` from outside: what it writes, what it refuses, how it stops."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ndd.cli import guarded
from ndd.data.decisions import DecisionStore
from ndd.data.manifest import ManifestRow, Split, write_manifest
from ndd.data.pack import load_pack
from ndd.errors import StoreError
from ndd.images import read_file
from ndd.model import checkpoint
from ndd.model.directory import describe
from ndd.model.export import export
from ndd.tables import read_failures
from ndd.types import Decision, Verdict, image_id
from pipelines import train
from pipelines.streams import PictureStore
from tests.ndd.training.builders import tiny_pictures

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
QUICK = ["--recipe", "smoke_cpu", "--engine", "local", "--threads", "1"]


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("album")
    for i, pixels in enumerate(tiny_pictures(32, 48)):
        Image.fromarray(pixels).save(folder / f"{i:02}.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 nothing more")
    return folder


def command(*arguments: object) -> list[str]:
    code = "import sys; from pipelines.cli import main; sys.exit(main())"
    return [sys.executable, "-c", code, "train", *map(str, arguments)]


def run_here(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    args = parser.parse_args([str(a) for a in arguments])
    return guarded(lambda: train.run(args), program="train")


@pytest.fixture(scope="module")
def finished(album: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run by the command line in a process that must not import Ray or MLflow, and what it printed."""
    out = tmp_path_factory.mktemp("finished") / "run"
    code = (
        "import sys; from pipelines.cli import main; code = main(); "
        "bad = sorted({'ray', 'mlflow', 'sklearn'} & set(sys.modules)); sys.exit(f'imported {bad}' if bad else code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "train", "--data", album, "--out", out, *QUICK],
        cwd=ROOT, capture_output=True, text=True, check=False, env=ENVIRONMENT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return out, json.loads(done.stdout)


def test_a_folder_becomes_a_model_without_ray_or_mlflow(finished: tuple[Path, dict[str, Any]]) -> None:
    out, summary = finished
    assert (summary["epochs"], summary["steps"]) == (2, 8)
    assert summary["data"]["pictures"] == 32
    assert summary["data"]["unreadable"] == 1
    loaded = checkpoint.load(out / "model")
    assert loaded.embedding_digest == summary["embedding_digest"]
    assert loaded.card["data"]["digest"] == load_pack(out / "pack").digest
    assert loaded.card["metrics"] == json.loads((out / "history.jsonl").read_text().splitlines()[-1])
    assert [failure.path for failure in read_failures(out / "failures.parquet")] == ["broken.jpg"]
    state = torch.load(out / "state.pt", weights_only=True)
    for name, value in loaded.model.state_dict().items():
        mean = state["average"][name]
        assert torch.equal(value, mean.half().float() if mean.is_floating_point() else mean), name


def test_the_same_command_again_has_nothing_to_do(
    album: Path, finished: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    out, summary = finished
    before = (out / "state.pt").stat().st_mtime_ns
    assert run_here("--data", album, "--out", out, *QUICK) == 0
    assert json.loads(capsys.readouterr().out) == summary
    assert (out / "state.pt").stat().st_mtime_ns == before


def test_settings_that_came_later_do_not_end_a_run(
    album: Path, finished: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    out, summary = finished
    note = json.loads((out / "train.json").read_text())
    whole = dict(note["config"])
    note["config"] = {name: value for name, value in whole.items() if name not in ("early_stop", "sampling")}
    (out / "train.json").write_text(json.dumps(note))
    assert run_here("--data", album, "--out", out, *QUICK) == 0
    assert json.loads(capsys.readouterr().out) == summary
    note["config"]["epochs"] = 3
    (out / "train.json").write_text(json.dumps(note))
    assert run_here("--data", album, "--out", out, *QUICK) == 1
    assert "another config" in capsys.readouterr().err
    (out / "train.json").write_text(json.dumps(note | {"config": whole}))


def test_another_run_is_not_mixed_in(
    album: Path, finished: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = finished
    assert run_here("--data", album, "--out", out, *QUICK, "--set", "seed=1") == 1
    assert run_here("--data", album.parent, "--out", out, *QUICK) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert "another config" in first
    assert "another data" in second


def test_sigterm_stops_between_steps(album: Path, tmp_path: Path) -> None:
    many = ["--set", "epochs=500", *QUICK, "--save-seconds", "3600"]
    out = tmp_path / "run"
    with subprocess.Popen(
        command("--data", album, "--out", out, *many), cwd=ROOT, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as process:
        assert process.stderr is not None
        first = process.stderr.readline()
        assert first.startswith("epoch 1 "), first + process.stderr.read()
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
    assert process.returncode == 143
    assert rest.splitlines()[-1].startswith("stopped")
    state = torch.load(out / "state.pt", weights_only=True)
    assert state["step"] == state["epoch"] * 4 + state["done"] >= 4
    assert not (out / "model").exists()


def test_a_manifest_brings_its_own_split(album: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = []
    for i, path in enumerate(sorted(album.glob("*.png"))):
        content = read_file(path)
        side = Split.TEST if i % 4 == 0 else Split.TRAIN
        facts: dict[str, Any] = {"size": len(content), "width": 48, "height": 48, "format": "PNG"}
        rows.append(ManifestRow(id=image_id(content), uri=str(path), path=path.name, split=side, **facts))
    manifest = write_manifest(tmp_path / "manifest.parquet", rows)
    said = {}
    for decode in ("once", "stream"):
        one = ["--set", "epochs=1", "--set", "examples=8", "--decode", decode]
        assert run_here("--data", manifest, "--out", tmp_path / decode, *QUICK, *one) == 0
        said[decode] = json.loads(capsys.readouterr().out)
        assert said[decode]["data"]["held_out"] == 8
        assert said[decode]["data"]["training"] == 24
    # Decoded once or for every view: the same pixels, hence the same weights.
    assert said["once"]["embedding_digest"] == said["stream"]["embedding_digest"]
    assert not (tmp_path / "stream" / "pack").exists()


def test_fine_tuning_on_decisions(
    album: Path, finished: tuple[Path, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The feedback loop's recipe: it goes on with a model, looks for hard strangers and mixes in what people said."""
    out, _ = finished
    store, ids = DecisionStore(tmp_path / "decisions"), sorted(load_pack(out / "pack").ids)
    for i in range(0, 12, 2):
        store.append(
            Decision(
                left_id=ids[i], right_id=ids[i + 1], verdict=Verdict.DISTINCT if i % 4 else Verdict.DUPLICATE,
                relation=None, reviewer="a", time=datetime.now(UTC), embedding_digest="0" * 64, scorer_digest="0" * 64,
            )
        )  # fmt: skip
    init = Path(shutil.copytree(out / "model", tmp_path / "init"))
    export(init, np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), np.uint8), precision="fp32")
    small = ["--set", "examples=32", "--set", "epochs=1", "--set", 'stages=[{"until": 1, "size": 32, "batch": 16}]']
    arguments = ["--init", init, "--decisions", tmp_path / "decisions", *small, *QUICK[2:]]
    assert run_here("--data", out / "pack", "--out", tmp_path / "run", "--recipe", "loop_cpu", *arguments) == 0
    summary = json.loads(capsys.readouterr().out)
    before, after = checkpoint.load(init), checkpoint.load(tmp_path / "run" / "model")
    assert after.config == before.config
    assert after.embedding_digest != before.embedding_digest
    assert summary["data"]["decisions"]["duplicate"] + summary["data"]["decisions"]["distinct"] >= 1
    assert (tmp_path / "run" / "hard-0000.npz").is_file()
    exported = describe(tmp_path / "run" / "model")
    assert exported.runtime is not None, "it is to be searched with as quickly as what it comes from"
    assert exported.runtime.precision == "fp32"
    assert summary["embedding_digest"] == exported.embedding_digest != after.embedding_digest
    for name, value in before.model.state_dict().items():  # BatchNorm is left as it was
        if "running" in name:
            assert torch.equal(after.model.state_dict()[name], value), name


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (["--recipe", "huge"], "there is no such recipe", 2),
        (["--set", "loss.marginn=1"], "loss.marginn: unknown setting", 2),
        (["--set", "epochs"], "expected section.key=value", 2),
        (["--workers", "2"], "use --engine ray", 2),
        (["--recipe", "small"], "give --teacher", 2),
        (["--teacher", "none.npy"], "no effect while loss.teacher is 0", 2),
        (["--init", "nowhere"], "--init nowhere", 2),
        (["--recipe", "loop_cpu"], "name its directory with --init", 2),
        (["--decisions", "EMPTY"], "no effect while sampling.decisions is 0", 2),
        (["--set", "sampling.decisions=0.5"], "name them with --decisions", 2),
        (["--set", "sampling.hard=0.5"], "no effect with loss.kind 'infonce'", 2),
        (["--set", "folds=3", "--set", "fold=3"], "fold must lie in 0…2", 2),
        (["--data", "nowhere"], "--data", 2),
        (["--data", "EMPTY"], "no pictures there", 3),
        (["--decode", "stream"], "needs a manifest", 2),
        (["--out", "FULL"], "holds 'mine.txt' and no training run", 1),
    ],
)
def test_refused_in_one_line(
    album: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str, code: int
) -> None:
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "FULL").mkdir()
    (tmp_path / "FULL" / "mine.txt").write_text("a letter")
    given = [str(tmp_path / a) if a in ("EMPTY", "FULL") else a for a in arguments]
    assert run_here("--data", album, "--out", tmp_path / "run", *QUICK, *given) == code
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "run" / "state.pt").exists()


def test_one_run_directory_one_run(
    finished: tuple[Path, dict[str, Any]], album: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = finished
    with open(out / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert run_here("--data", album, "--out", out, *QUICK) == 1
    assert "another training run" in capsys.readouterr().err


def test_pack_size_is_checked(finished: tuple[Path, dict[str, Any]]) -> None:
    pack = finished[0] / "pack"
    with pytest.raises(StoreError, match="64 pixels, 96 were asked for"):
        PictureStore(path=pack, size=96).open()
    pictures = PictureStore(path=pack, size=64).open()
    assert np.asarray(pictures[np.array([0, 3])]).shape == (2, 64, 64, 3)
