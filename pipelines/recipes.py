"""Whole training runs by name. A recipe is a function; its twin without the STN differs in `model.stn.kind` alone."""

from __future__ import annotations

from collections.abc import Callable

from ndd.config import ModelConfig, StnConfig
from ndd.data.edits import EditConfig
from ndd.errors import UsageError
from ndd.training.config import LossConfig, OptimConfig, Stage, TrainConfig

__all__ = ["RECIPES", "paper", "recipe", "small", "smoke_cpu"]


def smoke_cpu() -> TrainConfig:
    """Seconds on one core: does everything run? The model is good for nothing."""
    return TrainConfig(
        model=ModelConfig(image_size=32, dim=16, stn=StnConfig(size=16, width=4)),
        loss=LossConfig(kind="infonce", temperature=0.1),
        stages=(Stage(until=1.0, size=32, batch=8),),
        epochs=2,
        examples=32,
        holdout=0.25,
    )


def small() -> TrainConfig:
    """The run that made the shipped network: affine STN and ResNet-18 at 48 pixels, InfoNCE and a teacher's targets.

    An hour on shared CPU cores for 20,000 pictures; given more time, set more `epochs` and larger `stages`. Needs teacher
    features (`--teacher`); without (`--set loss.teacher=0`) it learns much more slowly.
    """
    return TrainConfig(
        model=ModelConfig(backbone="resnet18", image_size=48, dim=256),
        loss=LossConfig(kind="infonce", temperature=0.07, teacher=2.0, alignment=1.0, pose=8.0),
        optim=OptimConfig(name="adamw", lr=1.5e-3, schedule="cosine", warmup=0.01, ema=0.99, localization_lr=1.0),
        stages=(Stage(until=1.0, size=48, batch=48),),
        epochs=18,
        examples=4096,
        ramp=0.0,
        holdout=0.05,
    )


def paper() -> TrainConfig:
    """As the paper describes it: affine STN and ResNet-50 at 224 pixels, contrastive loss on labelled pairs, Adam with
    weight decay, the rate lowered in steps, 25 epochs, a fifth held out; pretrained weights where they can be reached.

    The STN's own losses are off: it learns from the pairs alone. Our choice, where the paper leaves room: margin 1 on
    the Euclidean distance of unit vectors, edits at full strength from the start.
    """
    return TrainConfig(
        model=ModelConfig(backbone="resnet50", image_size=224, dim=256, pooling="avg", pretrained=True),
        loss=LossConfig(kind="contrastive", distance="euclidean", margin=1.0, alignment=0.0, pose=0.0),
        edits=EditConfig(),
        optim=OptimConfig(
            name="adam", lr=1e-4, weight_decay=1e-4, schedule="step", step_epochs=10, gamma=0.1, warmup=0.0, ema=0.0
        ),
        stages=(Stage(until=1.0, size=224, batch=32),),
        epochs=25,
        ramp=0.0,
        holdout=0.2,
    )


def _without_stn(make: Callable[[], TrainConfig]) -> Callable[[], TrainConfig]:
    def twin() -> TrainConfig:
        return make().with_overrides({"model.stn.kind": "none"})

    return twin


_FULL: dict[str, Callable[[], TrainConfig]] = {"smoke_cpu": smoke_cpu, "small": small, "paper": paper}

RECIPES: dict[str, Callable[[], TrainConfig]] = _FULL | {f"{n}_no_stn": _without_stn(f) for n, f in _FULL.items()}
"""Every recipe by the name that the command line knows it by."""


def recipe(name: str) -> TrainConfig:
    """The recipe called `name`; UsageError names those there are."""
    if name not in RECIPES:
        raise UsageError(f"--recipe {name}: there is no such recipe; choose one of {', '.join(RECIPES)}")
    return RECIPES[name]()
