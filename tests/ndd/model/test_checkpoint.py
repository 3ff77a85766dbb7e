"""The model directory: what is saved is what is loaded, every damage is named, and the two digests keep apart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ndd.config import ModelConfig, StnConfig
from ndd.errors import ModelError
from ndd.model import checkpoint
from ndd.model.directory import describe
from ndd.model.siamese import SiameseEmbedder

CONFIG = ModelConfig(image_size=32, dim=8, stn=StnConfig(size=16, width=4))
CARD = {"model": "a test", "is_not": ["good for anything"]}


def embedder(seed: int = 0) -> SiameseEmbedder:
    torch.manual_seed(seed)
    return SiameseEmbedder(CONFIG).eval()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return checkpoint.save(tmp_path / "model", embedder(), card=CARD, calibration={"prior": 0.1})


@torch.no_grad()
def test_round_trip(saved: Path) -> None:
    loaded = checkpoint.load(saved)
    assert loaded.config == CONFIG
    assert loaded.card == CARD
    assert loaded.calibration == {"prior": 0.1}
    assert not loaded.model.training
    assert not any(p.requires_grad for p in loaded.model.parameters())
    for name, value in embedder().state_dict().items():
        kept = loaded.model.state_dict()[name]
        assert torch.equal(kept, value.half().float() if value.is_floating_point() else value), name
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    similarity = (loaded.model(x) * embedder()(x)).sum(dim=1)
    assert (similarity > 0.9999).all()


def test_saving_what_was_loaded_changes_nothing(saved: Path, tmp_path: Path) -> None:
    loaded = checkpoint.load(saved)
    again = checkpoint.save(tmp_path / "again", loaded.model, card=loaded.card, calibration=loaded.calibration)
    assert {p.name: p.read_bytes() for p in saved.iterdir()} == {p.name: p.read_bytes() for p in again.iterdir()}


def test_digests_keep_apart(saved: Path, tmp_path: Path) -> None:
    """Weights and architecture stamp vectors; the calibration stamps scores; the card stamps nothing."""
    before = describe(saved)
    (saved / "calibration.json").write_text('{"prior": 0.2}')
    recalibrated = describe(saved)
    assert recalibrated.embedding_digest == before.embedding_digest
    assert recalibrated.scorer_digest != before.scorer_digest
    (saved / "card.json").write_text("{}")
    assert describe(saved).embedding_digest == before.embedding_digest
    assert describe(saved).scorer_digest == recalibrated.scorer_digest
    other = describe(checkpoint.save(tmp_path / "other", embedder(seed=1), card=CARD, calibration={"prior": 0.1}))
    assert other.embedding_digest != before.embedding_digest
    assert other.scorer_digest == before.scorer_digest


def test_without_a_calibration(tmp_path: Path) -> None:
    directory = checkpoint.save(tmp_path / "model", embedder(), card=CARD)
    assert checkpoint.load(directory).calibration is None
    assert not (directory / "calibration.json").exists()


def test_saved_pretrained_network_is_loaded_without_asking_for_weights(tmp_path: Path) -> None:
    model = embedder()
    model.config = CONFIG.with_overrides({"pretrained": True})
    directory = checkpoint.save(tmp_path / "model", model, card=CARD)
    assert checkpoint.load(directory).config.pretrained is False


@pytest.mark.parametrize("name", ["config.json", "weights.safetensors"])
def test_a_missing_file_is_named(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(ModelError, match=name):
        checkpoint.load(saved)


def test_damaged_files_are_named(saved: Path) -> None:
    whole = (saved / "weights.safetensors").read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"\xff" * 64):
        (saved / "weights.safetensors").write_bytes(content)
        with pytest.raises(ModelError, match="weights.safetensors"):
            checkpoint.load(saved)
    (saved / "weights.safetensors").write_bytes(whole)
    for content in ("{", "[]", json.dumps({**CONFIG.to_dict(), "dimm": 3})):
        (saved / "config.json").write_text(content)
        with pytest.raises(ModelError, match="config.json"):
            checkpoint.load(saved)


def test_weights_of_another_network_are_refused(saved: Path) -> None:
    config = CONFIG.with_overrides({"dim": 9}).to_dict()
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="weights.safetensors"):
        checkpoint.load(saved)


def test_nothing_is_left_beside_the_files(saved: Path) -> None:
    assert sorted(p.name for p in saved.iterdir()) == [
        "calibration.json",
        "card.json",
        "config.json",
        "weights.safetensors",
    ]
