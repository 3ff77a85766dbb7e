"""A library and a retraining of it that cannot take anything away, for tests of what happens around one."""

from __future__ import annotations

from pathlib import Path

from pipelines.album import Album, build_album
from pipelines.demo import photographs
from pipelines.loop import tiles

__all__ = ["CAREFUL", "library_of"]

CAREFUL = ["--engine", "local", "--set", "epochs=1", "--set", "examples=32", "--set", "optim.lr=1e-6", "--photos", "20"]
"""A step so small that nothing can be lost by it: the gate, as strict as ever, has no reason to refuse."""


def library_of(place: Path, *, severity: tuple[float, float]) -> Album:
    """Photographs, forty of them with an edited copy; severity: of the edits, in [0, 1]."""
    photos = tiles(photographs())
    return build_album(photos[:40], place, copies=1, seed=0, severity=severity, singles=photos[40:])
