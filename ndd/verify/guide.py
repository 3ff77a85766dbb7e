"""Looks again for matches of keypoints, knowing where a transform puts each of them.

A plane transform first. What it leaves over may be a smooth bend: then matches are grown from those that fit it outwards,
each step predicting from the accepted ones where, how much turned and how much larger their neighbours must lie.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ndd.verify.deformation import Deformation
from ndd.verify.fitting import transfer
from ndd.verify.keypoints import Keypoints

__all__ = ["COSINE", "RADIUS", "Guide"]

Matrix = npt.NDArray[np.float64]
Complex = npt.NDArray[np.complex64]
Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.intp]
Mask = npt.NDArray[np.bool_]

RADIUS = 0.014
"""How far from its predicted place a match may lie, in longer sides."""
COSINE = 0.80
"""Least RootSIFT cosine of a match (unrelated keypoints lie around .65)."""
_FAR = 0.15
"""How far a bend may carry a keypoint from where the plane transform puts it."""
_GROWING = 0.02
"""RADIUS while matches are grown: the prediction is still poor at the border."""
_STEPS = 6
_SPOKEN = 0.4
"""Support from which a field may predict: one keypoint within 1.35 kernel widths."""
_TWIST = 0.8
"""Least cosine between the predicted turn of a keypoint and its turn."""
_GROWTH = 0.6
"""Largest difference of the logarithms of predicted and seen zoom."""
_FOLDED = 0.05
"""Least magnification of areas that is believed."""


class Guide:
    """Where `transform` (3 × 3, a → b in longer sides) puts the keypoints of `a`, and which of `b` could be theirs.

    left, right: (N,) and (M,) places. cosine: (N, M) similarity of descriptors.
    """

    def __init__(
        self, a: Keypoints, b: Keypoints, left: Complex, right: Complex, cosine: Floats, transform: Matrix
    ) -> None:
        linear = transform[:2, :2] / transform[2, 2]
        size = float(np.sqrt(max(np.linalg.det(linear), 1e-12)))
        turn = float(np.angle(complex(linear[0, 0] + linear[1, 1], linear[1, 0] - linear[0, 1])))
        self._unit = min(1.0, size)
        self._left, self._right, self._cosine = left, right, cosine
        self._moved = transfer(transform, left)
        rows, columns = np.nonzero(cosine > COSINE)
        near = np.abs(self._moved[rows] - right[columns]) < _FAR * self._unit
        self._rows, self._columns = rows[near], columns[near]
        # How a match is turned and grown beyond what the transform does.
        self._turned = b.angles[self._columns] - a.angles[self._rows] - np.float32(turn)
        self._grown = np.log(b.scales[self._columns] / a.scales[self._rows] / np.float32(size))

    def plane(self) -> tuple[Indices, Indices]:
        """Rows and columns of the matches that the transform alone predicts."""
        return self._choose(self._moved[self._rows], self._alike(0.0, 0.0), radius=RADIUS)

    def bent(self, rows: Indices, columns: Indices) -> tuple[Deformation, Indices, Indices]:
        """A field on top of the transform, and the matches that both together predict, grown from those given (≥ 1)."""
        bend = self._field(rows, columns)
        predicted = self._predicted(bend)
        for _ in range(_STEPS - 1):
            found = self._choose(*predicted, radius=_GROWING)
            if not len(found[0]):
                return bend, rows, columns
            grown = not (np.array_equal(found[0], rows) and np.array_equal(found[1], columns))
            rows, columns = found
            if not grown:
                break  # the same matches make the same field, which finds the same matches
            bend = self._field(rows, columns)
            predicted = self._predicted(bend)
        found = self._choose(*predicted, radius=RADIUS)
        if len(found[0]):
            rows, columns = found
            bend = self._field(rows, columns)
        return bend, rows, columns

    def _field(self, rows: Indices, columns: Indices) -> Deformation:
        return Deformation.fit(self._moved[rows], self._right[columns] - self._moved[rows])

    def _predicted(self, bend: Deformation) -> tuple[Complex, Mask]:
        """Where the field puts each candidate, and whether it may be one there."""
        places = self._moved[self._rows]
        shifts, (along_x, along_y), support = bend.around(places)
        xx, yx, xy, yy = 1.0 + along_x.real, along_x.imag, along_y.real, 1.0 + along_y.imag
        turn = np.arctan2(yx - xy, xx + yy)
        growth = 0.5 * np.log(np.maximum(xx * yy - xy * yx, _FOLDED))
        return places + shifts, self._alike(turn, growth) & (support > _SPOKEN)

    def _alike(self, turn: npt.ArrayLike, growth: npt.ArrayLike) -> Mask:
        good = (np.cos(self._turned - turn) > _TWIST) & (np.abs(self._grown - growth) < _GROWTH)
        return np.asarray(good, np.bool_)

    def _choose(self, expected: Complex, allowed: Mask, *, radius: float) -> tuple[Indices, Indices]:
        """One-to-one matches within `radius` of what is expected, the most alike first; each place once."""
        near = np.flatnonzero(allowed & (np.abs(expected - self._right[self._columns]) < radius * self._unit))
        rows, columns = self._rows[near], self._columns[near]
        order = np.argsort(-self._cosine[rows, columns], kind="stable")
        taken_left: set[complex] = set()
        taken_right: set[complex] = set()
        kept = []
        for index, here, there in zip(
            order.tolist(), self._left[rows[order]].tolist(), self._right[columns[order]].tolist(), strict=True
        ):
            if here not in taken_left and there not in taken_right:
                taken_left.add(here)
                taken_right.add(there)
                kept.append(index)
        return rows[kept], columns[kept]
