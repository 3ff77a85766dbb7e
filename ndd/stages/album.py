"""The pictures of one search as columns, in path order: what matching and grouping read.

Shapes: N readable pictures, M representatives (one per content and side), D numbers per vector.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ndd.files import atomic_path, make_directory
from ndd.stages.chunks import ChunkStore
from ndd.stages.decode import HEADER

__all__ = ["Album", "fresh_rows", "load_album", "map_album", "write_album"]

_TABLE = "table.arrow"
_ARRAYS = ("vectors", "hashes", "nodes")


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Album:
    """Readable pictures sorted by path; row i of every column is one picture.

    table: Arrow columns path, uri, size, side, id, quality, flat, hubness and the header's. vectors: (N, D) float16.
    hashes: (N, 8, 32).
    nodes: (M,) rows of the representatives: of each content the smallest path, on each side.
    """

    table: Any
    vectors: NDArray[np.float16]
    hashes: NDArray[np.uint8]
    nodes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.table)

    def texts(self, name: str) -> list[str]:
        """A column as Python values."""
        values: list[str] = self.table.column(name).to_pylist()
        return values

    def numbers(self, name: str) -> NDArray[np.int64]:
        """A column as integers."""
        return np.asarray(self.table.column(name).to_numpy(), np.int64)

    def contents(self) -> NDArray[np.int64]:
        """(N,) equal numbers for equal bytes."""
        codes = self.table.column("id").combine_chunks().dictionary_encode().indices
        return np.asarray(codes.to_numpy(zero_copy_only=False), np.int64)

    def copies(self) -> Iterator[tuple[int, int]]:
        """Rows of exact copies as stars, each pair once; with two sides only pairs that cross.

        One side: the representative with each other copy. Two: each side's representative with the other side's copies.
        """
        content, side = self.contents(), self.numbers("side")
        order = np.lexsort((np.arange(len(self)), content))
        for rows in np.split(order, np.flatnonzero(np.diff(content[order])) + 1):
            if len(rows) < 2:
                continue
            if not side.any():
                yield from ((int(rows[0]), int(row)) for row in rows[1:])
                continue
            here, there = rows[side[rows] == 0], rows[side[rows] == 1]
            if len(here) and len(there):
                star = {(here[0], row) for row in there} | {(row, there[0]) for row in here}
                yield from sorted((int(min(pair)), int(max(pair))) for pair in star)


def fresh_rows(manifest: Any, pictures: ChunkStore) -> Iterator[tuple[int, Any, int]]:
    """(row of the manifest, table, row of the table) of pictures whose file is still as it was when it was read."""
    wanted: dict[tuple[str, int, int], int] | None = None
    for table in pictures:
        if wanted is None:  # without chunks, nothing is looked up
            wanted = {key: row for row, key in enumerate(_keys(manifest))}
        for at, key in enumerate(_keys(table)):
            row = wanted.pop(key, None)
            if row is not None:
                yield row, table, at


def _keys(table: Any) -> Iterator[tuple[str, int, int]]:
    return zip(*(table.column(name).to_pylist() for name in ("path", "size", "mtime_ns")), strict=True)


def load_album(manifest: Any, pictures: ChunkStore) -> Album:
    """The readable pictures of `manifest` (schema MANIFEST, sorted by path), from the chunks that hold them."""
    rows: list[int] = []
    parts: list[Any] = []
    for table, found in _by_table(manifest, pictures):
        rows += [row for row, _ in found]
        parts.append(table.take([at for _, at in found]))
    order = np.argsort(np.asarray(rows, np.int64))
    joined = pa.concat_tables([pictures.schema.empty_table(), *parts]).take(order).combine_chunks()
    named = manifest.take(np.sort(np.asarray(rows, np.int64)))
    dim = pictures.schema.field("vector").type.byte_width // 2
    columns = {name: named.column(name) for name in ("path", "uri", "size", "side")}
    columns |= {name: joined.column(name) for name in ("id", "quality", "flat", "hubness", *HEADER)}
    kept = pa.table(columns)
    return Album(
        table=kept,
        vectors=_fixed(joined.column("vector"), np.dtype("<f2")).reshape(-1, dim),
        hashes=_fixed(joined.column("hashes"), np.dtype(np.uint8)).reshape(-1, 8, 32),
        nodes=_representatives(kept),
    )


def write_album(directory: Path, album: Album) -> None:
    """Lay an album down so that every worker can have it by `map_album`: joining the chunks anew, which every step did, took
    .07 s for 3,000 pictures and grows with them. The table comes last and makes it whole."""
    make_directory(directory)
    (directory / _TABLE).unlink(missing_ok=True)
    for name in _ARRAYS:
        with atomic_path(directory / f"{name}.npy") as temporary, temporary.open("wb") as file:
            np.save(file, getattr(album, name))
    with atomic_path(directory / _TABLE) as temporary, pa.ipc.new_file(str(temporary), album.table.schema) as out:
        out.write_table(album.table)


def map_album(directory: Path) -> Album | None:
    """The album that `write_album` laid down, mapped into memory, read-only; None if there is none."""
    if not (directory / _TABLE).is_file():
        return None
    table = pa.ipc.open_file(pa.memory_map(str(directory / _TABLE))).read_all()
    # Plain arrays over the same memory: numpy's memmap makes every slice an object of its own kind.
    arrays = {name: np.asarray(np.load(directory / f"{name}.npy", mmap_mode="r")) for name in _ARRAYS}
    return Album(table=table, **arrays)


def _by_table(manifest: Any, pictures: ChunkStore) -> Iterator[tuple[Any, list[tuple[int, int]]]]:
    current, found = None, []
    for row, table, at in fresh_rows(manifest, pictures):
        if table is not current and current is not None:
            yield current, found
            found = []
        current = table
        found.append((row, at))
    if current is not None:
        yield current, found


def _representatives(table: Any) -> NDArray[np.int64]:
    """Rows of the first picture of each content on each side; rows are in path order."""
    key = pc.binary_join_element_wise(table.column("id"), table.column("side").cast(pa.string()), "/")
    codes = np.asarray(key.combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False), np.int64)
    _, first = np.unique(codes, return_index=True)
    return np.sort(first).astype(np.int64)


def _fixed(values: Any, kind: np.dtype[Any]) -> NDArray[Any]:
    """Fixed-size binary column without nulls → flat array of `kind`."""
    array = values.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], values.type)
    width = array.type.byte_width
    start = array.offset * width
    content = memoryview(array.buffers()[1])[start : start + len(array) * width] if len(array) else b""
    return np.frombuffer(content, kind).copy()
