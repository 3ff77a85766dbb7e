"""A model is ONE directory: config.json, weights.safetensors, card.json, calibration.json (optional).

Batch, online and training load it through here, so a vector means the same everywhere. Weights are stored in half
precision and computed in single precision; nothing in the directory is executable.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as save_tensors

from ndd.config import ModelConfig, json_digest
from ndd.errors import ConfigError, ModelError
from ndd.model.siamese import SiameseEmbedder

__all__ = ["PREPROCESSING", "Checkpoint", "load", "resolve", "save", "shipped"]

PREPROCESSING = {"version": 1, "resize": "area, squashed to a square", "range": "0…1 RGB", "precision": "fp32, stored as fp16"}
"""What happens to a picture before the network and to the vector after it; part of the embedding's digest."""

_CONFIG, _WEIGHTS, _CARD, _CALIBRATION = "config.json", "weights.safetensors", "card.json", "calibration.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A loaded model directory; `model` is in evaluation mode.

    embedding_digest stamps vectors and indexes, scorer_digest stamps scores and thresholds.
    """

    directory: Path
    model: SiameseEmbedder
    config: ModelConfig
    card: Mapping[str, Any]
    calibration: Mapping[str, Any] | None
    embedding_digest: str
    scorer_digest: str


def shipped() -> Path:
    """The model directory that comes inside the package."""
    return Path(str(resources.files("ndd") / "champion"))


def resolve(explicit: str | os.PathLike[str] | None = None) -> Path:
    """Where the model lies: `explicit`, then NDD_MODEL, then $NDD_HOME/champion, then the shipped one.

    A place that was asked for and holds no model is a ModelError, never passed over for the next.
    """
    from ndd.home import home

    asked = explicit if explicit is not None else os.environ.get("NDD_MODEL") or None
    if asked is not None:
        return _existing(Path(asked), "--model" if explicit is not None else "NDD_MODEL")
    promoted = home() / "champion"
    if promoted.exists():
        return _existing(promoted, "$NDD_HOME/champion")
    return _existing(shipped(), "the installed package")


def _existing(directory: Path, origin: str) -> Path:
    for name in (_CONFIG, _WEIGHTS):
        if not (directory / name).is_file():
            raise ModelError(f"{directory}: no {name} there (named by {origin}); give a model directory made by training")
    return directory


def save(
    directory: str | os.PathLike[str],
    model: SiameseEmbedder,
    *,
    card: Mapping[str, Any],
    calibration: Mapping[str, Any] | None = None,
) -> Path:
    """Write a model directory. Each file appears whole or not at all, the weights before the config that names them."""
    target = Path(directory)
    target.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    half = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    _write(target / _WEIGHTS, save_tensors(half))
    _write(target / _CARD, _json(card))
    if calibration is not None:
        _write(target / _CALIBRATION, _json(calibration))
    # Pretrained weights are already in the file: asking for them again when loading would reach for the network.
    _write(target / _CONFIG, _json(model.config.with_overrides({"pretrained": False}).to_dict()))
    return target


def load(directory: str | os.PathLike[str], *, device: str = "cpu") -> Checkpoint:
    """Read a model directory; ModelError names the file that is missing, damaged or does not fit."""
    source = _existing(Path(directory), "the caller")
    try:
        config = ModelConfig.from_dict(_read_json(source / _CONFIG), where=str(source / _CONFIG))
    except ConfigError as error:
        raise ModelError(f"{error}; this model directory is of another version of ndd") from error
    model = SiameseEmbedder(config)
    try:
        weights = load_file(source / _WEIGHTS)
        model.load_state_dict({name: v.float() if v.is_floating_point() else v for name, v in weights.items()})
    except (SafetensorError, RuntimeError) as error:
        raise ModelError(f"{source / _WEIGHTS}: {str(error).splitlines()[0]}; train or copy the directory again") from error
    model = model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.eval().requires_grad_(False)
    calibration = _read_json(source / _CALIBRATION) if (source / _CALIBRATION).is_file() else None
    return Checkpoint(
        directory=source,
        model=model,
        config=config,
        card=_read_json(source / _CARD) if (source / _CARD).is_file() else {},
        calibration=calibration,
        embedding_digest=_embedding_digest(config, source / _WEIGHTS),
        scorer_digest=json_digest({"calibration": calibration}),
    )


def _embedding_digest(config: ModelConfig, weights: Path) -> str:
    content = hashlib.sha256(weights.read_bytes()).hexdigest()
    return json_digest({"preprocessing": PREPROCESSING, "config": config.to_dict(), "weights": content})


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise ModelError(f"{path}: not valid JSON ({error}); train or copy the directory again") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path}: expected a JSON object; train or copy the directory again")
    return value


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(temporary, "wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
    os.replace(temporary, path)
