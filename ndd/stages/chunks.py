"""Results of single blocks of work on disk: written whole or not at all, read together, used again after an interruption.

A chunk is a Parquet file named by what it holds, so the same work done twice leaves one file. How many workers there were
and how the work was cut is not recorded: a reader sees rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from ndd.errors import SchemaError
from ndd.files import make_directory
from ndd.parquet import column, read_table, write_table

__all__ = ["EVIDENCE", "FAILED", "MANIFEST", "PAIRS", "PROPOSALS", "ROWS", "ChunkStore", "pictures_schema"]

MANIFEST = pa.schema(
    [
        ("path", pa.string()),
        ("uri", pa.string()),
        ("size", pa.int64()),
        ("mtime_ns", pa.int64()),
        ("side", pa.int8()),
    ]
)
"""The pictures of a search, sorted by path. side: 0, or 1 for those given by `--against`."""

PAIRS = pa.schema([("left", pa.int64()), ("right", pa.int64())])
"""Pairs, as row numbers in the album, left < right."""

PROPOSALS = pa.schema([*PAIRS, ("promise", pa.float64())])
"""Pairs that were proposed. promise: what they have in common before a glance (`ndd.stages.match`)."""

ROWS = pa.schema([("row", pa.int64())])
"""Pictures, as row numbers in the album."""

FAILED = pa.schema([("path", pa.string()), ("stage", pa.string()), ("reason", pa.string())])
"""Pictures that could not be read, as `ndd.types.Failure`."""

EVIDENCE = pa.schema([("left_id", pa.string()), ("right_id", pa.string()), ("evidence", pa.string())])
"""What verification found; JSON of `GeometricEvidence`, left being the picture whose path comes first."""


def pictures_schema(dim: int) -> Any:
    """One row per readable picture.

    size, mtime_ns: of the file when it was read. hashes: 8 × 32 bytes. vector: `dim` float16, little-endian.
    """
    return pa.schema(
        [
            ("path", pa.string()),
            ("size", pa.int64()),
            ("mtime_ns", pa.int64()),
            ("id", pa.string()),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("format", pa.string()),
            ("frames", pa.int32()),
            ("alpha", pa.bool_()),
            ("bits", pa.int16()),
            ("taken", pa.string()),
            ("exif_fields", pa.int32()),
            ("hashes", pa.binary(256)),
            ("quality", pa.int16()),
            ("flat", pa.bool_()),
            ("vector", pa.binary(2 * dim)),
            ("hubness", pa.float64()),
        ]
    )


class ChunkStore:
    """The chunks of one kind in one directory."""

    def __init__(self, directory: Path, schema: Any) -> None:
        self.directory = directory
        self.schema = schema

    def write(self, columns: Mapping[str, Sequence[Any]], *, of: Iterable[object]) -> Path:
        """Write one chunk. of: the items it is the result of; they name it."""
        make_directory(self.directory)
        name = hashlib.sha256("\n".join(map(str, of)).encode()).hexdigest()[:32]
        path = self.directory / f"{name}.parquet"
        arrays = [column(columns[f.name], f.type, name=f.name, where=str(path)) for f in self.schema]
        return write_table(path, pa.Table.from_arrays(arrays, schema=self.schema))

    def __iter__(self) -> Iterator[Any]:
        """The chunks' tables, in name order. One that cannot be read counts as not written and is removed."""
        # Not those still being written: their names begin with a dot.
        for path in sorted(self.directory.glob("[0-9a-f]*.parquet")):
            try:
                table = read_table(path, self.schema)
            except SchemaError:
                path.unlink(missing_ok=True)
                continue
            yield table

    def read(self) -> Any:
        """All rows in one table."""
        return pa.concat_tables([self.schema.empty_table(), *self])
