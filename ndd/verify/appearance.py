"""Compares two small grey pictures under a known transform: do they show the same thing where they overlap?

Local normalised cross-correlation: each window is compared after removing its mean and contrast, so brightness, colour
and contrast edits hardly matter, and windows without texture do not vote.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["Appearance", "compare"]

Matrix = npt.NDArray[np.float64]
Grey = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

_WINDOW = 9
"""Side of a window, thumbnail pixels."""
_TEXTURE = 4.0
"""Standard deviation (grey levels) from which a window has something to compare."""
_CAP = 24.0
"""Contrast beyond this adds no weight: a black-and-white frame must not outvote the picture inside."""
_AGREES = 0.5
"""Local correlation from which a window counts as agreeing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Appearance:
    """How alike the aligned pictures are; every field is 0 where nothing can be compared, `difference` then 1.

    correlation: mean local correlation over the overlap, weighted by contrast, in [−1, 1].
    agreement: share of the overlap's contrast that agrees. explained_left, explained_right: share of each WHOLE
    picture's contrast that agrees, so that a shared caption explains little. difference: mean absolute difference of
    grey, 0…1.
    """

    correlation: float = 0.0
    agreement: float = 0.0
    explained_left: float = 0.0
    explained_right: float = 0.0
    difference: float = 1.0


def compare(left: Grey, right: Grey, transform: Matrix) -> Appearance:
    """Compare (h, w) uint8 thumbnails; `transform` maps [0, 1]² of the left picture to [0, 1]² of the right one.

    The finer picture is brought to the coarser one's grid, so neither is blown up.
    """
    to_pixels = _grid(right) @ transform @ np.linalg.inv(_grid(left))
    zoom = float(np.sqrt(abs(np.linalg.det(to_pixels[:2, :2] / to_pixels[2, 2]))))
    if zoom > 1.0:
        swapped = _compare(right, left, np.linalg.inv(to_pixels), zoom=1.0 / zoom)
        return Appearance(
            correlation=swapped.correlation,
            agreement=swapped.agreement,
            explained_left=swapped.explained_right,
            explained_right=swapped.explained_left,
            difference=swapped.difference,
        )
    return _compare(left, right, to_pixels, zoom=zoom)


def _compare(left: Grey, right: Grey, to_pixels: Matrix, *, zoom: float) -> Appearance:
    """`left` is warped onto `right`; `to_pixels` maps pixel centres, zoom ≤ 1 is its mean magnification."""
    size = (right.shape[1], right.shape[0])
    source, target = left.astype(np.float32), right.astype(np.float32)
    # Shrinking without a low-pass would alias; the sigma brings a pixel's blur to that of a coarser one.
    smooth = cv2.GaussianBlur(source, (0, 0), 0.5 * (zoom**-2 - 1.0) ** 0.5) if zoom < 0.8 else source
    moved = cv2.warpPerspective(smooth, to_pixels, size, flags=cv2.INTER_LINEAR)
    covered = cv2.warpPerspective(np.ones_like(source), to_pixels, size, flags=cv2.INTER_LINEAR)
    inside = (covered > 0.999).astype(np.float32)
    share = _mean(inside)
    usable = (inside > 0) & (share > 0.5)
    if int(usable.sum()) < _WINDOW * _WINDOW:
        return Appearance()
    local, contrast = _local_correlation(np.asarray(moved, np.float32), target, inside, share)
    weight = np.where(usable & (contrast > _TEXTURE), np.minimum(contrast, _CAP), np.float32(0.0))
    total = float(weight.sum(dtype=np.float64))
    if total <= 0.0:
        return Appearance()
    agrees = ((local > _AGREES) & (weight > 0)).astype(np.float32)
    height, width = left.shape
    back = cv2.warpPerspective(
        agrees, to_pixels, (width, height), flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP, borderValue=0
    )
    return Appearance(
        correlation=float((weight * local).sum(dtype=np.float64)) / total,
        agreement=float((weight * agrees).sum(dtype=np.float64)) / total,
        explained_left=_explained(source, np.asarray(back, np.float32)),
        explained_right=_explained(target, agrees),
        difference=float(np.abs(moved - target)[usable].mean(dtype=np.float64)) / 255.0,
    )


def _mean(x: Floats) -> Floats:
    return np.asarray(cv2.boxFilter(x, -1, (_WINDOW, _WINDOW), borderType=cv2.BORDER_CONSTANT), np.float32)


def _local_correlation(a: Floats, b: Floats, inside: Floats, share: Floats) -> tuple[Floats, Floats]:
    """(h, w) correlation of the windows around each pixel, and the larger of their two standard deviations."""
    a, b = a * inside, b * inside
    scale = 1.0 / np.maximum(share, np.float32(1e-3))
    mean_a, mean_b = _mean(a) * scale, _mean(b) * scale
    var_a = np.maximum(_mean(a * a) * scale - mean_a**2, 0.0)
    var_b = np.maximum(_mean(b * b) * scale - mean_b**2, 0.0)
    cov = _mean(a * b) * scale - mean_a * mean_b
    # The constant keeps two faint windows from agreeing by their noise.
    local = cov / np.sqrt((var_a + 4.0) * (var_b + 4.0))
    return np.asarray(local, np.float32), np.asarray(np.sqrt(np.maximum(var_a, var_b)), np.float32)


def _explained(grey: Floats, agrees: Floats) -> float:
    """Share of a whole picture's contrast that lies where `agrees` is 1."""
    mean = cv2.blur(grey, (_WINDOW, _WINDOW))
    contrast = np.sqrt(np.maximum(cv2.blur(grey * grey, (_WINDOW, _WINDOW)) - mean * mean, 0.0))
    weight = np.where(contrast > _TEXTURE, np.minimum(contrast, _CAP), 0.0)
    total = float(weight.sum(dtype=np.float64))
    return float((weight * agrees).sum(dtype=np.float64)) / total if total > 0.0 else 0.0


def _grid(grey: Grey) -> Matrix:
    """[0, 1]² → pixel centres of an (h, w) picture."""
    height, width = grey.shape
    return np.array([[width, 0.0, -0.5], [0.0, height, -0.5], [0.0, 0.0, 1.0]])
