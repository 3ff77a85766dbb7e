"""Near-duplicate image detection that learns.

    from ndd import Detector

    Detector().compare("a.jpg", "b.jpg").score

The names below are the public ones; everything else may move. Importing `ndd` costs nothing: torch is loaded by the first
use of `Detector`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ndd.config import FindConfig, ModelConfig
from ndd.errors import (
    ConfigError,
    ConflictError,
    DecodeError,
    DigestMismatch,
    InputError,
    ModelError,
    NddError,
    NothingReadable,
    SchemaError,
    StaleOutput,
    StoreError,
    StoreFull,
    UsageError,
)
from ndd.types import Decision, Draw, Failure, ImageId, Match, Pair, Relation, Verdict, image_id, pair_id

if TYPE_CHECKING:
    from ndd.detector import Detector

__all__ = [
    "ConfigError",
    "ConflictError",
    "Decision",
    "DecodeError",
    "Detector",
    "DigestMismatch",
    "Draw",
    "Failure",
    "FindConfig",
    "ImageId",
    "InputError",
    "Match",
    "ModelConfig",
    "ModelError",
    "NddError",
    "NothingReadable",
    "Pair",
    "Relation",
    "SchemaError",
    "StaleOutput",
    "StoreError",
    "StoreFull",
    "UsageError",
    "Verdict",
    "image_id",
    "pair_id",
]


def __getattr__(name: str) -> Any:
    if name == "Detector":
        from ndd.detector import Detector

        return Detector
    raise AttributeError(f"module 'ndd' has no attribute {name!r}")
