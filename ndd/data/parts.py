"""A pack in files small enough to be carried to another machine: lossily compressed squares in Parquet.

DIR/part-000.parquet …  id, path, picture (WebP), in the order of the pack; at most `limit` bytes each
DIR/parts.json          written last: the files with their sha256, so that a lost or damaged one is noticed
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from ndd.cores import cores
from ndd.data.pack import Pack, store_pack
from ndd.errors import InputError, SchemaError
from ndd.files import atomic_path, make_directory
from ndd.parquet import read_table, write_table
from ndd.types import ImageId

__all__ = ["PART_BYTES", "is_parts", "join_parts", "write_parts"]

PART_BYTES = 36 * 2**20
"""What a part may weigh."""

_PART = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("picture", pa.binary(), nullable=False),
    ]
)
_QUALITY = 90
_ROW = 64
"""Bytes that a row may cost beyond its values, and (times 1024) what a file may cost beyond its rows."""
_WINDOW = 256


def write_parts(pack: Pack, out: str | os.PathLike[str], *, limit: int = PART_BYTES) -> list[Path]:
    """Write `pack` as parts of at most `limit` bytes. Lossy: the pack they make has pixels, and a digest, of its own.

    Raises InputError if a single picture does not fit.
    """
    directory = Path(out)
    make_directory(directory)
    (directory / "parts.json").unlink(missing_ok=True)
    parts: list[Path] = []
    rows: list[tuple[str, str, bytes]] = []
    weight = room = limit - 1024 * _ROW
    for row in _encoded(pack):
        cost = sum(map(len, row)) + len(row[1].encode()) + _ROW
        if cost > room:
            raise InputError(f"{row[1]}: {cost} bytes do not fit into a part of {limit}; store smaller squares")
        if weight < cost:
            parts.append(_write(directory, len(parts), rows))
            rows, weight = [], room
        rows.append(row)
        weight -= cost
    parts.append(_write(directory, len(parts), rows))
    said = {
        "size": pack.size,
        "pictures": len(pack.ids),
        "of": pack.digest,
        "parts": {p.name: _sha256(p) for p in parts},
    }
    with atomic_path(directory / "parts.json") as temporary:
        temporary.write_text(json.dumps(said, indent=1) + "\n")
    return parts


def is_parts(directory: Path) -> bool:
    """Does this directory hold a pack in parts?"""
    return (directory / "parts.json").is_file()


def join_parts(directory: str | os.PathLike[str], out: str | os.PathLike[str]) -> Pack:
    """The pack that the parts in `directory` hold, written to `out`. Raises InputError, SchemaError."""
    place = Path(directory)
    try:
        said = json.loads((place / "parts.json").read_text())
        parts, size, count = dict(said["parts"]), int(said["size"]), int(said["pictures"])
    except FileNotFoundError:
        raise InputError(f"{place}: no parts.json there; carry it over beside the parts") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SchemaError(f"{place / 'parts.json'}: not readable ({error}); carry it over again") from error
    for name, digest in parts.items():
        if not (place / name).is_file():
            raise InputError(f"{place / name}: missing; carry it over beside the others")
        if _sha256(place / name) != digest:
            raise SchemaError(f"{place / name}: is not what was written (sha256 differs); carry it over again")
    pack = store_pack(out, size, _pictures(place, sorted(parts)), failures=[])
    if len(pack.ids) != count:
        raise SchemaError(
            f"{place}: the parts hold {len(pack.ids)} pictures, parts.json says {count}; write them again"
        )
    return pack


def _encoded(pack: Pack) -> Iterator[tuple[str, str, bytes]]:
    def encode(row: int) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(np.asarray(pack.images[row])).save(buffer, "WEBP", quality=_QUALITY, method=4)
        return buffer.getvalue()

    with ThreadPoolExecutor(cores(), thread_name_prefix="ndd-parts") as pool:
        for start in range(0, len(pack.ids), _WINDOW):
            rows = range(start, min(start + _WINDOW, len(pack.ids)))
            for row, picture in zip(rows, pool.map(encode, rows), strict=True):
                yield str(pack.ids[row]), pack.paths[row], picture


def _write(directory: Path, number: int, rows: list[tuple[str, str, bytes]]) -> Path:
    columns = [pa.array(values, field.type) for values, field in zip(zip(*rows, strict=True), _PART, strict=True)]
    return write_table(directory / f"part-{number:03}.parquet", pa.Table.from_arrays(columns, schema=_PART))


def _pictures(place: Path, parts: list[str]) -> Iterator[tuple[ImageId, str, NDArray[np.uint8]]]:
    for name in parts:
        table = read_table(place / name, _PART)
        for row in range(len(table)):
            picture = Image.open(io.BytesIO(table["picture"][row].as_py()))
            yield ImageId(table["id"][row].as_py()), table["path"][row].as_py(), np.asarray(picture.convert("RGB"))


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
