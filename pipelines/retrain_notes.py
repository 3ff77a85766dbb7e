"""What a retraining writes down for the next call: small JSON files, whole or not there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ndd.errors import StoreError
from ndd.files import atomic_path

__all__ = ["read_note", "write_note"]


def read_note(path: Path, *, remedy: str = "") -> dict[str, Any] | None:
    """What was written; None if nothing was. StoreError if it is damaged, with what to do about it."""
    if not path.is_file():
        return None
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StoreError(f"{path}: damaged ({error}); {remedy or f'remove {path.parent} to begin anew'}") from error
    return found


def write_note(path: Path, value: Mapping[str, Any]) -> None:
    """Write it, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
