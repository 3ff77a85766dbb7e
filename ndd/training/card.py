"""What a trained model says of itself: how it came about, how it did, and what it is not."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any

import torch

from ndd.runs import code_version
from ndd.training.step import TrainState

__all__ = ["model_card"]

_IS_NOT = (
    "Not a judge of people, places or subjects: it looks for pictures made from one another.",
    "Not calibrated by training: distances become probabilities only through a calibration made for these weights.",
    "Not measured on human judgements here: `metrics` are of synthetic edits of held-out pictures of the same collection.",
    "Not tested on pictures unlike its training collection (drawings, scans, medical or satellite pictures …).",
)


def model_card(state: TrainState, *, data: Mapping[str, Any], engine: str, workers: int, device: str) -> dict[str, Any]:
    """Plain JSON values. data: at least digest and pictures. Names no path and no machine."""
    model = state.config.model
    stn = "no STN" if model.stn.kind == "none" else f"{model.stn.kind} STN ({model.stn.localization})"
    last = dict(state.history[-1]) if state.history else {}
    return {
        "model": f"{stn}, {model.backbone}, {model.pooling} pooling, {model.dim} numbers of unit length",
        "weights": "moving average over the training steps" if state.config.optim.ema else "last training step",
        "task": "descriptors of pictures for near-duplicate detection",
        "data": dict(data),
        "config": state.config.to_dict(),
        "config_digest": state.config.digest(),
        "epochs": state.epoch,
        "steps": state.step,
        "seconds": round(state.seconds, 1),
        "metrics": last,
        "engine": engine,
        "workers": workers,
        "device": device,
        "versions": {"code": code_version(), "torch": torch.__version__, "python": platform.python_version()},
        "is_not": list(_IS_NOT),
    }
