"""The rows of an index: which number, id and picture each has, where it lies, and whether it is still there.

Shapes: N rows, D numbers per vector. Rows are in the order in which their numbers were given. A table begins with the
arrays of a snapshot, whose vectors and names stay on disk (mapped), and grows in memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndd.index.base import Half
from ndd.types import ImageId

__all__ = ["COLUMNS", "Table", "empty"]

COLUMNS: Mapping[str, tuple[str, tuple[int, ...]]] = {
    "number": ("<i8", ()),
    "alive": ("?", ()),
    "quality": ("u1", ()),
    "hash": ("u1", (32,)),
    "image": ("u1", (32,)),
    "log": ("<i4", ()),
    "offset": ("<i8", ()),
    "length": ("<i4", ()),
}
"""Kind and shape of a row's value. image: sha256 of the bytes; hash: PDQ of the picture as it is; log, offset, length: where
its record lies."""

Arrays = Mapping[str, NDArray[Any]]


class Table:
    """Rows that are added at the end and die in place. Not for several threads at once, but what was read stays as it was."""

    def __init__(self, arrays: Arrays) -> None:
        """arrays: `COLUMNS`, vector (N, D), names (bytes of all ids as UTF-8), name_end (N,), name_hash and name_row (N,)."""
        self._base = arrays
        self._count = self._mapped = len(arrays["number"])
        self._columns = {name: np.array(arrays[name]) for name in COLUMNS}
        self._fresh = np.zeros((0, arrays["vector"].shape[1]), np.float16)
        self._ids: list[str] = []
        self._rows: dict[str, int] = {}
        self.living = int(self._columns["alive"].sum())
        self.living_bytes = int(self._columns["length"][self._columns["alive"]].sum(dtype=np.int64))

    def __len__(self) -> int:
        return self._count

    @property
    def fresh(self) -> int:
        """Rows whose vectors are in memory."""
        return self._count - self._mapped

    def column(self, name: str) -> NDArray[Any]:
        """(N, …) the values of a column."""
        return self._columns[name][: self._count]

    def add(self, ids: Sequence[str], vectors: Half, values: Mapping[str, Any]) -> None:
        """Append living rows."""
        start, end = self._count, self._count + len(ids)
        for name, column in self._columns.items():
            self._columns[name] = column = _grown(column, start, end)
            column[start:end] = True if name == "alive" else values[name]
        self._fresh = _grown(self._fresh, start - self._mapped, end - self._mapped)
        self._fresh[start - self._mapped : end - self._mapped] = vectors
        self._ids.extend(ids)
        self._rows.update(zip(ids, range(start, end), strict=True))
        self._count = end
        self.living += len(ids)
        self.living_bytes += sum(values["length"])

    def kill(self, numbers: Sequence[int]) -> None:
        """The rows with these numbers are no longer there; numbers without a row are passed over."""
        given = self.column("number")
        for number in numbers:
            row = int(np.searchsorted(given, number))
            if row < self._count and given[row] == number and self._columns["alive"][row]:
                self._columns["alive"][row] = False
                self.living -= 1
                self.living_bytes -= int(self._columns["length"][row])

    def row(self, id: str) -> int | None:
        """The living row with this id."""
        row = self._rows.get(id)
        if row is not None and self._columns["alive"][row]:
            return row
        found, order = self._base["name_hash"], self._base["name_row"]
        key = np.uint64(_hash(id.encode()))
        for at in range(np.searchsorted(found, key), np.searchsorted(found, key, side="right")):
            if self._columns["alive"][order[at]] and self.id(int(order[at])) == id:
                return int(order[at])
        return None

    def id(self, row: int) -> str:
        """The id of a row."""
        if row >= self._mapped:
            return self._ids[row - self._mapped]
        ends = self._base["name_end"]
        return self._base["names"][int(ends[row - 1]) if row else 0 : int(ends[row])].tobytes().decode()

    def vectors(self, rows: NDArray[np.int64]) -> Half:
        """(R, D) vectors of these rows."""
        found = np.empty((len(rows), self._fresh.shape[1]), np.float16)
        mapped = rows < self._mapped
        found[mapped] = self._base["vector"][rows[mapped]]
        found[~mapped] = self._fresh[rows[~mapped] - self._mapped]
        return found

    def with_image(self, id: ImageId) -> NDArray[np.int64]:
        """Living rows of pictures with these bytes."""
        wanted = np.frombuffer(bytes.fromhex(id), "<u8")
        images = self.column("image").view("<u8")
        (rows,) = np.nonzero(images[:, 0] == wanted[0])
        same = (images[rows] == wanted).all(axis=1) & self.column("alive")[rows]
        return np.asarray(rows[same], np.int64)

    def arrays(self, keep: NDArray[np.int64] | None = None) -> dict[str, NDArray[Any]]:
        """All of it as arrays, for a snapshot or a table of its own. keep: only these rows."""
        rows = np.arange(self._count) if keep is None else keep
        hashes = np.empty(self._count, np.uint64)
        hashes[self._base["name_row"]] = self._base["name_hash"]
        fresh = [name.encode() for name in self._ids]
        hashes[self._mapped :] = [_hash(name) for name in fresh]
        lengths = np.diff(self._base["name_end"], prepend=0)
        lengths = np.concatenate([lengths, np.array([len(name) for name in fresh], np.int64)])
        names = self._base["names"].tobytes() + b"".join(fresh)
        if keep is not None:
            starts = np.cumsum(lengths) - lengths
            names = b"".join(names[starts[row] : starts[row] + lengths[row]] for row in rows)
        order = np.argsort(hashes[rows], kind="stable")
        return {
            **{name: self.column(name)[rows] for name in COLUMNS},
            "vector": self.vectors(rows),
            "names": np.frombuffer(names, np.uint8),
            "name_end": np.cumsum(lengths[rows]),
            "name_hash": hashes[rows][order],
            "name_row": order.astype(np.int64),
        }


def empty(dim: int) -> Table:
    """A table without rows."""
    arrays = {name: np.zeros((0, *shape), kind) for name, (kind, shape) in COLUMNS.items()}
    return Table(
        {
            **arrays,
            "vector": np.zeros((0, dim), np.float16),
            "names": np.zeros(0, np.uint8),
            "name_end": np.zeros(0, np.int64),
            "name_hash": np.zeros(0, np.uint64),
            "name_row": np.zeros(0, np.int64),
        }
    )


def _hash(name: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little")


def _grown(column: NDArray[Any], used: int, wanted: int) -> NDArray[Any]:
    """The column with room for `wanted` rows: itself, or a copy half as large again, so that appending is cheap."""
    if wanted <= len(column):
        return column
    larger = np.zeros((max(wanted, len(column) * 3 // 2, 1024), *column.shape[1:]), column.dtype)
    larger[:used] = column[:used]
    return larger
