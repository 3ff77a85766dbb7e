"""The state of an index as files that open quickly: a directory of arrays, each with its size and CRC-32.

A snapshot holds nothing that the log does not: one that is damaged or missing costs a slower opening, never a picture.
"""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndd.errors import StoreError
from ndd.files import fsync_directory
from ndd.index.ann import Proposer
from ndd.index.log import cannot_write
from ndd.index.manifest import checksum
from ndd.index.table import Table

__all__ = ["Opened", "read_snapshot", "write_snapshot"]

_LISTING, _SEARCH = "files.json", "search.faiss"
_MAPPED = ("vector", "names", "name_end", "name_hash", "name_row")
_BLOCK = 1 << 22


@dataclass(frozen=True, slots=True)
class Opened:
    """A snapshot's rows and what proposes among them."""

    table: Table
    proposer: Proposer
    size: int


def write_snapshot(directory: Path, arrays: Mapping[str, NDArray[Any]], proposer: Proposer) -> int:
    """Write a new snapshot, durably; returns its size in bytes. Whoever names it afterwards makes it count.

    Raises StoreFull or StoreError; then nothing is left of it.
    """
    try:
        directory.mkdir()
        for name, values in arrays.items():
            _save(directory / f"{name}.npy", values)
        if proposer.kind != "exact":  # that kind is made from the vectors as quickly as it is read
            proposer.save(directory / _SEARCH)
        files = {path.name: _sum(path) for path in sorted(directory.iterdir())}
        said = {"files": files, "rows": len(proposer), "dim": proposer.dim}
        said |= {"kind": proposer.kind, "trained_on": proposer.trained_on}
        said["check"] = checksum(said)
        (directory / _LISTING).write_text(json.dumps(said, indent=1), encoding="utf-8")
        for path in directory.iterdir():
            _fsync(path)
        fsync_directory(directory)
        fsync_directory(directory.parent)
    except OSError as error:
        shutil.rmtree(directory, ignore_errors=True)
        raise cannot_write(directory, error) from error
    return sum(int(size) for size, _ in files.values())


def read_snapshot(directory: Path) -> Opened:
    """Open a snapshot; its vectors and names stay on disk. Raises StoreError if a file is missing or damaged."""
    try:
        said = json.loads((directory / _LISTING).read_text(encoding="utf-8"))
        if said["check"] != checksum(said):
            raise StoreError(f"{directory / _LISTING}: the checksum does not fit")
        for name, wanted in said["files"].items():
            if list(_sum(directory / name)) != wanted:
                raise StoreError(f"{directory / name}: the checksum does not fit")
        names = [Path(name).stem for name in said["files"] if name != _SEARCH]
        arrays = {name: _load(directory / f"{name}.npy", mapped=name in _MAPPED and said["rows"] > 0) for name in names}
        table = Table(arrays)
        if said["kind"] == "exact":
            proposer = Proposer(said["dim"])
            proposer.add(table.vectors(np.arange(len(table))))
        else:
            about = {"kind": said["kind"], "dim": said["dim"], "trained_on": said["trained_on"]}
            proposer = Proposer.load(directory / _SEARCH, **about)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{directory}: not a whole snapshot ({type(error).__name__}: {error})") from error
    if len(proposer) != len(table):
        raise StoreError(f"{directory}: holds {len(table)} rows and {len(proposer)} vectors to search")
    return Opened(table, proposer, sum(int(size) for size, _ in said["files"].values()))


def _save(path: Path, values: NDArray[Any]) -> None:
    """np.save, but an OSError says which (np.ndarray.tofile's has no errno)."""
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(values))
        file.write(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)


def _load(path: Path, *, mapped: bool) -> NDArray[Any]:
    values: NDArray[Any] = np.load(path, mmap_mode="r" if mapped else None)
    return values


def _sum(path: Path) -> tuple[int, int]:
    size = check = 0
    with path.open("rb") as file:
        while part := file.read(_BLOCK):
            size, check = size + len(part), zlib.crc32(part, check)
    return size, check


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
