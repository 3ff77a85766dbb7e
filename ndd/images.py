"""The only way from a picture's bytes to its pixels: RGB uint8, upright, bounded.

Every picture that ndd looks at passes through `decode`, so that a vector, a hash and a thumbnail speak of the same
pixels. What it promises:

* Anything wrong with a picture is a DecodeError; no other exception, no warning, no half-filled picture.
* Sizes are checked from the header, before memory is reserved. Only the first frame is decoded.
* The same bytes give the same pixels. There is no state, so any number of threads may decode at once.

Choices, where a file leaves room: transparency is laid over white; 16-bit channels keep their upper byte; deeper or
floating grey without a known range is stretched from its least to its greatest value; an embedded colour profile is
applied (see `ndd.profiles`), and CMYK without one is converted by the plain formula, inverted where Adobe's marker says so.
"""

from __future__ import annotations

import errno
import io
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from ndd.config import DecodeLimits
from ndd.containers import Container, inspect
from ndd.errors import DecodeError
from ndd.exif import read_exif
from ndd.profiles import to_srgb
from ndd.rgb import to_rgb, upright

__all__ = ["Picture", "Pixels", "decode", "fit_within", "read_file", "to_square"]

Pixels = npt.NDArray[np.uint8]
"""(H, W, 3) uint8, RGB, sRGB as far as the file says nothing else."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Picture:
    """A decoded picture.

    pixels: (H, W, 3) uint8 RGB, turned upright. width, height: of the upright original, in pixels, whatever scale it
    was decoded at. format: `JPEG`, `PNG`, `WEBP`, `GIF`, `TIFF`, `BMP`, `AVIF`, `HEIF` or `PPM`. frames: how many the
    file holds (the first is decoded). alpha: it has an alpha channel or a transparent colour. bits: per channel of the
    file. taken: EXIF DateTimeOriginal in ISO 8601, local time. exif_fields: how many EXIF fields could be read.
    """

    pixels: Pixels
    width: int
    height: int
    format: str
    frames: int
    alpha: bool
    bits: int
    taken: str | None
    exif_fields: int


def read_file(path: str | os.PathLike[str], *, limits: DecodeLimits | None = None) -> bytes:
    """The bytes of a regular file; never blocks on a pipe, a socket or a device.

    Raises DecodeError (stage `open`): missing, not permitted, not a regular file, above `limits.max_bytes`, or changing
    while it is read.
    """
    limits = limits or DecodeLimits()
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise DecodeError("not a regular file", stage="open")
            if status.st_size > limits.max_bytes:
                raise DecodeError(f"{status.st_size} bytes, more than the limit of {limits.max_bytes}", stage="open")
            return _read_exactly(descriptor, status.st_size)
        finally:
            os.close(descriptor)
    except OSError as error:
        number = error.errno or 0
        raise DecodeError(_OPEN_REASONS.get(number, os.strerror(number).lower()), stage="open") from None
    except ValueError:  # an embedded NUL
        raise DecodeError("not a possible file name", stage="open") from None


_OPEN_REASONS = {
    errno.ENOENT: "no such file (a broken link, or it vanished)",
    errno.ENXIO: "not a regular file",
    errno.ELOOP: "a loop of symbolic links",
    errno.EACCES: "permission denied",
}


def _read_exactly(descriptor: int, size: int) -> bytes:
    parts, left = [], size
    while left and (part := os.read(descriptor, min(left, 2**30))):
        parts.append(part)
        left -= len(part)
    if left or os.read(descriptor, 1):
        raise DecodeError(f"the file {'shrank' if left else 'grew'} while it was read", stage="open")
    return parts[0] if len(parts) == 1 else b"".join(parts)


def decode(
    content: bytes, *, limits: DecodeLimits | None = None, min_side: int | None = None, min_longer: int = 1
) -> Picture:
    """Decode a picture.

    content: a whole file. min_side: a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, much faster, as long as its
    shorter side keeps at least this many pixels, and its longer one `min_longer`; other formats ignore both. Raises
    DecodeError: stage `header` (too many bytes or pixels, not a known format, cut short), stage `decode` (damaged).
    """
    limits = limits or DecodeLimits()
    if len(content) > limits.max_bytes:
        raise DecodeError(f"{len(content)} bytes, more than the limit of {limits.max_bytes}", stage="header")
    found = inspect(content)
    if found.size:
        _check_size(found.size, limits)
    wanted = None if min_side is None else (max(1, min_side), max(1, min_side, min_longer))
    decoded = _plain_jpeg(found, limits, wanted) or _by_pillow(found, limits, wanted)
    found, size, pixels, alpha = decoded
    width, height = size if found.exif.orientation < 5 else size[::-1]
    return Picture(
        pixels=upright(pixels, found.exif.orientation),
        width=width,
        height=height,
        format=found.format,
        frames=found.frames,
        alpha=alpha,
        bits=found.bits,
        taken=found.exif.taken,
        exif_fields=found.exif.fields,
    )


def to_square(pixels: Pixels, size: int) -> Pixels:
    """Squash to (size, size, 3) uint8, the canvas of the model and of the hash; the aspect ratio is not kept.

    Each axis that shrinks is averaged by area (no aliasing), each one that grows is interpolated linearly, in fixed
    point. Deterministic, whatever the number of OpenCV's threads.
    """
    height, width = pixels.shape[:2]
    return _resize(pixels, size, size) if (height, width) != (size, size) else np.ascontiguousarray(pixels)


def fit_within(pixels: Pixels, side: int) -> Pixels:
    """Shrink, by area, so that the longer side is at most `side` pixels; never enlarges. The aspect ratio is kept."""
    height, width = pixels.shape[:2]
    longer = max(height, width)
    if longer <= side:
        return np.ascontiguousarray(pixels)
    return _resize(pixels, max(1, round(width * side / longer)), max(1, round(height * side / longer)))


def _resize(pixels: Pixels, width: int, height: int) -> Pixels:
    # Shrinking comes first: given one axis to shrink and one to grow, INTER_AREA samples instead of averaging.
    small = (min(width, pixels.shape[1]), min(height, pixels.shape[0]))
    result = np.ascontiguousarray(pixels)
    if small != (pixels.shape[1], pixels.shape[0]):
        result = cv2.resize(result, small, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    if small != (width, height):
        result = cv2.resize(result, (width, height), interpolation=cv2.INTER_LINEAR_EXACT)  # type: ignore[assignment]
    return result


def _check_size(size: tuple[int, int], limits: DecodeLimits) -> None:
    width, height = size
    if max(size) > limits.max_side:
        raise DecodeError(f"{width} × {height} pixels, longer than the limit of {limits.max_side}", stage="header")
    if width * height > limits.max_pixels:
        raise DecodeError(f"{width} × {height} pixels, more than the limit of {limits.max_pixels}", stage="header")


@contextmanager
def _failures_named(format: str, stage: str) -> Iterator[None]:
    """Whatever a decoder raises becomes a DecodeError with a short reason."""
    try:
        yield
    except DecodeError:
        raise
    except MemoryError:
        raise DecodeError("not enough memory for this picture", stage=stage) from None
    except Exception as error:  # decoders raise a dozen types, from struct.error to SystemError
        text = str(error).strip().partition("\n")[0]
        if "truncated" in text.lower():
            raise DecodeError("the file is cut short", stage=stage) from None
        # Addresses and paths differ from run to run and from machine to machine.
        shown = f": {text}" if text and len(text) <= 80 and not re.search(r"0x[0-9a-f]{6}|/|\\", text) else ""
        raise DecodeError(f"damaged {format}{shown}", stage=stage) from None


class _TiffFile(TiffImagePlugin.TiffImageFile):
    """Without Pillow's own limit on pixels, a process-wide setting that warns: `DecodeLimits` has been applied."""

    def load_prepare(self) -> None:
        ImageFile.ImageFile.load_prepare(self)


_OPENERS: dict[str, type[ImageFile.ImageFile]] = {
    # The classes themselves, not Image.open: it would try other decoders, and warn of pictures within our limits.
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "TIFF": _TiffFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
    "PPM": PpmImagePlugin.PpmImageFile,
}


_Wanted = tuple[int, int] | None
"""Least shorter and longer side of a JPEG that may be decoded at a reduced size; None: at its own."""
_Decoded = tuple[Container, tuple[int, int], Pixels, bool]
"""What is known of the container, (width, height) of the whole picture, (H, W, 3) uint8 RGB, whether it has transparency."""


def _plain_jpeg(found: Container, limits: DecodeLimits, wanted: _Wanted) -> _Decoded | None:
    """A JPEG as cameras and the web write it, in two thirds of Pillow's time; None for any other, and for a damaged one.

    libjpeg-turbo either way, so the pixels are the same.
    """
    if found.format != "JPEG" or found.bits != 8 or found.icc:
        return None
    with _failures_named(found.format, "decode"):
        try:
            height, width, space, _ = simplejpeg.decode_jpeg_header(found.data)
            if space != "YCbCr":
                return None
            _check_size((width, height), limits)
            factor = _reduction((width, height), wanted)
            pixels = simplejpeg.decode_jpeg(
                found.data, "RGB", min_height=-(-height // factor), min_width=-(-width // factor), min_factor=factor
            )
        except ValueError:  # Pillow says what is wrong with it, and reads on where that does no harm
            return None
    return found, (width, height), pixels, False


def _reduction(size: tuple[int, int], wanted: _Wanted) -> int:
    """1, 2, 4 or 8: by how much a JPEG's sides may be divided. size: in either order."""
    if wanted is None:
        return 1
    room = min(side // least for side, least in zip(sorted(size), wanted, strict=True))
    return max((factor for factor in (2, 4, 8) if factor <= room), default=1)


def _by_pillow(found: Container, limits: DecodeLimits, wanted: _Wanted) -> _Decoded:
    with _failures_named(found.format, "header"):
        image, found = _open(found)
    _check_size(image.size, limits)
    size = image.size
    with _failures_named(found.format, "decode"):
        if found.format == "JPEG":
            factor = _reduction(size, wanted)
            image.draft(None, (max(1, size[0] // factor), max(1, size[1] // factor)))
        image.load()
        image = to_srgb(image, found.icc or image.info.get("icc_profile"))
        pixels, alpha = to_rgb(image, bits=found.bits)
    return found, size, pixels, alpha


def _open(found: Container) -> tuple[Image.Image, Container]:
    """The picture with its header read and nothing decoded, and what only its decoder knew of the container."""
    stream = io.BytesIO(found.data)
    if found.format == "HEIF":
        heif: Any = _heif_file(stream)
        # libheif turns the picture itself; EXIF's orientation is a remark there, not an instruction (ISO 23008-12).
        exif = replace(read_exif(heif.info.get("exif")), orientation=1)
        return heif, replace(found, frames=heif.n_frames, bits=heif.info.get("bit_depth", 8), exif=exif)
    image = _OPENERS[found.format](stream)
    if isinstance(image, AvifImagePlugin.AvifImageFile):
        # Pillow reports the turn that the container asks for in the shape of EXIF.
        turn = read_exif(image.info.get("exif")).orientation
        found = replace(found, frames=image.n_frames, exif=replace(found.exif, orientation=turn))
    return image, found


def _heif_file(stream: io.BytesIO) -> Any:
    # Imported here because it loads an HEVC library that most runs never need.
    try:
        import pillow_heif
    except ImportError:
        raise DecodeError("reading HEIC needs the package pillow-heif", stage="header") from None
    opener: Any = pillow_heif.HeifImageFile
    return opener(stream)
