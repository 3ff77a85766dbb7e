"""Recipes: whole runs by name, and twins that differ in one setting."""

from __future__ import annotations

import pytest

from ndd.errors import ConfigError, UsageError
from ndd.training.config import TrainConfig
from pipelines.recipes import RECIPES, recipe
from pipelines.train_data import stored_size

FULL = ("smoke_cpu", "small", "paper")


def flat(values: dict[str, object], prefix: str = "") -> dict[str, object]:
    result: dict[str, object] = {}
    for name, value in values.items():
        result |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return result


def test_names() -> None:
    assert set(RECIPES) == {*FULL, *(f"{name}_no_stn" for name in FULL)}


@pytest.mark.parametrize("name", FULL)
def test_a_twin_differs_in_the_stn_alone(name: str) -> None:
    full, twin = recipe(name), recipe(f"{name}_no_stn")
    ours, theirs = flat(full.to_dict()), flat(twin.to_dict())
    assert {key for key in ours if ours[key] != theirs[key]} == {"model.stn.kind"}
    assert theirs["model.stn.kind"] == "none"
    assert full.model.stn.kind == "affine"
    assert full.digest() != twin.digest()


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_a_whole_run(name: str) -> None:
    config = recipe(name)
    assert isinstance(config, TrainConfig)
    assert TrainConfig.from_dict(config.to_dict()) == config
    assert recipe(name) == config


def test_the_paper() -> None:
    config = recipe("paper")
    assert config.loss.kind == "contrastive"
    assert (config.optim.name, config.optim.schedule) == ("adam", "step")
    assert config.optim.weight_decay > 0
    assert (config.epochs, config.holdout) == (25, 0.2)


def test_settings_are_strict() -> None:
    assert recipe("paper").with_overrides({"loss.margin": "0.5"}).loss.margin == 0.5
    with pytest.raises(ConfigError, match="loss.marginn"):
        recipe("paper").with_overrides({"loss.marginn": "0.5"})
    with pytest.raises(ConfigError, match="losss"):
        recipe("paper").with_overrides({"losss.margin": "0.5"})
    with pytest.raises(ConfigError, match="epochs"):
        recipe("paper").with_overrides({"epochs": "many"})


def test_unknown_recipe() -> None:
    with pytest.raises(UsageError, match="huge.*smoke_cpu"):
        recipe("huge")


@pytest.mark.parametrize(("largest", "stored"), [(32, 64), (64, 96), (96, 128), (224, 288)])
def test_pictures_are_stored_somewhat_larger_than_seen(largest: int, stored: int) -> None:
    config = recipe("smoke_cpu").with_overrides({"stages": [{"until": 1.0, "size": largest, "batch": 8}]})
    assert stored_size(config) == stored
