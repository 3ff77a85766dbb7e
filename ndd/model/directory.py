"""A model is ONE directory: config.json, weights.safetensors, card.json; optional: calibration.json,
background.safetensors and runtime/.

What can be said of it without computing: where it lies, what it is, and its two digests. No torch, so a process that only
hands out work starts quickly; `ndd.model.checkpoint` loads and saves the network itself.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from ndd.config import ModelConfig, json_digest
from ndd.errors import ConfigError, ModelError
from ndd.files import digest_of
from ndd.model.background import BACKGROUND
from ndd.model.runtime import Runtime, chosen

__all__ = [
    "CALIBRATION",
    "CARD",
    "CONFIG",
    "EVIDENCE",
    "PREPROCESSING",
    "WEIGHTS",
    "ModelDirectory",
    "describe",
    "resolve",
    "shipped",
    "source_digest",
]

PREPROCESSING = {
    "version": 2,
    "decode": "JPEG at 1/2, 1/4 or 1/8 where 160 and 240 pixels are left, or twice the canvas",
    "resize": "area, squashed to a square",
    "range": "0…1 RGB",
    "precision": "fp32, stored as fp16",
}
"""What happens to a picture before the network and to the vector after it; part of the embedding's digest."""

CONFIG, WEIGHTS, CARD, CALIBRATION = "config.json", "weights.safetensors", "card.json", "calibration.json"
EVIDENCE = "calibration.parquet"
"""The pairs that calibration.json was fitted to (`pipelines.score_fit.Taught`); only a retraining reads them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDirectory:
    """What a model directory says of itself.

    embedding_digest stamps vectors and indexes, scorer_digest stamps scores and thresholds. runtime: what makes the vectors
    here; None is torch.
    """

    directory: Path
    config: ModelConfig
    card: Mapping[str, Any]
    calibration: Mapping[str, Any] | None
    runtime: Runtime | None
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
        # A link that the next promotion moves: followed once, so that all files read are those of one model.
        return _existing(Path(os.path.realpath(promoted)), "$NDD_HOME/champion")
    return _existing(shipped(), "the installed package")


def describe(directory: str | os.PathLike[str], *, engine: str | None = None) -> ModelDirectory:
    """Read everything but the network; ModelError names the file that is missing, damaged or does not fit.

    engine: what is to make the vectors, see `ndd.model.runtime.chosen`.
    """
    source = _existing(Path(directory), "the caller")
    try:
        config = ModelConfig.from_dict(_read_json(source / CONFIG), where=str(source / CONFIG))
    except ConfigError as error:
        raise ModelError(f"{error}; this model directory is of another version of ndd") from error
    calibration = _read_json(source / CALIBRATION) if (source / CALIBRATION).is_file() else None
    content = digest_of(source / WEIGHTS)
    preprocessing: dict[str, Any] = dict(PREPROCESSING)
    runtime = chosen(source, source=source_digest(source), engine=engine)
    if runtime is not None:
        preprocessing["precision"] = f"{runtime.precision} by {runtime.engine}, stored as fp16: {runtime.content}"
    if (source / BACKGROUND).is_file():
        preprocessing["background"] = digest_of(source / BACKGROUND)
    return ModelDirectory(
        directory=source,
        config=config,
        card=_read_json(source / CARD) if (source / CARD).is_file() else {},
        calibration=calibration,
        runtime=runtime,
        embedding_digest=json_digest({"preprocessing": preprocessing, "config": config.network(), "weights": content}),
        scorer_digest=json_digest({"calibration": calibration}),
    )


def source_digest(directory: Path) -> str:
    """sha256 of the config and the weights: what an exported network was made from."""
    return digest_of(directory / CONFIG, directory / WEIGHTS)


def _existing(directory: Path, origin: str) -> Path:
    for name in (CONFIG, WEIGHTS):
        if not (directory / name).is_file():
            raise ModelError(
                f"{directory}: no {name} there (named by {origin}); give a model directory made by training"
            )
    return directory


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise ModelError(f"{path}: not valid JSON ({error}); train or copy the directory again") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path}: expected a JSON object; train or copy the directory again")
    return value
