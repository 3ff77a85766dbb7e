"""A pack: the pictures of a training run, decoded once, squashed to one size, in a file that is mapped and not read.

    DIR/images.npy        (N, S, S, 3) uint8
    DIR/pictures.parquet  id, path: row i describes picture i
    DIR/failures.parquet  the files that could not be read
    DIR/pack.json         written last: its presence means complete

Rows are in the order of their paths and each content comes once: a second copy of a file would be its own negative.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ndd.config import DecodeLimits, json_digest
from ndd.cores import cores
from ndd.data.scan import Source
from ndd.errors import DecodeError, InputError, NothingReadable, SchemaError
from ndd.files import atomic_path, make_directory
from ndd.images import decode, read_file, to_square
from ndd.parquet import column, read_table, write_table
from ndd.tables import read_failures, write_failures
from ndd.types import Failure, ImageId, image_id

__all__ = ["Pack", "Read", "load_pack", "square_of", "store_pack", "write_pack"]

Read = Callable[..., bytes]
"""`ndd.images.read_file`, or what reads other places in the same way: (uri, *, limits) → bytes, raising DecodeError."""


_PICTURES = pa.schema([pa.field("id", pa.string(), nullable=False), pa.field("path", pa.string(), nullable=False)])
_WINDOW = 256
"""Pictures decoded before they are written: bounds memory."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pack:
    """An opened pack. images: (N, S, S, 3) uint8, mapped from the file. digest: sha256 over pictures and size, by content."""

    directory: Path
    images: NDArray[np.uint8]
    ids: tuple[ImageId, ...]
    paths: tuple[str, ...]
    failures: tuple[Failure, ...]
    digest: str

    @property
    def size(self) -> int:
        """S, pixels."""
        return int(self.images.shape[1])


def write_pack(
    sources: Sequence[Source],
    out: str | os.PathLike[str],
    size: int,
    *,
    limits: DecodeLimits | None = None,
    threads: int | None = None,
    read: Read = read_file,
) -> Pack:
    """Decode `sources` into a pack at `out`; the same files give the same bytes, whatever their order or `threads`.

    size: side of the stored squares, pixels. Raises NothingReadable if not one picture could be read.
    """
    failures: list[Failure] = []

    def readable() -> Iterator[tuple[ImageId, str, NDArray[np.uint8]]]:
        workers = threads or cores()
        for source, found in _decoded(sorted(sources), size, limits or DecodeLimits(), workers, read):
            if isinstance(found, Failure):
                failures.append(found)
            else:
                yield found[0], source.path, found[1]

    return store_pack(out, size, readable(), failures=failures)


def store_pack(
    out: str | os.PathLike[str],
    size: int,
    pictures: Iterable[tuple[ImageId, str, NDArray[np.uint8]]],
    *,
    failures: Sequence[Failure],
) -> Pack:
    """Write (id, path, (S, S, 3) uint8) of each picture as a pack; of one id the first is kept.

    failures: looked at once `pictures` is exhausted. Raises NothingReadable if there are no pictures.
    """
    directory = Path(out)
    make_directory(directory)
    (directory / "pack.json").unlink(missing_ok=True)
    ids: dict[ImageId, str] = {}
    pixels = hashlib.sha256()
    with atomic_path(directory / "images.npy") as temporary, open(temporary, "wb") as file:
        _write_header(file, 0, size)
        for picture, path, square in pictures:
            if picture not in ids:
                ids[picture] = path
                content = square.tobytes()
                pixels.update(content)
                file.write(content)
        file.seek(0)
        _write_header(file, len(ids), size)
    if not ids:
        raise NothingReadable(
            f"not one of {len(failures)} pictures could be read; the first failure: {_first(failures)}"
        )
    arrays = [column(list(values), pa.string(), name=name, where=str(directory)) for name, values in
              (("id", ids), ("path", ids.values()))]  # fmt: skip
    write_table(directory / "pictures.parquet", pa.Table.from_arrays(arrays, schema=_PICTURES))
    write_failures(directory / "failures.parquet", failures)
    digest = json_digest({"size": size, "ids": list(ids), "pixels": pixels.hexdigest()})
    with atomic_path(directory / "pack.json") as temporary:
        temporary.write_text(json.dumps({"digest": digest, "pictures": len(ids), "size": size}) + "\n")
    return load_pack(directory)


def load_pack(directory: str | os.PathLike[str]) -> Pack:
    """Open a pack. Raises InputError if there is none, or only a part of one, SchemaError if its files disagree."""
    place = Path(directory)
    try:
        said = json.loads((place / "pack.json").read_text())
        images = np.load(place / "images.npy", mmap_mode="r", allow_pickle=False)
        count, size, digest = int(said["pictures"]), int(said["size"]), str(said["digest"])
    except FileNotFoundError as error:
        raise InputError(f"{place}: no complete pack there ({error.filename} is missing); write it again") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SchemaError(f"{place}: not a readable pack ({error}); write it again") from error
    table = read_table(place / "pictures.parquet", _PICTURES)
    if images.shape != (count, size, size, 3) or images.dtype != np.uint8 or len(table) != count:
        raise SchemaError(
            f"{place}: pack.json says {count} pictures of {size} pixels, images.npy is {images.shape} {images.dtype} "
            f"and pictures.parquet has {len(table)} rows; write the pack again"
        )
    return Pack(
        directory=place,
        images=images,
        ids=tuple(map(ImageId, table.column("id").to_pylist())),
        paths=tuple(table.column("path").to_pylist()),
        failures=tuple(read_failures(place / "failures.parquet")),
        digest=digest,
    )


def square_of(content: bytes, size: int, *, limits: DecodeLimits | None = None) -> NDArray[np.uint8]:
    """What a pack stores of a picture file: (S, S, 3) uint8. Raises DecodeError."""
    return to_square(decode(content, limits=limits, min_side=size).pixels, size)


def _decoded(
    sources: Sequence[Source], size: int, limits: DecodeLimits, threads: int, read: Read
) -> Iterator[tuple[Source, tuple[ImageId, NDArray[np.uint8]] | Failure]]:
    """Each source with what became of it, in order."""

    def decode_one(source: Source) -> tuple[ImageId, NDArray[np.uint8]] | Failure:
        try:
            content = read(source.uri, limits=limits)
            return image_id(content), square_of(content, size, limits=limits)
        except DecodeError as error:
            return Failure(path=source.path, stage=error.stage, reason=error.reason)

    with ThreadPoolExecutor(threads, thread_name_prefix="ndd-pack") as pool:
        for start in range(0, len(sources), _WINDOW):
            window = sources[start : start + _WINDOW]
            yield from zip(window, pool.map(decode_one, window), strict=True)


def _write_header(file: Any, count: int, size: int) -> None:
    # The format pads the header for the first axis to grow in place, so the header with the final count fits.
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, size, size, 3)}
    np.lib.format.write_array_header_1_0(file, header)


def _first(failures: Sequence[Failure]) -> str:
    return f"{failures[0].path}: {failures[0].reason}" if failures else "there are none"
