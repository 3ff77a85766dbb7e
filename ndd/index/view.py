"""An index as one process sees it: opened from a snapshot, then led on by what the log says.

Shapes: Q queries, N rows, D numbers per vector.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndd.errors import SchemaError, StoreError
from ndd.index.ann import Proposer, bitmap
from ndd.index.base import Half, cosine_distance
from ndd.index.hashes import HashSearch
from ndd.index.log import HEADER, Log
from ndd.index.manifest import MANIFEST, Manifest, read_manifest
from ndd.index.records import Drop, Put, parse, read_put
from ndd.index.sharing import Sharing
from ndd.index.snapshot import read_snapshot
from ndd.index.table import Table, empty
from ndd.known import vector_of

__all__ = ["View", "log_path", "open_view"]

_log = logging.getLogger(__name__)

_SPARE = 64
"""Rows proposed beyond those asked for, to be ranked exactly."""
_QUERIES = 256


class View:
    """Rows, what proposes among them, and the place in the log up to which they are known."""

    def __init__(self, root: Path, manifest: Manifest, descriptor: int, *, writable: bool) -> None:
        """Open what `manifest` names; `descriptor`, of its file, is closed with the object. Raises FileNotFoundError if
        a log is not there (any more), StoreError for damage."""
        self._descriptor = descriptor
        self.root, self.manifest, self._writable = root, manifest, writable
        self.sharing = Sharing()
        self.logs = {serial: Log(log_path(root, serial), writable=writable) for serial in manifest.logs}
        self.table: Table = empty(manifest.dim)
        self.proposer, self.hashes = Proposer(manifest.dim), HashSearch()
        self.log, self.offset = manifest.logs[0], HEADER
        self.next_number, self.snapshot_bytes = manifest.floor, 0
        self._alive: NDArray[np.uint8] | None = None
        self._unsound = False
        if manifest.snapshot is not None:
            self._open_snapshot()

    def __del__(self) -> None:
        os.close(self._descriptor)

    def _open_snapshot(self) -> None:
        said = self.manifest.snapshot
        assert said is not None
        try:
            opened = read_snapshot(self.root / said.name)
        except StoreError as error:
            _log.warning("%s; the log is read from its beginning instead, and the next snapshot replaces it", error)
            return
        self.table, self.proposer, self.snapshot_bytes = opened.table, opened.proposer, opened.size
        self.log, self.offset = said.log, said.offset
        self.next_number = max(self.next_number, said.next_number)
        rows = np.arange(len(self.table))
        self.hashes.add(rows, self.table.column("hash"), self.table.column("quality"))
        self._note_deaths()

    def is_sound(self) -> bool:
        """False if taking something in was interrupted: open another view."""
        return not self._unsound

    def is_current(self) -> bool:
        """False if the manifest has been replaced, or the log has grown."""
        try:
            now, known = os.stat(self.root / MANIFEST), os.fstat(self._descriptor)
        except OSError:  # whoever goes on from here is told what is wrong
            return False
        return (now.st_dev, now.st_ino) == (known.st_dev, known.st_ino) and self.logs[self.log].size == self.offset

    def adopt(self, manifest: Manifest, descriptor: int) -> None:
        """Go on with another manifest of the same epoch. Raises FileNotFoundError; then nothing has changed."""
        try:
            new = {s: Log(log_path(self.root, s), writable=self._writable) for s in manifest.logs if s not in self.logs}
        except BaseException:
            os.close(descriptor)
            raise
        os.close(self._descriptor)
        self._descriptor, self.manifest = descriptor, manifest
        self.logs.update(new)

    def follow(self) -> None:
        """Take in what was written since. Raises StoreError for damage."""
        for serial in self.manifest.logs[self.manifest.logs.index(self.log) :]:
            if serial != self.log:
                if self.offset != self.logs[self.log].size:
                    raise StoreError(
                        f"{self.logs[self.log].path}, offset {self.offset}: damaged; restore it from a copy"
                    )
                self.log, self.offset = serial, HEADER
            for at, payload in self.logs[serial].frames(self.offset):
                self.apply(payload, at)

    def apply(self, payload: bytes, at: int) -> None:
        """Take in one payload, which begins at offset `at` of the current log."""
        puts: list[tuple[int, int, Put]] = []
        records = self._parsed(payload, at)
        with self.sharing.writing():
            self._unsound = True
            for start, size, record in records:
                if isinstance(record, Put):
                    puts.append((at + start, size, record))
                else:
                    self._add(puts)
                    puts = []
                    self.table.kill([record.number])
            self._add(puts)
            self._note_deaths()
            self.offset = at + len(payload)
            self._unsound = False

    def _parsed(self, payload: bytes, at: int) -> list[tuple[int, int, Put | Drop]]:
        try:
            return list(parse(payload))
        except StoreError as error:
            raise StoreError(f"{self.logs[self.log].path}, offset {at}: {error}") from error

    def _add(self, puts: Sequence[tuple[int, int, Put]]) -> None:
        if not puts:
            return
        try:
            seen = [vector_of(put.picture) for _, _, put in puts]
        except SchemaError as error:
            raise StoreError(f"{self.logs[self.log].path}, offset {puts[0][0]}: {error}") from error
        vectors = np.stack([vector for _, vector, _, _ in seen])
        rows = np.arange(len(self.table), len(self.table) + len(puts))
        values: dict[str, Any] = {
            "number": [put.number for _, _, put in puts],
            "quality": np.array([quality for *_, quality in seen], np.uint8),
            "hash": np.stack([hash for _, _, hash, _ in seen]),
            "image": np.stack([np.frombuffer(bytes.fromhex(id), np.uint8) for id, *_ in seen]),
            "log": self.log,
            "offset": [offset for offset, _, _ in puts],
            "length": [size for _, size, _ in puts],
        }
        self.table.add([put.id for _, _, put in puts], vectors, values)
        self.proposer.add(vectors)
        self.hashes.add(rows, values["hash"], values["quality"])
        self.next_number = max(self.next_number, puts[-1][2].number + 1)

    def _note_deaths(self) -> None:
        dead = self.table.living < len(self.table)
        self._alive = bitmap(self.table.column("alive")) if dead else None

    def nearest(self, queries_QD: Half, *, k: int) -> list[list[tuple[str, float]]]:
        """The k nearest living pictures of each query, (id, distance), nearest first, equals by age."""
        with self.sharing.reading():
            k = min(k, self.table.living)
            if k <= 0:
                return [[] for _ in queries_QD]
            wide = min(self.table.living, 2 * k + _SPARE)
            found = []
            for start in range(0, len(queries_QD), _QUERIES):
                queries = queries_QD[start : start + _QUERIES]
                rows = self.proposer.search(queries, k=wide, alive=self._alive)
                found += [self._ranked(query, line[line >= 0], k) for query, line in zip(queries, rows, strict=True)]
            return found

    def _ranked(self, query: Half, rows: NDArray[np.int64], k: int) -> list[tuple[str, float]]:
        rows = np.sort(rows)
        distances = cosine_distance(np.broadcast_to(query, (len(rows), len(query))), self.table.vectors(rows))
        best = np.argsort(distances, kind="stable")[:k]
        return [(self.table.id(int(rows[i])), float(distances[i])) for i in best]

    def near_hashes(self, forms_F32: NDArray[np.uint8], *, bits: int, k: int) -> list[str]:
        """Ids of at most k living pictures whose hash is within `bits` of one of the forms, nearest first."""
        with self.sharing.reading():
            rows, _ = self.hashes.search(forms_F32, bits=bits)
            rows = rows[self.table.column("alive")[rows]][:k]
            return [self.table.id(int(row)) for row in rows]

    def place(self, id: str) -> tuple[int, int, int, int] | None:
        """(log, offset, length, number) of the living record under `id`."""
        with self.sharing.reading():
            row = self.table.row(id)
            return None if row is None else self.place_of(row)

    def place_of(self, row: int) -> tuple[int, int, int, int]:
        """(log, offset, length, number) of a row."""
        log, offset, length, number = (self.table.column(c)[row] for c in ("log", "offset", "length", "number"))
        return int(log), int(offset), int(length), int(number)

    def record(self, place: tuple[int, int, int, int]) -> tuple[bytes, Put]:
        """What lies there. Raises StoreError, naming file and offset, if it is not what was put there."""
        log, offset, length, number = place
        data = self.logs[log].read(offset, length)
        try:
            put = read_put(data)
            vector_of(put.picture)
            if put.number != number:
                raise StoreError(f"number {put.number} in place of {number}")
        except (StoreError, SchemaError) as error:
            raise StoreError(
                f"{self.logs[log].path}, offset {offset}: damaged ({error}); restore it from a copy"
            ) from error
        return data, put


def open_view(root: Path, *, writable: bool) -> View:
    """The index at `root` as it is now. Raises StoreError."""
    missing = ""
    for _ in range(10):  # files may be replaced between reading their names and opening them
        manifest, descriptor = read_manifest(root)
        try:
            view = View(root, manifest, descriptor, writable=writable)
        except FileNotFoundError as error:
            missing = error.filename
            continue
        view.follow()
        return view
    raise StoreError(f"{missing}: missing; restore it from a copy of the index")


def log_path(root: Path, serial: int) -> Path:
    """Where a log lies."""
    return root / f"log-{serial:08d}.ndd"
