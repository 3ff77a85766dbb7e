"""From whatever Pillow decoded to upright RGB, eight bits per channel."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

__all__ = ["to_rgb", "upright"]

_WHITE = (255, 255, 255)
_ALPHA_MODES = ("RGBA", "LA", "PA", "RGBa", "La")


def to_rgb(image: Image.Image, *, bits: int) -> tuple[npt.NDArray[np.uint8], bool]:
    """(H, W, 3) uint8 RGB of a loaded picture, and whether it has transparency, which is laid over white.

    bits: per channel of the file, needed to read a transparent colour given at the file's own depth.
    """
    key = image.info.get("transparency")
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        grey = np.asarray(image)
        return _with_key(_eight_bits(grey), grey == key if isinstance(key, int) else None)
    if image.mode in ("1", "L") and isinstance(key, int):
        grey = np.asarray(image.convert("L"))
        return _with_key(grey, grey == key * 255 // (2 ** min(bits, 8) - 1))
    if image.mode == "RGB" and isinstance(key, tuple):
        colours = np.asarray(image)
        return _with_key(colours, (colours == [part >> (bits - 8) for part in key]).all(axis=2))
    if image.mode in _ALPHA_MODES or key is not None:
        return _over_white(image), True
    if image.mode == "LAB":
        image = _from_lab(image)
    return np.array(image if image.mode == "RGB" else image.convert("RGB")), False


def _eight_bits(grey: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Grey of 16 or more bits, or floating, as 8 bits: never clipped to white.

    Unsigned 16 bits have a known range. The others do not say theirs: [0, 1], [0, 255] and [0, 65535] are recognised by
    the least and greatest value, anything else is stretched between the two.
    """
    if grey.dtype.kind == "u" and grey.dtype.itemsize == 2:
        return (grey >> 8).astype(np.uint8)
    finite = np.nan_to_num(grey.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(finite.min()), float(finite.max())
    if low >= 0 and high <= 1 and grey.dtype.kind == "f":
        scaled = finite * 255
    elif low >= 0 and high <= 255:
        scaled = finite
    elif low >= 0 and high <= 65535:
        scaled = np.floor(finite / 256)
    else:
        scaled = (finite - low) * (255 / max(high - low, np.finfo(np.float64).tiny))
    return np.rint(scaled).astype(np.uint8)


def _with_key(
    pixels: npt.NDArray[np.uint8], transparent: npt.NDArray[np.bool_] | None
) -> tuple[npt.NDArray[np.uint8], bool]:
    """Grey (H, W) or colour (H, W, 3) as RGB, the pixels of one transparent colour turned white."""
    rgb = np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels.copy()
    if transparent is None:
        return rgb, False
    rgb[transparent] = _WHITE
    return rgb, True


def _over_white(image: Image.Image) -> npt.NDArray[np.uint8]:
    rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    alpha = rgba.getchannel("A")
    if image.format == "BMP" and alpha.getextrema() == (0, 0):
        return np.array(rgba.convert("RGB"))  # 32-bit BMP whose writer left the fourth byte empty: not invisible
    sheet = Image.new("RGB", rgba.size, _WHITE)
    sheet.paste(rgba, mask=alpha)
    return np.array(sheet)


def _from_lab(image: Image.Image) -> Image.Image:
    transform = ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")
    converted = ImageCms.applyTransform(image, transform)
    if converted is None:
        raise ValueError("no conversion from Lab")
    return converted


def upright(pixels: npt.NDArray[np.uint8], orientation: int) -> npt.NDArray[np.uint8]:
    """The picture turned as EXIF's orientation 1…8 asks (CIPA DC-008, tag 0112), contiguous."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)  # stored row by row where the upright picture has columns
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
