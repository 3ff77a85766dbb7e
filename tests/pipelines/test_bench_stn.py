"""The transformer's bench: poses that are right pass, poses that do not depend on the picture fail, whatever they are."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ndd.config import ModelConfig, StnConfig
from ndd.errors import UsageError
from ndd.model import checkpoint
from ndd.model.siamese import SiameseEmbedder
from pipelines import bench, bench_stn
from pipelines.album import Album, Photo, build_album

SIZE = 32
FRAME = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])


def pictures(count: int) -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(0)
    coarse = [rng.integers(0, 256, (8, 10, 3), dtype=np.uint8) for _ in range(count)]
    return [np.asarray(Image.fromarray(c).resize((150, 120), Image.Resampling.BICUBIC)) for c in coarse]


def constant(matrix: list[list[float]], shift: tuple[float, float] = (0.0, 0.0)) -> bench_stn.Align:
    def align(x: Tensor) -> tuple[Tensor, Tensor]:
        return x, (FRAME @ torch.tensor(matrix, dtype=torch.float32).T + torch.tensor(shift)).expand(len(x), 4, 2)

    return align


@pytest.mark.parametrize(
    "align",
    [
        constant([[1.0, 0.0], [0.0, 1.0]]),
        constant([[0.05, 0], [0, 0.05]]),
        constant([[8.0, 0.0], [0.0, 8.0]]),
        constant([[0.1, 0], [0, 1]]),
        constant([[0.3, -0.3], [0.3, 0.3]], (0.2, -0.4)),
    ],
    ids=["identity", "zooms in", "zooms out", "collapsed", "turned and aside"],
)
def test_a_constant_pose_fails_every_limit(align: bench_stn.Align) -> None:
    found = bench_stn.alignment(align, pictures(40), size=SIZE)
    for family, limit in bench_stn.LIMITS.items():
        if limit is not None:
            assert not found[family]["kept"], (family, found[family])
    assert max(found["rotation"]["picture"], found["rotation"]["frame"]) >= 0.99


def knows(monkeypatch: pytest.MonkeyPatch, wrong: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> None:
    """Let the views carry their edit, so that the pose can be read off them (up to what `wrong` makes of it)."""

    def view(pixels: NDArray[np.uint8], of_copy: NDArray[np.float64], size: int) -> NDArray[np.uint8]:
        return wrong(np.asarray(of_copy)).astype(np.float32).view(np.uint8).reshape(3, 3, 4)  # type: ignore[no-any-return]

    def corners(align: bench_stn.Align, views: list[NDArray[np.uint8]]) -> NDArray[np.float64]:
        maps = [np.ascontiguousarray(v).view(np.float32).reshape(3, 3).astype(np.float64) for v in views]
        return np.stack([bench_stn._mapped(np.linalg.inv(m), bench_stn._FRAME) for m in maps])

    monkeypatch.setattr(bench_stn, "_view", view)
    monkeypatch.setattr(bench_stn, "_corners", corners)


def test_the_true_pose_has_no_error_and_half_of_it_half(monkeypatch: pytest.MonkeyPatch) -> None:
    knows(monkeypatch, lambda matrix: matrix)
    found = bench_stn.alignment(constant([[1.0, 0.0], [0.0, 1.0]]), pictures(20), size=SIZE)
    assert all(of["picture"] < 1e-4 and of["frame"] < 1e-4 for of in found.values())
    assert all(of["kept"] for of in found.values() if of["limit"] is not None)
    # Turning the wrong way errs by more than doing nothing.
    knows(monkeypatch, lambda matrix: np.linalg.inv(matrix))
    wrong = bench_stn.alignment(constant([[1.0, 0.0], [0.0, 1.0]]), pictures(20), size=SIZE)
    assert wrong["rotation"]["picture"] > 1.5 and not wrong["rotation"]["kept"]


@pytest.mark.parametrize("family", bench_stn.LIMITS)
def test_a_view_shows_what_its_matrix_says(family: str) -> None:
    """A picture whose colours ARE its coordinates tells where each pixel of a view comes from."""
    side = 200
    ramp = np.linspace(0, 255, side)
    pixels = np.zeros((side, side, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = np.rint(ramp)[None, :], np.rint(ramp)[:, None]
    matrix = bench_stn.edits(family, np.random.default_rng(3))
    view = bench_stn._view(pixels, matrix, SIZE).astype(np.float64)
    for row, col in ((3, 4), (16, 16), (28, 9)):
        point = np.array([[(2 * col + 1) / SIZE - 1, (2 * row + 1) / SIZE - 1]])
        there = bench_stn._mapped(matrix, point)[0] * bench_stn._WINDOW
        np.testing.assert_allclose(view[row, col, :2], (there + 1) / 2 * 255, atol=3)


def test_no_edit_looks_beyond_the_photograph() -> None:
    rng = np.random.default_rng(1)
    for family in bench_stn.LIMITS:
        for _ in range(200):
            reach = np.abs(bench_stn._mapped(bench_stn.edits(family, rng), bench_stn._FRAME)).max()
            assert reach * bench_stn._WINDOW <= 1.0, family
    with pytest.raises(UsageError, match="zoom"):
        bench_stn.edits("zoom", rng)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = SiameseEmbedder(ModelConfig(image_size=SIZE, dim=16))
        assert network.stn is not None
        torch.nn.init.normal_(network.stn.localization.theta.weight, std=0.5)
    return checkpoint.save(tmp_path_factory.mktemp("models") / "model", network, card={"note": "random"})


def test_forcing_the_identity_leaves_the_rest_as_it_is(model: Path) -> None:
    loaded = checkpoint.load(model).model
    plain = bench_stn.without_stn(loaded)
    x = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = loaded.head(loaded.pooling(loaded.backbone(x)))
        assert torch.equal(plain(x), expected)
        assert not torch.allclose(loaded(x), expected, atol=1e-3), "the model itself still warps"
    assert loaded.stn is not None and plain.stn is None


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Album:
    photos = [Photo.of_array(f"p{i}", pixels) for i, pixels in enumerate(pictures(6))]
    return build_album(photos, tmp_path_factory.mktemp("album"), copies=3, families=bench_stn.NEEDED_ON, seed=1)


def test_the_bench_from_outside(model: Path, album: Album, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "photos").mkdir()
    for at, pixels in enumerate(pictures(4)):
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{at}.png")
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    given = [
        "stn",
        "--model",
        model,
        "--album",
        album.root,
        "--photos",
        tmp_path / "photos",
        "--json",
        tmp_path / "o.json",
    ]
    assert bench.run(parser.parse_args([str(argument) for argument in given])) == 0
    got = json.loads((tmp_path / "o.json").read_text())
    assert set(got["alignment"]) == set(bench_stn.LIMITS)
    need = got["need"]
    assert need["loss"] == pytest.approx(need["predicted"]["recall_moved"] - need["identity"]["recall_moved"])
    assert need["predicted"]["map"] != need["identity"]["map"]
    cost = got["cost"]
    stn = checkpoint.load(model).model.stn
    assert stn is not None
    extra = cost["with"]["parameters"] - cost["without"]["parameters"]
    assert extra == sum(parameter.numel() for parameter in stn.parameters())
    assert cost["with"]["macs"] > cost["without"]["macs"] > 30e6  # ResNet-18 at 32 pixels: 37 million by hand
    assert "MISSED" in capsys.readouterr().out


def test_both_looks_are_measured(tmp_path: Path) -> None:
    """Whatever its weights are, the first look turns with the picture, and the upright one of a fixed prior does not."""
    stn = StnConfig(size=32, width=12, localization="moments", prior=True, trust=0.0, second=0.75)
    network = SiameseEmbedder(ModelConfig(image_size=SIZE, dim=16, stn=stn))
    assert network.stn is not None
    with torch.no_grad():
        network.stn.localization.prior.mul_(100)
    loaded = checkpoint.load(checkpoint.save(tmp_path / "model", network, card={}))
    upright = bench_stn.alignment(loaded.model.align, pictures(4), size=SIZE)["quarter"]["picture"]
    first = bench_stn._first_look(loaded, pictures(4))
    assert first is not None and first["quarter"]["picture"] < 0.01 < 0.9 < upright


def test_one_look_is_measured_once(model: Path) -> None:
    assert bench_stn._first_look(checkpoint.load(model), pictures(2)) is None


def test_a_model_without_a_transformer_is_refused(album: Album, tmp_path: Path) -> None:
    network = SiameseEmbedder(ModelConfig(image_size=SIZE, dim=16, stn=StnConfig(kind="none")))
    loaded = checkpoint.load(checkpoint.save(tmp_path / "model", network, card={}))
    with pytest.raises(UsageError, match="no spatial transformer"):
        bench_stn.measure(album, loaded, pictures(2))
