"""Perceptual hash: PDQ with its eight dihedral forms, the cheap first rung of the search.

The content hash (same bytes) is `ndd.types.image_id`; this one survives re-encoding, resizing, blur and small changes
of colour, mirroring and quarter turns, but not crops.

PDQ (Facebook 2019, "The TMK+PDQF Video-Hashing Algorithm and the PDQ Image-Hashing Algorithm"): luminance at 64 × 64,
16 × 16 lowest frequencies of its discrete cosine transform without the constant, one bit per coefficient: above the
median or not. The reference shrinks with a sliding box filter that is off centre by part of a pixel; a turned or
resized copy then differs by 10 to 30 bits. Here each of the 64 × 64 cells is the average of the area it covers
(`ndd.images.to_square`), which has no such lean: turned copies agree bit for bit, halved ones to about 1 bit.
On a 64 × 64 picture the hashes equal those of the reference; on larger ones they differ from it by about 12 bits. The
reference's Python package has no wheel and wants a C++ compiler wherever ndd is installed, for a transform that OpenCV has.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from ndd.images import Pixels, to_square

__all__ = ["DIHEDRAL", "HASHED_SIDE", "dihedral_hashes", "hamming", "pdq"]

DIHEDRAL = ("identity", "rot90", "rot180", "rot270", "flipud", "fliplr", "transpose", "transverse")
"""Row i of the dihedral hashes of x is row 0 of the hashes of the i-th form of x. In numpy's words, turns being
counter-clockwise: x, rot90(x), rot90(x, 2), rot90(x, 3), x[::-1] (upside down), x[:, ::-1] (mirrored), x transposed
(mirrored along the main diagonal), rot90(x, 2) transposed (along the other)."""

HASHED_SIDE = 64
"""Side of the square that is hashed, pixels."""
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_ODD = np.where(np.arange(16) % 2 == 0, -1.0, 1.0).astype(np.float32)
"""Factor of a coefficient when its axis is reversed. Coefficient k has frequency k + 1: odd frequencies change sign."""


def pdq(pixels: Pixels) -> tuple[npt.NDArray[np.uint8], int]:
    """Hashes of the eight dihedral forms, and PDQ's quality.

    pixels: (H, W, 3) uint8 RGB; its square of HASHED_SIDE gives the same. Returns (8, 32) uint8, 256 bits each, most
    significant first, in the order `DIHEDRAL`
    (packed as in PDQ's hexadecimal text); and the quality in [0, 100], a measure of gradients: 0 for a flat picture,
    whose hash says nothing.
    """
    luma = to_square(pixels, HASHED_SIDE).astype(np.float32) @ _LUMA
    # In double precision: a turned copy must not lose a bit near the median to rounding.
    dct = cv2.dct(luma.astype(np.float64))[1:17, 1:17].astype(np.float32)
    flat = _forms(dct).reshape(8, 256)
    # PDQ's median is the lower of the two in the middle.
    median = np.partition(flat, 127, axis=1)[:, 127:128]
    return np.packbits((flat > median)[:, ::-1], axis=1), _quality(luma)


def _quality(luma: npt.NDArray[np.float32]) -> int:
    """Sum of the neighbours' differences in whole percent, over 90, at most 100 (the reference's scale)."""
    steps = [np.trunc(np.diff(luma, axis=axis) * np.float32(100) / np.float32(255)) for axis in (0, 1)]
    return min(100, int(sum(float(np.abs(step).sum()) for step in steps) / 90))


def _forms(dct: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(8, 16, 16): the coefficients that the eight forms of the picture have. dct: (vertical, horizontal) frequency."""
    upside_down, mirrored = dct * _ODD[:, None], dct * _ODD[None, :]
    turned = upside_down * _ODD[None, :]
    return np.stack((dct, mirrored.T, turned, upside_down.T, upside_down, mirrored, dct.T, turned.T))


def dihedral_hashes(pixels: Pixels) -> npt.NDArray[np.uint8]:
    """(8, 32) uint8: `pdq` without the quality. Row 0 is the picture as it is."""
    return pdq(pixels)[0]


def hamming(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Number of differing bits, over the last axis; leading axes broadcast as in numpy.

    A mirrored or turned copy is found by `hamming(dihedral_hashes(x), dihedral_hashes(y)[0]).min()`.
    """
    if a.dtype != np.uint8 or b.dtype != np.uint8:
        raise TypeError(f"hashes are packed in uint8, got {a.dtype} and {b.dtype}")
    differing: npt.NDArray[np.int64] = np.bitwise_count(np.bitwise_xor(a, b)).sum(axis=-1, dtype=np.int64)
    return differing
