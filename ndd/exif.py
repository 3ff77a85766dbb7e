"""Directories of tags in TIFF layout: what EXIF is made of, and what a TIFF file describes its pixels with.

A reader of its own, because Pillow's warns and raises on damaged metadata while a picture with a damaged EXIF block is
still a picture: here an unreadable field is left out and nothing is ever raised.
Source: TIFF 6.0 (1992) section 2; BigTIFF; Exif 2.32 (CIPA DC-008).
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

import numpy as np

__all__ = ["Exif", "Field", "Layout", "numbers", "pack_directory", "read_directory", "read_exif", "read_layout"]

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_INTEGERS = {1: "u1", 3: "u2", 4: "u4", 6: "i1", 8: "i2", 9: "i4", 13: "u4", 16: "u8", 17: "i8", 18: "u8"}
_ORIENTATION, _EXIF_IFD, _GPS_IFD, _DATETIME_ORIGINAL = 0x0112, 0x8769, 0x8825, 0x9003
_MAX_FIELDS = 4096  # a real directory has tens; the rest of a damaged one is not worth reading


@dataclass(frozen=True, slots=True)
class Layout:
    """Byte order (`<` or `>`), BigTIFF or not, and where the first directory lies (byte offset)."""

    order: str
    big: bool
    first: int


@dataclass(frozen=True, slots=True)
class Field:
    """One tag: `kind` is the TIFF type number, `value` holds `count` items in the file's byte order.

    The value is a view, not a copy: a hostile directory may name the whole file in every field. It is empty where the
    file ends before it. `inline`: the last bytes of the entry, the value itself or its offset.
    """

    tag: int
    kind: int
    count: int
    value: memoryview
    inline: bytes


@dataclass(frozen=True, slots=True)
class Exif:
    """How to turn the picture (1…8), when it was taken (ISO 8601), how many fields could be read."""

    orientation: int = 1
    taken: str | None = None
    fields: int = 0


def read_layout(data: bytes) -> Layout | None:
    """The layout announced by a TIFF header, or None where there is none."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 8:
        return None
    magic: int = struct.unpack_from(order + "H", data, 2)[0]
    if magic == 42:
        return Layout(order, False, struct.unpack_from(order + "I", data, 4)[0])
    if magic == 43 and len(data) >= 16:
        return Layout(order, True, struct.unpack_from(order + "Q", data, 8)[0])
    return None


def read_directory(data: bytes, layout: Layout, at: int) -> tuple[list[Field], int] | None:
    """The fields of the directory at byte `at`, and the offset of the next directory (0 = none).

    None if the directory does not lie inside `data`. Fields of unknown type are left out.
    """
    head, entry, link = ("Q", "HHQ", "Q") if layout.big else ("H", "HHI", "I")
    room = 8 if layout.big else 4
    step = struct.calcsize("<" + entry) + room
    start = at + struct.calcsize("<" + head)
    if at <= 0 or start > len(data):
        return None
    count: int = struct.unpack_from(layout.order + head, data, at)[0]
    end = start + count * step
    if end > len(data):
        return None
    fields, view = [], memoryview(data)
    for position in range(start, start + min(count, _MAX_FIELDS) * step, step):
        tag, kind, items = struct.unpack_from(layout.order + entry, data, position)
        size = _SIZES.get(kind, 0) * items
        inline = data[position + step - room : position + step]
        where = struct.unpack(layout.order + link, inline)[0] if size > room else position + step - room
        if size:
            value = view[where : where + size] if where + size <= len(data) else view[:0]
            fields.append(Field(tag, kind, items, value, inline))
    following = struct.unpack_from(layout.order + link, data, end)[0] if end + room <= len(data) else 0
    return fields, following


def numbers(field: Field | None, layout: Layout) -> list[int]:
    """The field's integers; empty for a missing field or one of another type."""
    code = _INTEGERS.get(field.kind) if field else None
    return np.frombuffer(field.value, layout.order + code).tolist() if field and field.value and code else []


def pack_directory(fields: Collection[Field], layout: Layout) -> bytes:
    """A directory of these fields and no next one; values stay where they are. Never longer than the original."""
    head, entry, link = ("Q", "HHQ", "Q") if layout.big else ("H", "HHI", "I")
    packed = [struct.pack(layout.order + head, len(fields))]
    for field in sorted(fields, key=lambda f: f.tag):
        packed += struct.pack(layout.order + entry, field.tag, field.kind, field.count), field.inline
    return b"".join((*packed, struct.pack(layout.order + link, 0)))


def read_exif(block: bytes | None, *, ignore: Collection[int] = ()) -> Exif:
    """Read an EXIF block (a TIFF header, with or without `Exif\\0\\0` before it). Never raises; damaged = as if absent.

    ignore: tags of the main directory that are not counted (those that describe a TIFF file's own pixels).
    """
    block = (block or b"").removeprefix(b"Exif\0\0")
    layout = read_layout(block)
    main = read_directory(block, layout, layout.first) if layout else None
    if layout is None or main is None:
        return Exif()
    fields = {f.tag: f for f in main[0] if f.value}
    count = sum(tag not in ignore and tag not in (_EXIF_IFD, _GPS_IFD) for tag in fields)
    taken = None
    for pointer in (_EXIF_IFD, _GPS_IFD):
        where = numbers(fields.get(pointer), layout)
        inner = read_directory(block, layout, where[0]) if where else None
        if inner:
            values = {f.tag: f.value for f in inner[0] if f.value}
            count += len(values)
            stamps = [values[_DATETIME_ORIGINAL]] if pointer == _EXIF_IFD and _DATETIME_ORIGINAL in values else []
            taken = taken or (_iso(stamps[0]) if stamps else None)
    orientation = numbers(fields.get(_ORIENTATION), layout)
    turned = orientation[0] if orientation and 1 <= orientation[0] <= 8 else 1
    return Exif(turned, taken, count)


def _iso(stamp: memoryview) -> str | None:
    """`2024:05:17 18:03:00` as ISO 8601, or None where it is no date (cameras write blanks or zeros)."""
    try:
        return datetime.strptime(bytes(stamp[:32]).rstrip(b"\0 ").decode("ascii"), "%Y:%m:%d %H:%M:%S").isoformat()
    except ValueError:  # UnicodeDecodeError is one too
        return None
