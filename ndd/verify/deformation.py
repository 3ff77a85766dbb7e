"""What one plane transform leaves over: a smooth, small field of displacements (waves, lens, crumpled paper).

Nadaraya–Watson regression of the residuals of matched keypoints with a Gaussian kernel, shrunk towards zero where few
keypoints speak, reweighted against strays. Positions and displacements are complex numbers in units of the longer side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

__all__ = ["Deformation"]

Complex = npt.NDArray[np.complex64]
Floats = npt.NDArray[np.float32]

_WIDTH = 0.05
"""Standard deviation of the kernel."""
_PRIOR = 0.4
"""Weight of the zero displacement: a keypoint alone moves its surroundings by 1 / 1.4 of what it says."""
_STRAY = 0.012
"""Residual at which a match counts half."""


@dataclass(frozen=True, slots=True, eq=False)
class Deformation:
    """Displacements (K,) known at `places` (K,), with `weights` (K,)."""

    places: Complex
    shifts: Complex
    weights: Floats

    @classmethod
    def fit(cls, places: Complex, shifts: Complex) -> Self:
        """From the residual displacement of each match; each match is judged by its neighbours alone."""
        kernel = _kernel(places, places)
        np.fill_diagonal(kernel, 0.0)
        weights = np.ones(len(places), np.float32)
        for _ in range(3):
            spoken = _sums(kernel, weights) + _PRIOR
            expected = _sums(kernel, weights * shifts) / spoken
            weights = np.asarray(1.0 / (1.0 + (np.abs(shifts - expected) / _STRAY) ** 2), np.float32)
        return cls(places, shifts, weights)

    def at(self, points: Complex) -> Complex:
        """(P,) displacement at each point."""
        kernel = _kernel(points, self.places)
        total = _sums(kernel, self.weights * self.shifts) / (_sums(kernel, self.weights) + _PRIOR)
        return np.asarray(total, np.complex64)


def _sums(kernel: Floats, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """kernel @ values, without a BLAS, whose order of adding depends on its threads."""
    return np.asarray(np.einsum("pk,k->p", kernel, values))


def _kernel(points: Complex, places: Complex) -> Floats:
    x = points.real[:, None] - places.real[None, :]
    y = points.imag[:, None] - places.imag[None, :]
    return np.asarray(np.exp((x * x + y * y) * np.float32(-0.5 / _WIDTH**2)), np.float32)
