"""A picture that explains a match: what the network saw, and where the two pictures agree."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from ndd.errors import StoreError
from ndd.files import atomic_path
from ndd.images import Pixels, fit_within
from ndd.model.siamese import SiameseEmbedder
from ndd.stages.embed import one_thread
from ndd.types import Match
from ndd.verify.keypoints import Keypoints

__all__ = ["aligned", "draw", "inlier_matches", "looks"]

_SIDE, _GAP = 480, 12
_RADIUS = 0.02
"""How far from its predicted place a keypoint may lie to be drawn as a match, in longer sides."""
_ALIKE = 0.8
"""Least cosine of two RootSIFT descriptors drawn as a match."""
_SEEN = ("as the network sees them", "and once more, each turned to what is most likely upright")
_INK, _LINE, _FRAME = (40, 40, 40), (20, 150, 60), (214, 94, 0)


def draw(
    model: SiameseEmbedder,
    pictures: tuple[Pixels, Pixels],
    canvases: tuple[Pixels, Pixels],
    keys: tuple[Keypoints, Keypoints],
    match: Match,
    out: str | os.PathLike[str],
) -> Path:
    """Write a PNG: above the two pictures with their matching keypoints and the left frame as it lies in the right one,
    below both as the spatial transformer shows them, a row for each look. Raises StoreError if it cannot be written."""
    left, right = (fit_within(picture, _SIDE) for picture in pictures)
    top = _beside(left, right)
    start = left.shape[1] + _GAP
    transform = match.evidence.get("transform")
    if transform is not None:
        homography = np.asarray(transform, np.float64)
        scale_left, scale_right = (np.array([p.shape[1], p.shape[0]]) for p in (left, right))
        for a, b in inlier_matches(*keys, homography):
            p, q = keys[0].points[a] * scale_left, keys[1].points[b] * scale_right + [start, 0]
            cv2.line(top, _point(p), _point(q), _LINE, 1, cv2.LINE_AA)
        corners = _apply(homography, np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float64)) * scale_right + [start, 0]
        cv2.polylines(top, [np.rint(corners).astype(np.int32)], isClosed=True, color=_FRAME, thickness=2)
    below = [_beside(*pair) for pair in looks(model, canvases)]
    width = max(part.shape[1] for part in (top, *below))
    rows = [_caption(_words(match), width), _wide(top, width)]
    for said, seen in zip(_SEEN, below, strict=False):
        rows += [_caption(said, width), _wide(seen, width)]
    sheet = np.vstack(rows)
    target = Path(out)
    try:
        with atomic_path(target) as temporary:
            temporary.write_bytes(cv2.imencode(".png", sheet[:, :, ::-1])[1].tobytes())
    except OSError as error:
        raise StoreError(f"{target}: cannot be written ({error.strerror}); name another file") from error
    return target


def inlier_matches(left: Keypoints, right: Keypoints, homography: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Keypoints of the left picture that have a like one where the transform ([0, 1]² to [0, 1]²) puts them."""
    if not len(left) or not len(right):
        return []
    predicted = _apply(homography, left.points.astype(np.float64)) * right.frame
    gap = np.linalg.norm(predicted[:, None] - (right.points * right.frame)[None], axis=2)
    unit = [
        k.descriptors / np.maximum(np.linalg.norm(k.descriptors, axis=1, keepdims=True), 1e-9) for k in (left, right)
    ]
    # Mirrored pictures have mirrored descriptors: either form may be the like one.
    alike = np.maximum(unit[0] @ unit[1].T, unit[0] @ _unit(right.mirrored()).T)
    good = (gap < _RADIUS) & (alike > _ALIKE)
    best = np.where(good, alike, -1).argmax(axis=1)
    return [(int(a), int(b)) for a, b in enumerate(best) if good[a, b]]


def _unit(keys: Keypoints) -> NDArray[Any]:
    return np.asarray(keys.descriptors / np.maximum(np.linalg.norm(keys.descriptors, axis=1, keepdims=True), 1e-9))


def _apply(homography: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.float64]:
    moved = np.hstack([points, np.ones((len(points), 1))]) @ homography.T
    return np.asarray(moved[:, :2] / np.where(np.abs(moved[:, 2:]) < 1e-9, 1e-9, moved[:, 2:]))


def looks(model: SiameseEmbedder, canvases: tuple[Pixels, Pixels]) -> list[tuple[Pixels, Pixels]]:
    """Two squares (S, S, 3) as the spatial transformer shows them to the network, each (240, 240, 3): a pair for each look."""
    x_B3SS = torch.from_numpy(np.stack(canvases)).permute(0, 3, 1, 2).float() / 255
    pairs = []
    for look in range(model.looks):
        with one_thread():
            warped, _ = model.align(x_B3SS, look=look)
        pixels = (warped.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        left, right = (cv2.resize(p, (_SIDE // 2, _SIDE // 2), interpolation=cv2.INTER_LINEAR) for p in pixels)
        pairs.append((np.asarray(left, np.uint8), np.asarray(right, np.uint8)))
    return pairs


def aligned(model: SiameseEmbedder, canvases: tuple[Pixels, Pixels]) -> tuple[Pixels, Pixels]:
    """That of the `looks` in which the two are most alike, pixel by pixel: one may turn a copy and not the other."""
    return min(looks(model, canvases), key=lambda pair: float(cv2.absdiff(*pair).mean()))


def _words(match: Match) -> str:
    mirrored = ", mirrored" if match.evidence.get("mirrored") else ""
    return f"score {match.score:.3f}  distance {match.distance:.3f}  relation {match.relation or 'none'}{mirrored}"


def _beside(left: Pixels, right: Pixels) -> Pixels:
    height = max(left.shape[0], right.shape[0])
    sheet = np.full((height, left.shape[1] + _GAP + right.shape[1], 3), 255, np.uint8)
    sheet[: left.shape[0], : left.shape[1]] = left
    sheet[: right.shape[0], left.shape[1] + _GAP :] = right
    return sheet


def _wide(sheet: Pixels, width: int) -> Pixels:
    return np.pad(sheet, ((0, 0), (0, width - sheet.shape[1]), (0, 0)), constant_values=255)


def _caption(text: str, width: int) -> Pixels:
    strip = np.full((28, width, 3), 255, np.uint8)
    cv2.putText(strip, text, (4, 19), cv2.FONT_HERSHEY_SIMPLEX, 0.45, _INK, 1, cv2.LINE_AA)
    return strip


def _point(xy: NDArray[np.floating[Any]]) -> tuple[int, int]:
    return int(np.clip(round(float(xy[0])), -9999, 9999)), int(np.clip(round(float(xy[1])), -9999, 9999))
