"""`index.json`: which files make up an index now. Replaced as a whole; whatever it does not name does not count."""

from __future__ import annotations

import dataclasses
import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ndd.errors import StoreError
from ndd.files import atomic_path
from ndd.index.log import cannot_write

__all__ = ["MANIFEST", "Manifest", "SnapshotName", "checksum", "parse_manifest", "read_manifest", "write_manifest"]

MANIFEST = "index.json"
_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotName:
    """A snapshot and the place in the logs up to which it holds everything. next_number: what would be given next there."""

    name: str
    log: int
    offset: int
    next_number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """epoch: changes when rows are counted anew. serial: number of the newest file. logs: serial numbers of the logs,
    oldest first; only the last one grows. floor: numbers below it were given, though no log may hold them any more."""

    embedding_digest: str
    dim: int
    epoch: int
    serial: int
    logs: tuple[int, ...]
    floor: int
    snapshot: SnapshotName | None = None


def write_manifest(root: Path, manifest: Manifest) -> None:
    """Make `manifest` the one that counts. Raises StoreFull or StoreError, and then the old one counts."""
    values = {"format": _FORMAT, **dataclasses.asdict(manifest)}
    values["check"] = checksum(values)
    try:
        with atomic_path(root / MANIFEST) as temporary:
            temporary.write_text(json.dumps(values, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    except StoreError as error:
        if isinstance(error.__cause__, OSError):
            raise cannot_write(root / MANIFEST, error.__cause__) from error
        raise


def read_manifest(root: Path) -> tuple[Manifest, int]:
    """The manifest that counts, and an open descriptor of its file: as long as it is open no other has its inode number.

    Raises StoreError if there is none, or if it is damaged or of another version.
    """
    path = root / MANIFEST
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise StoreError(f"{root}: no index there ({error.strerror}); make one with `ndd index create`") from error
    try:
        return _parse(path, os.pread(descriptor, os.fstat(descriptor).st_size, 0)), descriptor
    except BaseException:
        os.close(descriptor)
        raise


def _parse(path: Path, content: bytes) -> Manifest:
    try:
        values: dict[str, Any] = json.loads(content)
        if values["format"] != _FORMAT:
            raise StoreError(
                f"{path}: format {values['format']}, this ndd reads {_FORMAT}; upgrade ndd or make the index anew"
            )
        if values.pop("check") != checksum(values):
            raise StoreError(f"{path}: the checksum does not fit; restore the file from a copy")
        values.pop("format")
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{path}: not an index of ndd ({error}); name another directory or restore the file"
        ) from error
    return parse_manifest(path, values)


def parse_manifest(path: Path, values: Mapping[str, Any]) -> Manifest:
    """The manifest that `dataclasses.asdict` made these values from. Raises StoreError naming `path`."""
    try:
        said = values["snapshot"]
        snapshot = None if said is None else SnapshotName(**said)
        return Manifest(**{**values, "logs": tuple(values["logs"]), "snapshot": snapshot})
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{path}: not an index of ndd ({error}); name another directory or restore the file"
        ) from error


def checksum(values: Mapping[str, Any]) -> int:
    """CRC-32 of JSON values, `check` itself left out."""
    return zlib.crc32(json.dumps({k: v for k, v in values.items() if k != "check"}, sort_keys=True).encode())
