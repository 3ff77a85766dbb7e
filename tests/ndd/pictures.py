"""One small photograph in every encoding that ndd reads, and the means to damage it."""

from __future__ import annotations

import io
import struct
import zlib
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pillow_heif
from PIL import Image, ImageCms
from skimage import data

Array = npt.NDArray[np.uint8]


@cache
def photo() -> Array:
    """(96, 140, 3) uint8: a cat, with detail enough that every encoder has work to do."""
    return np.ascontiguousarray(data.chelsea()[4:292:3, 10:430:3])


def encode(picture: Array | Image.Image, format: str, **options: Any) -> bytes:
    # A copy: Pillow leaves the settings of one encoder on the image, where the next one trips over them.
    image = picture.copy() if isinstance(picture, Image.Image) else Image.fromarray(picture)
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def encode_heic(picture: Array, **options: Any) -> bytes:
    stream = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(picture)).save(stream, **options)
    return stream.getvalue()


def lab() -> Image.Image:
    """The photograph in CIE Lab."""
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    converted = ImageCms.applyTransform(Image.fromarray(photo()), ImageCms.buildTransform(*profiles, "RGB", "LAB"))
    assert converted is not None
    return converted


@cache
def encodings() -> dict[str, bytes]:
    """Name → file. Those whose first word is `grey` show the photograph's luminance, the others its colours."""
    image = Image.fromarray(photo())
    grey = image.convert("L")
    deep = np.asarray(grey).astype(np.uint16) * 257

    glass = image.convert("RGBA")
    glass.putpixel((0, 0), (*image.getpixel((0, 0)), 250))  # encoders drop an alpha channel that is opaque throughout

    def pages() -> dict[str, Any]:
        return {"save_all": True, "append_images": [Image.fromarray(np.roll(photo(), 30 * i, 1)) for i in (1, 2)]}

    return {
        "jpeg": encode(image, "JPEG", quality=92),
        "jpeg progressive": encode(image, "JPEG", quality=92, progressive=True),
        "jpeg restarts": encode(image, "JPEG", quality=92, restart_marker_rows=1),
        "jpeg cmyk": encode(image.convert("CMYK"), "JPEG", quality=95),
        "grey jpeg": encode(grey, "JPEG", quality=92),
        "mpo": encode(image, "MPO", quality=92, **pages()),
        "png": encode(image, "PNG"),
        "png palette": encode(image.quantize(255), "PNG"),
        "png alpha": encode(glass, "PNG"),
        "grey png 16": encode(Image.fromarray(deep), "PNG"),
        "apng": encode(image, "PNG", **pages()),
        "webp": encode(image, "WEBP", quality=92),
        "webp lossless": encode(image, "WEBP", lossless=True),
        "webp alpha": encode(glass, "WEBP", quality=92),
        "webp animated": encode(image, "WEBP", quality=92, **pages()),
        "gif": encode(image.quantize(255), "GIF"),
        "gif animated": encode(image, "GIF", **pages()),
        "tiff": encode(image, "TIFF"),
        "tiff lzw": encode(image, "TIFF", compression="tiff_lzw"),
        "tiff deflate": encode(image, "TIFF", compression="tiff_adobe_deflate"),
        "tiff jpeg": encode(image, "TIFF", compression="jpeg", quality=92),
        "tiff big": encode(image, "TIFF", compression="tiff_lzw", big_tiff=True),
        "tiff pages": encode(image, "TIFF", **pages()),
        "tiff cmyk": encode(image.convert("CMYK"), "TIFF"),
        "tiff lab": encode(lab(), "TIFF"),
        "grey tiff 16": encode(Image.fromarray(deep), "TIFF"),
        "grey tiff int32": encode(Image.fromarray(deep.astype(np.int32)), "TIFF"),
        "grey tiff float": encode(Image.fromarray((deep / 65535).astype(np.float32)), "TIFF"),
        "bmp": encode(image, "BMP"),
        "bmp palette": encode(image.quantize(255), "BMP"),
        "avif": encode(image, "AVIF", quality=90),
        "avif animated": encode(image, "AVIF", quality=90, **pages()),
        "heic": encode_heic(photo(), quality=92),
        "ppm": encode(image, "PPM"),
        "grey pgm": encode(grey, "PPM"),
        "grey pgm 16": encode(Image.fromarray(deep), "PPM"),
    }


def difference(a: Array, b: Array) -> float:
    """Mean absolute difference of two pictures, in grey levels."""
    assert a.shape == b.shape
    return float(np.abs(a.astype(int) - b.astype(int)).mean())


@cache
def expected(name: str) -> Array:
    """What the encoding of that name shows."""
    grey = name.split()[0] == "grey"
    return np.asarray(Image.fromarray(photo()).convert("L").convert("RGB")) if grey else photo()


def tiff_block(fields: dict[int, tuple[int, int, int]], *, order: str = "<", following: int = 0) -> bytes:
    """A TIFF header and a directory of tag → (type, count, value or offset), as EXIF is made of."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    table = struct.pack(order + "H", len(fields))
    for tag, (kind, count, value) in sorted(fields.items()):
        packed = struct.pack(order + "HH", value, 0) if kind == 3 and count == 1 else struct.pack(order + "I", value)
        table += struct.pack(order + "HHI", tag, kind, count) + packed
    return head + table + struct.pack(order + "I", following)


def chunk(name: bytes, body: bytes) -> bytes:
    """One chunk of a PNG file."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *extra: bytes) -> bytes:
    """A PNG file put together by hand. rows: each with its filter byte; extra: chunks before the pixels."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(extra) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
