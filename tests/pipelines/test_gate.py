"""The gate against planted models: real networks, a real album, nothing simulated."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from ndd.config import ModelConfig
from ndd.errors import UsageError
from ndd.home import home
from ndd.images import decode
from ndd.model import checkpoint
from ndd.model.directory import resolve, shipped
from ndd.model.siamese import SiameseEmbedder
from pipelines.album import Album, AlbumImage, Photo, build_album
from pipelines.demo import photographs
from pipelines.evaluate_rank import rank
from pipelines.gate import SURE, _false, _reasons, _Seen, _values, challenge
from pipelines.registry import alias, fetch, register
from pipelines.tracking import content_digest
from tests.mlflow import MLFLOW_WARNINGS

pytestmark = MLFLOW_WARNINGS


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Album:
    """Sixteen photographs, small, with strong crops and mere recompressions."""
    photos = [_small(photo) for photo in photographs()]
    root = tmp_path_factory.mktemp("gate") / "album"
    return build_album(photos, root, copies=4, families=("crop", "compression"), seed=3, severity=(0.5, 1.0))


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped model with a transformer that looks at the very middle of every picture only: crops show it something else.

    A quarter of each side: with two fifths its two looks still hold most of it up."""
    held = checkpoint.load(shipped())
    assert held.model.stn is not None
    with torch.no_grad():
        held.model.stn.localization.log_zoom += math.log(0.25)
    directory = tmp_path_factory.mktemp("damaged") / "model"
    return checkpoint.save(directory, held.model, card={"name": "damaged"}, calibration=held.calibration)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


def _small(photo: Photo) -> Photo:
    pixels = decode(photo.content).pixels
    factor = 200 / max(pixels.shape[:2])
    size = (round(pixels.shape[1] * factor), round(pixels.shape[0] * factor))
    return Photo.of_array(photo.name, np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8))


def test_a_damaged_family_is_refused_and_named(album: Album, damaged: Path, work: Path) -> None:
    verdict = challenge(damaged, shipped(), albums=[album.root], work=work, search=False)
    assert not verdict.promoted
    assert any(reason.startswith("crop: average precision") for reason in verdict.reasons)
    crop, other = (verdict.figures["map"][name] for name in ("crop", "compression"))
    assert crop["difference"] < -0.05
    assert crop["difference"] < other["difference"]
    json.dumps(verdict.figures)


def test_a_better_one_is_accepted(album: Album, damaged: Path, work: Path) -> None:
    verdict = challenge(shipped(), damaged, albums=[album.root], work=work, search=False, speed=0.5)
    assert verdict.promoted, verdict.reasons
    assert verdict.reasons == ()


def test_a_slow_one_is_refused(album: Album, tmp_path: Path) -> None:
    """The same network on pictures of four times the pixels."""
    models = []
    for size in (64, 128):
        torch.manual_seed(0)
        config = ModelConfig.from_dict({"image_size": size, "dim": 32, "stn": {"kind": "none"}})
        models.append(checkpoint.save(tmp_path / str(size), SiameseEmbedder(config), card={}))
    root = Path(shutil.copytree(album.root, tmp_path / "album"))
    (root / "groups.csv").write_text(
        "image,group,note\n" + "".join(f"{row.image},{row.group},{row.note}\n" for row in album.images[:10])
    )
    verdict = challenge(models[1], models[0], albums=[root], search=False, sure=1.1)
    assert [reason.partition(":")[0] for reason in verdict.reasons] == ["speed"]
    assert verdict.figures["speed"]["ratio"] < 0.9


def test_figures_by_hand() -> None:
    """Two groups of copies; the challenger loses one of two crops and joins the same strangers once more."""
    images = [AlbumImage(f"{name}{at}", name, "") for name in "ab" for at in range(2)]
    rows = np.eye(4, dtype=np.float32)
    ranked = rank(Album(Path("nowhere"), tuple(images)), lambda start, stop: rows[start:stop], draws=1)
    family, group = np.array(["crop", "crop"]), np.array([0, 1])
    wrong = np.array([[0, 1]])
    old = _Seen(ranked, {"recall": (np.array([1.0, 1.0]), family, group)}, {"search": wrong[:0]})
    new = _Seen(ranked, {"recall": (np.array([1.0, 0.0]), family, group)}, {"search": wrong})
    values = _values([(old, new)], seed=0, allowed=0.01)["recall"]["crop"]
    assert (values["champion"], values["challenger"], values["difference"]) == (1.0, 0.5, -0.5)
    # The lost copy's group is drawn in three of four draws of two groups with replacement.
    assert values["sure_of_loss"] == pytest.approx(0.75, abs=0.05)
    false = _false([(old, new)], seed=0)["search"]
    assert false["counted"] == {"champion": 0, "challenger": 1, "strangers": 4}
    assert false["challenger"] == pytest.approx(1_000_000 * 999_999 / 2 / 4)
    # Both groups are drawn in half of the draws.
    assert false["sure_of_more"] == pytest.approx(0.5, abs=0.05)
    figures = {"recall": {"crop": values}, "false_pairs_per_million_images": {"search": false}, "speed": {"ratio": 1.0}}
    assert list(_reasons(figures, allowed=0.01, speed=0.9, sure=0.9)) == []
    said = list(_reasons(figures, allowed=0.01, speed=0.9, sure=0.4))
    assert [reason.partition(":")[0] for reason in said] == ["crop", "false pairs of the search"]


def test_two_copies_that_slip_among_the_strangers_are_no_proof() -> None:
    """Thirty pairs of copies, and twenty strangers that score just below the lowest of them; then the lowest two slip below
    all of those. The bare count jumps; a challenger that loses a third of the copies so is another thing."""
    images = [AlbumImage(f"{name:02d}{at}", f"{name:02d}", "") for name in range(30) for at in range(2)]
    left, right = np.arange(0, 60, 2), np.arange(1, 60, 2)

    def seen(slipped: int) -> _Seen:
        rows = np.zeros((60, 60), np.float32)
        rows[left, right] = rows[right, left] = 0.9 - np.arange(30) / 1000
        near = (np.arange(20), np.arange(20) + 30)
        rows[near] = rows.T[near] = 0.5
        rows[left[30 - slipped :], right[30 - slipped :]] = rows[right[30 - slipped :], left[30 - slipped :]] = 0.4
        return _Seen(rank(Album(Path("nowhere"), tuple(images)), lambda a, b: rows[a:b], draws=1), {}, {})

    two, many = (_false([(seen(0), seen(slipped))], seed=0)["descriptor"] for slipped in (2, 10))
    assert two["counted"] == many["counted"] == {"champion": 0, "challenger": 20, "strangers": 60 * 58 // 2}
    # Half of what slipped is allowed to be lost, rounded up: one draw of the two is nothing.
    slipped_twice = 1 - (28 / 30) ** 30 - 30 * (2 / 30) * (28 / 30) ** 29
    assert two["sure_of_more"] == pytest.approx(slipped_twice, abs=0.05)
    assert many["sure_of_more"] > 0.99
    figures = {"false_pairs_per_million_images": {"descriptor": two}, "speed": {"ratio": 1.0}}
    assert list(_reasons(figures, allowed=0.01, speed=0.9, sure=SURE)) == []
    figures = {"false_pairs_per_million_images": {"descriptor": many}, "speed": {"ratio": 1.0}}
    assert [reason.partition(":")[0] for reason in _reasons(figures, allowed=0.01, speed=0.9, sure=SURE)] == [
        "false pairs of the descriptor"
    ]


def test_who_is_called_champion_changes_no_count() -> None:
    """Where the champion's own recall at 99 % says where both are counted, its count is low by choice: of two models that
    differ by chance the challenger would seem worse in 55 % of the draws and better in 3."""
    images = [AlbumImage(f"{name:03d}{at}", f"{name:03d}", "") for name in range(80) for at in range(2)]
    left, right = np.arange(0, 160, 2), np.arange(1, 160, 2)
    rng = np.random.default_rng(0)
    base = rng.normal(0.0, 0.05, (160, 160))
    base[left, right] = rng.normal(0.25, 0.06, 80)
    both = []
    for _ in range(2):
        rows = np.triu(base + rng.normal(0.0, 0.02, base.shape), 1)
        rows = np.clip(rows + rows.T, -1, 1).astype(np.float32)
        ranked = rank(Album(Path("nowhere"), tuple(images)), lambda a, b, rows=rows: rows[a:b], draws=1)  # type: ignore[misc]
        both.append(_Seen(ranked, {}, {}))
    there, back = (_false([pair], seed=0)["descriptor"] for pair in ((both[0], both[1]), (both[1], both[0])))
    assert (there["champion"], there["challenger"]) == (back["challenger"], back["champion"])
    assert there["champion"] != there["challenger"]
    assert 0.0 < there["sure_of_more"] < 1.0
    assert 0.0 < back["sure_of_more"] <= 1.0 - there["sure_of_more"]


def test_itself_and_no_album(tmp_path: Path) -> None:
    copy = Path(shutil.copytree(shipped(), tmp_path / "copy"))
    assert challenge(copy, shipped(), albums=[tmp_path]).reasons == ("challenger and champion are the same model",)
    with pytest.raises(UsageError, match="album"):
        challenge(copy, shipped(), albums=[])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_command(album: Album, damaged: Path, work: Path) -> None:
    """On Ray: refused with the reason and exit code 1, accepted with alias and published directory, and back again."""
    options = ["--album", str(album.root), "--work", str(work), "--no-search", "--speed", "0.5"]
    refused = promote("--challenger", str(damaged), *options)
    assert refused.returncode == 1, refused.stderr
    assert "refused: crop" in refused.stdout
    assert alias("champion") is None
    assert resolve() == shipped()
    register(damaged, origin="test")
    accepted = promote("--challenger", str(shipped()), "--champion", str(damaged), *options)
    assert accepted.returncode == 0, accepted.stdout + accepted.stderr
    assert alias("champion") == "1", "the shipped model is version 1, and is not registered twice"
    assert home().champion.is_symlink()
    assert content_digest(fetch("models:/ndd@champion")) == content_digest(resolve()) == content_digest(shipped())
    assert promote("--rollback").returncode == 0
    assert not home().champion.exists()
    assert alias("champion") == "1"
    nothing = promote("--rollback")
    assert nothing.returncode == 1
    assert "nothing to go back to" in nothing.stderr


def promote(*arguments: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, as Ray wants to be run."""
    command = [sys.executable, "-m", "pipelines", "promote", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)
