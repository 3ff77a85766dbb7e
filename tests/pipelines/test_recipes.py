"""Recipes: whole runs by name, and twins that differ in one setting."""

from __future__ import annotations

import pytest

from ndd.config import ModelConfig, StnConfig
from ndd.errors import ConfigError, UsageError
from ndd.training.config import TrainConfig
from pipelines.recipes import RECIPES, recipe
from pipelines.train_data import stored_size

PAPERS = ("paper", *(f"paper_{x}" for x in ("plateau", "cosine", "cosine_plateau", "triplet", "triplet_plateau",
          "triplet_cosine", "triplet_cosine_plateau")))  # fmt: skip
FULL = ("smoke_cpu", "loop_cpu", "small", "base", "proxy", "paper_proxy", *PAPERS)


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
    alone = {"epochs", "localization_epochs"} if full.localization_epochs else set()
    assert {key for key in ours if ours[key] != theirs[key]} == {"model.stn.kind", *alone}
    assert (twin.epochs, twin.alone) == (full.epochs - full.localization_epochs, 0)
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


def test_the_variants_of_the_paper() -> None:
    configs = {name: recipe(name) for name in PAPERS}
    said = {name: (c.loss.kind, c.loss.distance, c.optim.schedule) for name, c in configs.items()}
    assert len(set(said.values())) == 8
    for name, (kind, distance, schedule) in said.items():
        assert (kind == "triplet") == ("triplet" in name)
        assert (distance == "cosine") == ("cosine" in name)
        assert (schedule == "plateau") == ("plateau" in name)
    plain = flat(configs["paper"].to_dict())
    for config in configs.values():
        other = flat(config.to_dict())
        changed = {name for name in plain if plain[name] != other[name]}
        assert changed <= {"loss.kind", "loss.distance", "loss.margin", "optim.schedule", "optim.step_epochs"}


def test_proxies_are_affordable() -> None:
    for name in ("proxy", "paper_proxy"):
        config = recipe(name)
        assert (config.limit, config.epochs - config.localization_epochs, config.stages[-1].size) == (8000, 10, 112)
    assert [recipe("paper_proxy").with_overrides({"fold": str(k)}).fold for k in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ConfigError, match="fold must lie in 0…4"):
        recipe("paper_proxy").with_overrides({"fold": "5"})


def test_the_large_one() -> None:
    config = recipe("base")
    assert (config.model.backbone, config.precision) == ("resnet50", "bf16")


def test_fine_tuning_takes_the_network_over() -> None:
    network = ModelConfig(backbone="resnet18", image_size=64, dim=32, stn=StnConfig(kind="tps"))
    config = recipe("loop_cpu", init=network)
    assert config.model == network
    assert [stage.size for stage in config.stages] == [64]
    assert recipe("loop_cpu_no_stn", init=network).model.stn.kind == "none"
    assert recipe("small", init=network) == recipe("small")
    assert config.sampling.decisions > 0
    views = 3 * config.epochs * (config.examples or 0)
    assert views < 25 * 2 * 120  # 25 views a second and core at 48 pixels: two minutes, and one to start


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
