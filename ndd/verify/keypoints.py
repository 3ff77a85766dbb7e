"""Local features of one picture: SIFT keypoints with RootSIFT descriptors, plus a small grey thumbnail.

SIFT: Lowe 2004, "Distinctive image features from scale-invariant keypoints". RootSIFT: Arandjelović & Zisserman 2012,
"Three things everyone should know to improve object retrieval" (Hellinger kernel: L1-normalise, take the root).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

__all__ = [
    "BANDWIDTH",
    "DESCRIPTOR_NORM",
    "VOTERS",
    "VOTING_SIDE",
    "Keypoints",
    "extract",
    "grey_within",
    "mirror_descriptors",
]

DESCRIPTOR_NORM = 512.0
"""A RootSIFT vector has length 1; it is stored as round(512 × value) in uint8 (no component reaches .5 in practice)."""
BANDWIDTH = 50_000.0
"""Squared distance of two descriptors (length 512) at which a match is worth 1/e; that of strangers is 10⁵ and more."""

_SIDE = 192
"""Longer side of the picture searched, pixels. OpenCV doubles it first, so the finest blobs are seen as at 384."""
_COUNT = 256
"""Most keypoints kept, by contrast."""
_CONTRAST = 0.02
"""Half of Lowe's limit: smooth pictures keep some keypoints; `_COUNT` bounds the textured ones."""
_THUMB = 64
"""Longer side of the thumbnail, pixels."""

VOTING_SIDE, VOTERS = 112, 48
"""Longer side of the picture, and most keypoints kept, where they only vote on which pairs are worth a look: a fifth of the
time, and with thresholds of their own as good at that (docs/LOG.md, "a glance before a look")."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Keypoints:
    """What verification remembers of one picture (about 40 kB).

    points: (N, 2) float32, x and y as shares of width and height, in [0, 1].
    scales: (N,) float32, diameter of the blob as a share of the picture's longer side.
    angles: (N,) float32, dominant orientation in radians, from +x towards +y (clockwise on screen).
    descriptors: (N, 128) uint8, RootSIFT × 512, OpenCV's layout: 4 rows × 4 columns × 8 orientations.
    thumb: (h, w) uint8 grey, longer side ≤ 64. width, height: of the picture as given, pixels.
    """

    points: npt.NDArray[np.float32]
    scales: npt.NDArray[np.float32]
    angles: npt.NDArray[np.float32]
    descriptors: npt.NDArray[np.uint8]
    thumb: npt.NDArray[np.uint8]
    width: int
    height: int

    def __len__(self) -> int:
        return len(self.points)

    @property
    def frame(self) -> tuple[float, float]:
        """Width and height in units of the longer side: `points * frame` are undistorted coordinates."""
        longer = max(self.width, self.height)
        return self.width / longer, self.height / longer

    def mirrored(self) -> Keypoints:
        """The keypoints of the picture flipped left to right, without looking at it again.

        In the frame of a keypoint a mirror flips the axis across its orientation: the rows of the 4 × 4 grid change
        places and each gradient direction changes its sign. Exact up to how OpenCV samples the patch.
        """
        points = self.points.copy()
        points[:, 0] = 1.0 - points[:, 0]
        return Keypoints(
            points=points,
            scales=self.scales,
            angles=np.asarray(np.pi - self.angles, np.float32),
            descriptors=mirror_descriptors(self.descriptors),
            thumb=np.ascontiguousarray(self.thumb[:, ::-1]),
            width=self.width,
            height=self.height,
        )


def mirror_descriptors(descriptors_N128: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """(N, 128) descriptors of the same keypoints in the mirrored picture."""
    return descriptors_N128[:, _mirror_order()]


@functools.cache
def _mirror_order() -> npt.NDArray[np.intp]:
    """(128,) source bin of each bin of a mirrored descriptor."""
    rows, columns, turns = np.meshgrid(np.arange(4), np.arange(4), np.arange(8), indexing="ij")
    return np.asarray((((3 - rows) * 4 + columns) * 8 + (-turns) % 8).ravel(), np.intp)


def grey_within(pixels: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.uint8]:
    """(h, w) grey of an (H, W, 3) RGB or (H, W) grey uint8 picture, its longer side at most `side` pixels."""
    # Grey first: one channel is shrunk in a third of the time of three.
    return _fit(_grey(pixels), side=side)


def extract(pixels: npt.NDArray[np.uint8], *, most: int = _COUNT) -> Keypoints:
    """Keypoints of an (H, W, 3) RGB or (H, W) grey uint8 picture; a flat one has none. Deterministic.

    most: keypoints kept, by contrast. They are looked for where the longer side is at most 192 pixels.
    """
    height, width = pixels.shape[:2]
    grey = _grey(_fit(pixels, side=_SIDE))
    # A detector of its own for each call: cv2.SIFT objects keep no state, but sharing one between threads is not promised.
    sift = cv2.SIFT.create(nfeatures=most, contrastThreshold=_CONTRAST)
    found, raw = sift.detectAndCompute(grey, None)
    thumb = _fit(grey, side=_THUMB)
    rows = grey.shape
    if not found or raw is None:
        found, raw = (), np.zeros((0, 128), np.float32)
    table = np.array([(k.pt[0], k.pt[1], k.size, k.angle, k.response) for k in found], np.float32).reshape(-1, 5)
    # nfeatures keeps ties, and the order of equals is OpenCV's affair: a full sort makes cap and order ours.
    order = np.lexsort((table[:, 3], table[:, 2], table[:, 1], table[:, 0], -table[:, 4]))[:most]
    table = table[order]
    share = np.array([rows[1], rows[0]], np.float32)
    return Keypoints(
        points=np.clip((table[:, :2] + 0.5) / share, 0.0, 1.0),
        scales=table[:, 2] / np.float32(max(rows)),
        angles=np.deg2rad(table[:, 3]),
        descriptors=_root(np.asarray(raw, np.float32)[order]),
        thumb=thumb,
        width=width,
        height=height,
    )


def _grey(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), np.uint8) if pixels.ndim == 3 else pixels


def _root(raw: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    total = np.maximum(raw.sum(axis=1, keepdims=True), 1e-12)
    return np.asarray(np.clip(np.rint(DESCRIPTOR_NORM * np.sqrt(raw / total)), 0, 255), np.uint8)


def _fit(pixels: npt.NDArray[np.uint8], *, side: int) -> npt.NDArray[np.uint8]:
    """Shrink by area averaging until the longer side is at most `side`."""
    height, width = pixels.shape[:2]
    factor = side / max(height, width)
    if factor >= 1.0:
        return pixels
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
