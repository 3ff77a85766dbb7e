"""Decisions and queued pairs with little typing."""

from __future__ import annotations

import hashlib
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import ndd
from ndd.data.queue import QueuedPair
from ndd.types import Decision, Draw, ImageId, Verdict

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
ROOT = Path(ndd.__file__).parents[1]


def image(name: object) -> ImageId:
    """A lawful id for a short name."""
    return ImageId(hashlib.sha256(repr(name).encode()).hexdigest())


def ends(a: object, b: object) -> dict[str, ImageId]:
    """left_id and right_id of two short names."""
    left, right = sorted((image(a), image(b)))
    return {"left_id": left, "right_id": right}


def decision(
    a: object = "a", b: object = "b", verdict: Verdict = Verdict.DUPLICATE, *, at: float = 0, **changes: Any
) -> Decision:
    """A decision on two short names, `at` seconds after a fixed moment."""
    values: dict[str, Any] = {
        "relation": None,
        "reviewer": "ada",
        "time": EPOCH + timedelta(seconds=at),
        "embedding_digest": "e" * 64,
        "scorer_digest": "s" * 64,
    }
    return Decision(**ends(a, b), verdict=verdict, **(values | changes))


def queued(a: object = "a", b: object = "b", **changes: Any) -> QueuedPair:
    """A queued pair of two short names."""
    values: dict[str, Any] = {
        "left_uri": f"/album/{a}.jpg",
        "right_uri": f"/album/{b}.jpg",
        "score": 0.5,
        "draw": Draw.UNCERTAIN,
        "p_draw": 0.25,
        "embedding_digest": "e" * 64,
        "scorer_digest": "s" * 64,
        "source": "find",
        "enqueued": EPOCH,
    }
    return QueuedPair(**ends(a, b), **(values | changes))


def child_environment() -> dict[str, str]:
    """For a Python process that imports the package and these helpers."""
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
