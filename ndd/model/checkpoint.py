"""Loading and saving the network of a model directory (see `ndd.model.directory`).

Batch, online and training load it through here, so a vector means the same everywhere. Weights are stored in half
precision and computed in single precision; nothing in the directory is executable.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as save_tensors

from ndd.config import ModelConfig
from ndd.errors import ModelError
from ndd.model.background import BACKGROUND, Background
from ndd.model.directory import CALIBRATION, CARD, CONFIG, EVIDENCE, PREPROCESSING, WEIGHTS, describe, resolve, shipped
from ndd.model.runtime import RUNTIME
from ndd.model.siamese import SiameseEmbedder

__all__ = ["PREPROCESSING", "Checkpoint", "load", "resolve", "save", "shipped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A loaded model directory; `model` is in evaluation mode.

    embedding_digest stamps vectors that torch makes, scorer_digest stamps scores and thresholds.
    """

    directory: Path
    model: SiameseEmbedder
    config: ModelConfig
    card: Mapping[str, Any]
    calibration: Mapping[str, Any] | None
    embedding_digest: str
    scorer_digest: str


def save(
    directory: str | os.PathLike[str],
    model: SiameseEmbedder,
    *,
    card: Mapping[str, Any],
    calibration: Mapping[str, Any] | None = None,
    background: Background | None = None,
) -> Path:
    """Write a model directory. Each file appears whole or not at all, the weights before the config that names them."""
    target = Path(directory)
    target.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    # What was exported from the weights that lay here before is not a form of these, nor are their vectors and evidence.
    shutil.rmtree(target / RUNTIME, ignore_errors=True)
    for name in (BACKGROUND, EVIDENCE):
        (target / name).unlink(missing_ok=True)
    half = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    _write(target / WEIGHTS, save_tensors(half))
    if background is not None:
        background.save(target)
    _write(target / CARD, _json(card))
    if calibration is not None:
        _write(target / CALIBRATION, _json(calibration))
    # Pretrained weights are already in the file: asking for them again when loading would reach for the network.
    _write(target / CONFIG, _json(model.config.with_overrides({"pretrained": False}).to_dict()))
    return target


def load(directory: str | os.PathLike[str], *, device: str = "cpu") -> Checkpoint:
    """Read a model directory; ModelError names the file that is missing, damaged or does not fit."""
    said = describe(directory, engine="torch")
    model = SiameseEmbedder(said.config)
    try:
        weights = load_file(said.directory / WEIGHTS)
        model.load_state_dict({name: v.float() if v.is_floating_point() else v for name, v in weights.items()})
    except (SafetensorError, RuntimeError) as error:
        raise ModelError(
            f"{said.directory / WEIGHTS}: {str(error).splitlines()[0]}; train or copy the directory again"
        ) from error
    model = model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.eval().requires_grad_(False)
    return Checkpoint(
        directory=said.directory,
        model=model,
        config=said.config,
        card=said.card,
        calibration=said.calibration,
        embedding_digest=said.embedding_digest,
        scorer_digest=said.scorer_digest,
    )


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(temporary, "wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
    os.replace(temporary, path)
