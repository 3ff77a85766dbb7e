"""The smallest run that has every part: 32 pixels, a few pictures, a network with few numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndd.config import ModelConfig, StnConfig
from ndd.training.config import LossConfig, OptimConfig, Stage, TrainConfig

__all__ = ["tiny", "tiny_pictures"]


def tiny(**overrides: Any) -> TrainConfig:
    """Two epochs of three steps of four examples; `overrides` are dotted settings with `__` for the dot."""
    config = TrainConfig(
        model=ModelConfig(image_size=32, dim=8, stn=StnConfig(size=16, width=4)),
        loss=LossConfig(kind="infonce", temperature=0.2),
        optim=OptimConfig(lr=1e-3, warmup=0.1),
        stages=(Stage(until=1.0, size=32, batch=4),),
        epochs=2,
        examples=12,
        holdout=0.25,
    )
    return config.with_overrides({name.replace("__", "."): value for name, value in overrides.items()})


def tiny_pictures(count: int = 24, size: int = 40) -> NDArray[np.uint8]:
    """(count, size, size, 3): smooth random blobs, each unlike the others."""
    rng = np.random.default_rng(0)
    rough = rng.integers(0, 256, (count, 5, 5, 3)).astype(np.float32)
    at = np.linspace(0, 4, size)
    low = np.minimum(at.astype(int), 3)
    share = (at - low).astype(np.float32)
    rows = rough[:, low] * (1 - share)[:, None, None] + rough[:, low + 1] * share[:, None, None]
    full = rows[:, :, low] * (1 - share)[:, None] + rows[:, :, low + 1] * share[:, None]
    return np.ascontiguousarray(full.round().astype(np.uint8))
