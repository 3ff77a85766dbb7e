"""For pictures with too few keypoints (blurred, soft, tiny): is one the other as a whole, turned or mirrored perhaps?"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from ndd.verify.keypoints import Keypoints

__all__ = ["guess_turn"]

Matrix = npt.NDArray[np.float64]

_SIDE = 16
"""Side of the squares compared, pixels."""
_ALIKE = 0.75
"""Least correlation of the squares that is worth a closer look."""
_FLAT = 2.0
"""Standard deviation (grey levels) below which a picture is flat at this size."""


def guess_turn(a: Keypoints, b: Keypoints) -> tuple[Matrix, bool] | None:
    """The one of the eight turns and mirrors of the square that makes the whole of `a` look like the whole of `b`.

    Returns the 3 × 3 transform [0, 1]² → [0, 1]² and whether it mirrors, or None if none comes near.
    """
    left, right = _square(a), _square(b)
    if left is None or right is None:
        return None
    turned = [np.rot90(face, turns) for face in (left, left[:, ::-1]) for turns in range(4)]
    scores = np.stack([t.ravel() for t in turned]) @ right.ravel()
    best = int(np.argmax(np.round(scores, 4)))
    if scores[best] < _ALIKE:
        return None
    flip = np.array([[-1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    # np.rot90 turns counter-clockwise on screen: (x, y) → (y, 1 − x).
    turn = np.array([[0.0, 1.0, 0.0], [-1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    mirrored = best >= 4
    return np.linalg.matrix_power(turn, best % 4) @ (flip if mirrored else np.eye(3)), mirrored


def _square(keys: Keypoints) -> npt.NDArray[np.float64] | None:
    """(16, 16) of mean 0 and length 1; None for a flat picture."""
    small = cv2.resize(keys.thumb, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA).astype(np.float64)
    small = small - small.mean()
    length = float(np.linalg.norm(small))
    return None if length < _FLAT * _SIDE else small / length
