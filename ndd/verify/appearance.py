"""Compares two small grey pictures under a known alignment: do they show the same thing where they overlap?

Local normalised cross-correlation: each window is compared after removing its mean and contrast, so brightness, colour
and contrast edits hardly matter, and windows without texture do not vote.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from ndd.verify.deformation import Deformation
from ndd.verify.fitting import transfer
from ndd.verify.keypoints import Keypoints

__all__ = ["Appearance", "compare"]

Matrix = npt.NDArray[np.float64]
Complex = npt.NDArray[np.complex64]
Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

_WINDOW = 7
"""Side of a window, thumbnail pixels."""
_TEXTURE = 4.0
"""Standard deviation (grey levels) from which a window has something to compare."""
_CAP = 24.0
"""Contrast beyond this adds no weight: a black-and-white frame must not outvote the picture inside."""
_AGREES = 0.5
"""Local correlation from which a window counts as agreeing."""
_ENOUGH = 10.0
"""Windows (side by side) from which a comparison counts in full: two small patches are alike easily."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Appearance:
    """How alike the aligned pictures are; every field is 0 where nothing can be compared, `difference` then 1.

    correlation: mean local correlation over the overlap, weighted by contrast, in [−1, 1].
    agreement: share of the overlap's contrast that agrees. core: the same inside the hull of the matched keypoints, which
    leaves out borders and bars around a copy, but not what a shared frame encloses (without keypoints: all).
    explained_left, explained_right: share of each WHOLE picture's contrast that agrees, so that a shared caption explains
    little. All five are lowered where there are few windows. difference: mean absolute difference of grey, 0…1.
    """

    correlation: float = 0.0
    agreement: float = 0.0
    core: float = 0.0
    explained_left: float = 0.0
    explained_right: float = 0.0
    difference: float = 1.0


def compare(
    a: Keypoints,
    b: Keypoints,
    transform: Matrix,
    *,
    matched: tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]],
    bend: Deformation | None = None,
) -> Appearance:
    """Compare the thumbnails. transform: 3 × 3, a → b in units of the longer sides; bend: to be added in b.

    matched: which keypoints of a and of b agree.

    The finer picture is brought to the coarser one's grid, so neither is blown up.
    """
    grid_a, grid_b = _grid(a), _grid(b)
    inverse = np.asarray(np.linalg.inv(transform), np.float64)
    there = transfer(transform, grid_a)
    zoom = _zoom(a, b, transform)
    if zoom <= 1.0:
        straight = grid_b if bend is None else grid_b - _field(bend, grid_b, b)
        hull = _hull(b, matched[1])
        return _compare(a, b, transfer(inverse, straight), covered=_inside(there, b), zoom=zoom, hull=hull)
    bent = there if bend is None else there + _field(bend, there, a)
    back = _inside(transfer(inverse, grid_b), a)
    seen = _compare(b, a, bent, covered=back, zoom=1.0 / zoom, hull=_hull(a, matched[0]))
    return dataclasses.replace(seen, explained_left=seen.explained_right, explained_right=seen.explained_left)


def _compare(
    fine: Keypoints, coarse: Keypoints, sample: Complex, *, covered: Floats, zoom: float, hull: Mask
) -> Appearance:
    """`fine` is read at `sample` (a place for each pixel of `coarse`); covered: pixels of `fine` that lie in `coarse`;
    hull: pixels of `coarse` between matched keypoints."""
    source, target = fine.thumb.astype(np.float32), coarse.thumb.astype(np.float32)
    # Shrinking without a low-pass would alias; the sigma brings a pixel's blur to that of a coarser one.
    smooth = cv2.GaussianBlur(source, (0, 0), 0.5 * (zoom**-2 - 1.0) ** 0.5) if zoom < 0.8 else source
    contrast = _contrast(source)
    columns, rows = _pixels(sample, fine, target.shape)
    moved, weight_fine = (
        np.asarray(cv2.remap(x, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.float32)
        for x in (smooth, contrast)
    )
    height, width = source.shape
    inside = ((columns > -0.6) & (columns < width - 0.4) & (rows > -0.6) & (rows < height - 0.4)).astype(np.float32)
    share = _mean(inside)
    # At the edge of the picture a whole window is smaller.
    usable = (inside > 0) & (share > 0.5 * _mean(np.ones_like(inside)))
    if int(usable.sum()) < _WINDOW * _WINDOW:
        return Appearance()
    local, deviation = _local_correlation(moved, target, inside, share)
    weight = np.where(usable, _weight(deviation), np.float32(0.0))
    total = _sum(weight)
    if total <= 0.0:
        return Appearance()
    agrees = local > _AGREES
    trust = _trust(weight)
    core = np.where(hull, weight, np.float32(0.0))
    seen_fine = _sum(weight_fine[usable])
    part = _sum(contrast * covered.reshape(source.shape)) / max(_sum(contrast), 1e-6)
    weight_coarse = _contrast(target)
    return Appearance(
        correlation=trust * _sum(weight * local) / total,
        agreement=trust * _sum(weight[agrees]) / total,
        core=_trust(core) * _sum(core[agrees]) / max(_sum(core), 1e-6),
        explained_left=trust * part * _sum(weight_fine[usable & agrees]) / max(seen_fine, 1e-6),
        explained_right=trust * _sum(weight_coarse[usable & agrees]) / max(_sum(weight_coarse), 1e-6),
        difference=float(np.abs(moved - target)[usable].mean(dtype=np.float64)) / 255.0,
    )


def _mean(x: Floats) -> Floats:
    return np.asarray(cv2.boxFilter(x, -1, (_WINDOW, _WINDOW), borderType=cv2.BORDER_CONSTANT), np.float32)


def _trust(weight: Floats) -> float:
    """In how far a comparison of so many windows counts."""
    return min(1.0, float((weight > 0).sum()) / _WINDOW**2 / _ENOUGH)


def _hull(keys: Keypoints, chosen: npt.NDArray[np.intp]) -> Mask:
    """(h, w) pixels of the thumbnail inside the hull of the chosen keypoints, half a window wider; all if there are none."""
    height, width = keys.thumb.shape
    corners = np.rint(keys.points[chosen] * np.array([width, height], np.float32) - np.float32(0.5)).astype(np.int32)
    mask = np.zeros((height, width), np.uint8)
    if not len(corners):
        return np.ones((height, width), np.bool_)
    cv2.fillConvexPoly(mask, cv2.convexHull(corners), 1)
    return np.asarray(cv2.dilate(mask, np.ones((_WINDOW, _WINDOW), np.uint8)) > 0, np.bool_)


def _sum(x: Floats) -> float:
    return float(x.sum(dtype=np.float64))


def _weight(deviation: Floats) -> Floats:
    return np.where(deviation > _TEXTURE, np.minimum(deviation, np.float32(_CAP)), np.float32(0.0))


def _contrast(grey: Floats) -> Floats:
    """(h, w) weight of the window around each pixel of a whole picture."""
    mean = cv2.blur(grey, (_WINDOW, _WINDOW))
    variance = cv2.blur(grey * grey, (_WINDOW, _WINDOW)) - mean * mean
    return _weight(np.asarray(np.sqrt(np.maximum(variance, 0.0)), np.float32))


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


def _grid(keys: Keypoints) -> Complex:
    """(h·w,) places of the thumbnail's pixel centres, in units of the picture's longer side."""
    height, width = keys.thumb.shape
    x = (np.arange(width) + 0.5) * (keys.frame[0] / width)
    y = (np.arange(height) + 0.5) * (keys.frame[1] / height)
    return np.asarray((x[None, :] + 1j * y[:, None]).ravel(), np.complex64)


def _pixels(places: Complex, keys: Keypoints, shape: tuple[int, ...]) -> tuple[Floats, Floats]:
    """Columns and rows of the thumbnail at `places`, each of the given shape."""
    height, width = keys.thumb.shape
    columns = places.real * np.float32(width / keys.frame[0]) - np.float32(0.5)
    rows = places.imag * np.float32(height / keys.frame[1]) - np.float32(0.5)
    return (
        np.asarray(np.clip(columns, -1e4, 1e4), np.float32).reshape(shape),
        np.asarray(np.clip(rows, -1e4, 1e4), np.float32).reshape(shape),
    )


def _inside(places: Complex, keys: Keypoints) -> Floats:
    """1 where a place (one for each pixel of the other thumbnail) lies in this picture."""
    width, height = keys.frame
    good = (places.real > 0) & (places.real < width) & (places.imag > 0) & (places.imag < height)
    return good.astype(np.float32)


def _zoom(a: Keypoints, b: Keypoints, transform: Matrix) -> float:
    """Mean magnification from pixels of a's thumbnail to those of b's."""
    size = float(np.sqrt(abs(np.linalg.det(transform[:2, :2] / transform[2, 2]))))
    return float(max(size, 1e-3) * max(b.thumb.shape) / max(a.thumb.shape))


def _field(bend: Deformation, places: Complex, keys: Keypoints) -> Complex:
    """The displacement at each pixel of a thumbnail, computed on every fourth and interpolated."""
    height, width = keys.thumb.shape
    coarse = np.ascontiguousarray(places.reshape(height, width)[::4, ::4])
    shifts = bend.at(coarse.ravel()).reshape(coarse.shape)
    # cv2.resize would centre pixels otherwise: sample positions of the coarse grid exactly.
    columns, rows = np.meshgrid(np.arange(width, dtype=np.float32) / 4, np.arange(height, dtype=np.float32) / 4)
    parts = [
        cv2.remap(np.ascontiguousarray(p, np.float32), columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        for p in (shifts.real, shifts.imag)
    ]
    return np.asarray((parts[0] + 1j * parts[1]).ravel(), np.complex64)
