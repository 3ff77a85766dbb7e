"""What the log's frames say: pictures put in and pictures dropped, each under a number that is never given again.

    put    1 u8 · number u64 · lengths of id, metadata and picture 3 × u32 · CRC-32 of id and metadata u32 ·
           id · metadata · picture
    drop   2 u8 · number u64

id is UTF-8, metadata JSON, picture what `KnownPicture.pack` returned (with a checksum of its own). A payload is a row of such
records; it is read as a whole or, a single put, by its place.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ndd.errors import SchemaError, StoreError

__all__ = ["MAX_ID", "MAX_METADATA", "Drop", "Put", "checked_id", "checked_metadata", "parse", "read_put"]

MAX_ID = 1024
"""Longest id, bytes of UTF-8."""
MAX_METADATA = 64 * 1024
"""Largest metadata of one picture, bytes of JSON."""

_PUT = struct.Struct("<BQIIII")
_DROP = struct.Struct("<BQ")


@dataclass(frozen=True, slots=True)
class Put:
    """A picture under its number and the caller's id. metadata: JSON. picture: packed."""

    number: int
    id: str
    metadata: bytes
    picture: bytes

    def encode(self) -> bytes:
        """The record's bytes."""
        name = self.id.encode()
        sizes = (len(name), len(self.metadata), len(self.picture))
        head = _PUT.pack(1, self.number, *sizes, zlib.crc32(name + self.metadata))
        return b"".join((head, name, self.metadata, self.picture))


@dataclass(frozen=True, slots=True)
class Drop:
    """The picture with this number is gone."""

    number: int

    def encode(self) -> bytes:
        """The record's bytes."""
        return _DROP.pack(2, self.number)


def parse(payload: bytes) -> Iterator[tuple[int, int, Put | Drop]]:
    """(offset in the payload, length, record) of each record. Raises StoreError for records of another version."""
    at = 0
    while at < len(payload):
        if payload[at] == 2:
            record: Put | Drop = Drop(_DROP.unpack_from(payload, at)[1])
            size = _DROP.size
        elif payload[at] == 1:
            _, _, *sizes, _ = _PUT.unpack_from(payload, at)
            size = _PUT.size + sum(sizes)
            record = read_put(payload[at : at + size])
        else:
            raise StoreError(f"a record of kind {payload[at]}: this index was written by a newer version; upgrade ndd")
        yield at, size, record
        at += size


def read_put(data: bytes) -> Put:
    """The put in these bytes. Raises StoreError if they are damaged."""
    if len(data) < _PUT.size or data[0] != 1:
        raise StoreError("no picture is stored there")
    _, number, name, metadata, picture, check = _PUT.unpack_from(data)
    middle, last = _PUT.size + name, _PUT.size + name + metadata
    if len(data) != last + picture or zlib.crc32(data[_PUT.size : last]) != check:
        raise StoreError("the checksum does not fit")
    return Put(number, data[_PUT.size : middle].decode(), data[middle:last], data[last:])


def checked_id(id: str) -> str:
    """The id, if it may be one. Raises SchemaError."""
    try:
        size = len(id.encode())
    except UnicodeEncodeError:
        size = 0
    if not 0 < size <= MAX_ID or any(ord(c) < 32 or ord(c) == 127 for c in id):
        raise SchemaError(f"id {id[:80]!r}: give 1 to {MAX_ID} bytes of text without control characters")
    return id


def checked_metadata(metadata: Mapping[str, Any], *, id: str) -> bytes:
    """The metadata as JSON. Raises SchemaError."""
    try:
        text = json.dumps(dict(metadata), sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise SchemaError(f"metadata of {id!r}: cannot be stored as JSON ({error})") from None
    if len(text) > MAX_METADATA:
        raise SchemaError(f"metadata of {id!r}: {len(text)} bytes of JSON; at most {MAX_METADATA} are kept")
    return text
