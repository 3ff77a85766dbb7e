"""The speed bench on a handful of pictures: what is timed is what a user runs, and both tools see the same files."""

from __future__ import annotations

import argparse
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ndd.errors import NddError, UsageError
from pipelines import bench, bench_embed
from pipelines.bench_peers import PeerMissing
from tests.samples import small_model


@pytest.fixture
def data(tmp_path: Path) -> Path:
    corpus = tmp_path / "data" / "corpus"
    corpus.mkdir(parents=True)
    rng = np.random.default_rng(0)
    with tarfile.open(corpus / "reserve.tar", "w") as tar:
        for at, size in enumerate([(160, 120), (120, 200), (160, 160)]):
            held = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).save(held, "WEBP")
            member = tarfile.TarInfo(f"picture-{at}.webp")
            member.size = len(held.getvalue())
            held.seek(0)
            tar.addfile(member, held)
    return tmp_path / "data"


def test_pictures_are_enlarged_to_the_area_and_keep_their_shape(data: Path, tmp_path: Path) -> None:
    folder = bench_embed.photographs(data / "corpus" / "reserve.tar", tmp_path / "out", images=3)
    sizes = []
    for path in sorted(folder.iterdir()):
        with Image.open(path) as image:
            assert image.format == "JPEG"
            sizes.append(image.size)
    assert sizes == [(500, 375), (335, 559), (433, 433)]
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    bench_embed.photographs(data / "corpus" / "reserve.tar", tmp_path / "out", images=3)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    with pytest.raises(UsageError, match="holds 3 pictures, 4 were asked for"):
        bench_embed.photographs(data / "corpus" / "reserve.tar", tmp_path / "more", images=4)


def test_the_bench_from_outside(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = small_model(tmp_path / "model")
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    given = ["embed", "--data", data, "--model", model, "--images", 3, "--rounds", 1, "--work", tmp_path / "work"]
    arguments = parser.parse_args([str(g) for g in [*given, "--no-peer", "--json", tmp_path / "out.json"]])
    assert bench.run(arguments) == 0
    got = json.loads((tmp_path / "out.json").read_text())
    assert got["images"] == 3 and got["model"]["runtime"] == "torch, fp32"
    assert got["tools"]["ndd embed"]["cpu"] > 0.1, "the processor time of the started process is counted"
    assert got["tools"]["ndd embed"]["rate"] == pytest.approx(3 / got["tools"]["ndd embed"]["wall"])
    assert "64 pixels" in capsys.readouterr().out


def test_the_search_is_timed_with_and_without_keypoints(data: Path, tmp_path: Path) -> None:
    model = small_model(tmp_path / "model")
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    given = ["find", "--speed", "--data", data, "--model", model, "--images", 3, "--rounds", 1, "--no-peer"]
    given += ["--work", tmp_path / "work", "--json", tmp_path / "out.json"]
    assert bench.run(parser.parse_args([str(g) for g in given])) == 0
    got = json.loads((tmp_path / "out.json").read_text())
    assert list(got["tools"]) == ["ndd find", "without keypoints"]
    assert all(of["cpu"] > 0.1 for of in got["tools"].values())
    with pytest.raises(UsageError, match="leave --verify out"):
        bench.run(parser.parse_args([str(g) for g in [*given, "--verify", "none"]]))


def test_a_tool_that_fails_is_no_figure(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "text.jpg").write_text("no picture")
    model = small_model(tmp_path / "model")
    with pytest.raises(NddError, match="exit code 3"):
        bench_embed.measure(folder, model=model, rounds=1, peer=False)
    monkeypatch.delenv("NDD_PEERS", raising=False)
    with pytest.raises(PeerMissing, match="peer missing: fastdup"):
        bench_embed.measure(folder, model=model, rounds=1)
