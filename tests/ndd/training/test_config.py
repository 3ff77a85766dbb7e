"""What a training configuration means and refuses."""

from __future__ import annotations

import pytest

from ndd.errors import ConfigError
from ndd.training.config import Stage, TrainConfig


def test_stages_follow_one_another() -> None:
    stages = (Stage(until=0.5, size=64, batch=8), Stage(until=1.0, size=96, batch=4))
    config = TrainConfig(stages=stages)
    assert [config.stage_at(p).size for p in (0.0, 0.49, 0.5, 0.99, 1.0)] == [64, 64, 96, 96, 96]


def test_edits_grow_to_full_strength() -> None:
    config = TrainConfig(ramp=0.4, start_strength=0.2)
    assert [config.strength_at(p) for p in (0.0, 0.2, 0.4, 1.0)] == pytest.approx([0.2, 0.6, 1.0, 1.0])
    assert TrainConfig(ramp=0.0).strength_at(0.0) == 1.0


def test_the_curriculum_is_the_trunks() -> None:
    """Epochs of the localization network alone have edits at full strength, which is what it learns from."""
    config = TrainConfig(epochs=4, localization_epochs=1, ramp=0.4, start_strength=0.2)
    assert [config.strength_at(p) for p in (0.0, 0.2, 0.25, 0.4, 0.55, 1.0)] == pytest.approx([1, 1, 0.2, 0.6, 1, 1])
    twin = config.with_overrides({"model.stn.kind": "none"})
    assert (twin.alone, twin.strength_at(0.0)) == (0, pytest.approx(0.2))


def test_round_trip_and_digest() -> None:
    config = TrainConfig(stages=(Stage(until=0.5, size=64, batch=8), Stage(until=1.0, size=96, batch=4)))
    assert TrainConfig.from_dict(config.to_dict()) == config
    assert config.with_overrides({"seed": 1}).digest() != config.digest()


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("epochs", 0),
        ("stages", []),
        ("stages", [{"until": 0.9, "size": 64, "batch": 8}]),
        ("stages", [{"until": 1.0, "size": 64, "batch": 1}]),
        ("holdout", 1.0),
        ("examples", 1),
        ("loss.margin", 0.0),
        ("loss.temperature", -1.0),
        ("loss.kind", "softmax"),
        ("optim.ema", 1.0),
        ("optim.lr", 0.0),
        ("model.dim", 4),
        ("los.kind", "triplet"),
        ("loss.kin", "triplet"),
    ],
)
def test_refused(setting: str, value: object) -> None:
    with pytest.raises(ConfigError, match=setting.split(".")[-1].rstrip("s")):
        TrainConfig().with_overrides({setting: value})
