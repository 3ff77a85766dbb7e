"""Real photographs that ship with development dependencies, and plain edits whose geometry is known exactly."""

from __future__ import annotations

import functools

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage import data
from sklearn.datasets import load_sample_image

Pixels = NDArray[np.uint8]
NAMES = ("astronaut", "china.jpg", "flower.jpg", "coffee")


@functools.cache
def photo(name: str) -> Pixels:
    """(H, W, 3) RGB, longer side 360."""
    pixels = load_sample_image(name) if name.endswith(".jpg") else getattr(data, name)()
    factor = 360 / max(pixels.shape[:2])
    size = (round(pixels.shape[1] * factor), round(pixels.shape[0] * factor))
    return np.ascontiguousarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))


def warped(pixels: Pixels, matrix: NDArray[np.float64], size: tuple[int, int]) -> Pixels:
    """Moved by a 3 × 3 matrix in pixels onto a grey canvas of (width, height)."""
    return np.asarray(
        cv2.warpPerspective(pixels, matrix, size, flags=cv2.INTER_AREA, borderValue=(90, 90, 90)), np.uint8
    )


def shares(matrix: NDArray[np.float64], before: tuple[int, int], after: tuple[int, int]) -> NDArray[np.float64]:
    """The pixel transform between pictures of (width, height) `before` and `after`, on [0, 1]²."""
    return np.diag([1 / after[0], 1 / after[1], 1.0]) @ matrix @ np.diag([before[0], before[1], 1.0])


def corner_error(found: object, truth: NDArray[np.float64], at: tuple[tuple[float, float], ...]) -> float:
    """Largest distance between where two transforms put the points `at`."""
    points = np.array([(x, y, 1.0) for x, y in at])
    ends = [points @ np.asarray(h, np.float64).T for h in (found, truth)]
    flat = [end[:, :2] / end[:, 2:] for end in ends]
    return float(np.abs(flat[0] - flat[1]).max())
