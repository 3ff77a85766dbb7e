"""How much detail a picture really holds, however many pixels it has."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["detail"]

_Floats = npt.NDArray[np.float64]


def detail(pixels: npt.NDArray[np.uint8]) -> float:
    """Effective resolution of (H, W, 3) uint8 RGB, in pixels: at most H × W, however the picture was enlarged.

    The spectrum of a photograph falls as a power of frequency; past the resolution it was taken, or once saved, at it
    falls off a cliff (Field, "Relations between the statistics of natural images and the response properties of
    cortical cells", JOSA A 1987, for the power law). The cliff is where the power, times frequency squared, is less
    than a quarter of that an octave below. The noise of the quietest parts (Immerkær, "Fast noise variance estimation",
    CVIU 1996) is taken off first, as are rows and columns that repeat their neighbour (borders, crude enlargement); blank
    area that starts in a corner counts for nothing.
    Good for comparing copies of one picture, not different pictures. Pictures under 64 pixels count as sharp.
    """
    grey = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY)
    grey = grey[np.r_[True, (grey[1:] != grey[:-1]).any(axis=1)]]
    grey = grey[:, np.r_[True, (grey[:, 1:] != grey[:, :-1]).any(axis=0)]]
    if min(grey.shape) < 64:
        return float(grey.size)
    height, width = (_quick_length(side) for side in grey.shape)
    plane = grey[:height, :width].astype(np.float32)
    power, centres = _spectrum(plane)
    floor = _noise_variance(plane) / plane.size
    filled = max(1.0 - _blank(grey), 1.0 / grey.size)
    return min(_cliff(np.maximum(power - floor, 0.0), centres) / plane.size, 1.0) * grey.size * filled


def _blank(grey: npt.NDArray[Any]) -> float:
    """Share of the picture that is of one shade and reaches into a corner: frames, and the corners of a turned copy."""
    scale = min(1.0, 512 / max(grey.shape))
    small = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else grey.copy()
    height, width = small.shape
    mask = np.zeros((height + 2, width + 2), np.uint8)
    for seed in ((0, 0), (width - 1, 0), (0, height - 1), (width - 1, height - 1)):
        cv2.floodFill(small, mask, seed, 0, 6, 6, 4 | cv2.FLOODFILL_MASK_ONLY | cv2.FLOODFILL_FIXED_RANGE | (255 << 8))
    return float((mask[1:-1, 1:-1] > 0).mean())


def _cliff(power: _Floats, centres: _Floats) -> float:
    """Effective pixels: (2 × the frequency of the cliff)², infinite where there is none."""
    whitened = power * centres**2
    for band in range(_FIRST_BAND, len(whitened)):
        reference = max(0.25 * whitened[band - 8 : band - 3].mean(), 1e-12)
        if whitened[band] < reference:
            above, below = np.log(np.maximum(whitened[band - 1 : band + 1], 1e-12) / reference)
            part = float(np.clip(above / (above - below), 0.0, 1.0)) if above > below else 1.0
            return float(2 * centres[band - 1] * (centres[band] / centres[band - 1]) ** part) ** 2
    return float("inf")


_BANDS = 6
"""Frequency bands in an octave; the first one starts at 8 cycles per picture side."""
_ROWS = 64
"""Rows of a spectrum in double precision at a time: all of a large picture's would not fit, and one by one they cost more
time for Python than for sums."""
_FIRST_BAND = 12
"""The cliff is looked for from 32 cycles per side: below, a picture's contents make cliffs of their own."""


def _quick_length(side: int) -> int:
    """The longest even length up to `side` that has only the factors 2, 3 and 5: others make the transform slow."""
    length = side - side % 2
    while cv2.getOptimalDFTSize(length // 2) * 2 != length:
        length -= 2
    return length


def _spectrum(plane: npt.NDArray[np.float32]) -> tuple[_Floats, _Floats]:
    """Mean power in each band and the bands' centres (cycles per geometric mean side), up to half a cycle per pixel."""
    height, width = plane.shape
    side = float(np.sqrt(plane.size))
    count = int(np.floor(_BANDS * np.log2(0.5 * side / 8)))
    edges = 8 * 2 ** (np.arange(count + 1) / _BANDS)
    coefficients = cv2.dct(plane - plane.mean())
    below, number = np.zeros((1, count + 1)), np.zeros(count + 1, np.int64)  # power and coefficients under each edge
    for start in range(0, height, _ROWS):
        rows = np.arange(start, min(start + _ROWS, height))[:, None]
        reach = np.sqrt(np.maximum((edges / side) ** 2 - (rows / (2 * height)) ** 2, 0.0))
        ends = np.minimum(np.ceil(reach * 2 * width).astype(np.int64), width)
        running = np.cumsum(np.square(coefficients[rows[:, 0]], dtype=np.float64), axis=1)
        under = np.where(ends > 0, np.take_along_axis(running, np.maximum(ends - 1, 0), axis=1), 0.0)
        below = np.concatenate([below, under]).sum(axis=0, keepdims=True)
        number += ends.sum(axis=0)
    return np.diff(below[0]) / plane.size / np.diff(number).clip(1), edges[:-1] * 2 ** (0.5 / _BANDS)


def _noise_variance(plane: npt.NDArray[np.float32]) -> float:
    """Variance of white noise, from the quietest tenth of 16 × 16 blocks."""
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32) / 6
    response = np.square(cv2.filter2D(plane, -1, kernel)[1:-1, 1:-1])
    rows, columns = (side // 16 for side in response.shape)
    blocks = response[: rows * 16, : columns * 16].reshape(rows, 16, columns, 16).mean(axis=(1, 3))
    return float(np.percentile(blocks, 10))
