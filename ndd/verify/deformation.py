"""What one plane transform leaves over: a smooth, small field of displacements (waves, lens, crumpled paper).

Gaussian process regression of the residuals of matched keypoints (Rasmussen & Williams 2006, "Gaussian Processes for
Machine Learning", eq. 2.25): it passes near every keypoint, is smooth between them and falls to zero far from all. Positions
and displacements are complex numbers in units of the longer side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["Deformation"]

Complex = npt.NDArray[np.complex64]
Floats = npt.NDArray[np.float64]

_WIDTH = 0.12
"""Standard deviation of the kernel: half the period of the shortest wave that it can follow."""
_REACH = 0.04
"""Standard deviation of displacements before anything is known."""
_NOISE = 0.005
"""Standard deviation of a keypoint's place: a pixel of the 192 searched."""
_MOST = 96
"""Keypoints that a field is made of, the first given. Below a hundred OpenCV solves in code of its own: a LAPACK's sums
would depend on its threads, and evidence must not."""


@dataclass(frozen=True, slots=True, eq=False)
class Deformation:
    """A field made of `places` (K,), each with a complex128 `weights` (K,)."""

    places: Complex
    weights: npt.NDArray[np.complex128]

    @classmethod
    def fit(cls, places: Complex, shifts: Complex) -> Self:
        """From the residual displacements (K,) of matches at `places` (K,), K ≥ 1, the most trusted first."""
        places, shifts = places[:_MOST], shifts[:_MOST]
        covariance = _kernel(places, places)
        covariance[np.diag_indices(len(places))] += (_NOISE / _REACH) ** 2
        both = np.stack([shifts.real, shifts.imag], axis=1).astype(np.float64)
        # Positive definite by the noise on its diagonal.
        _, solved = cv2.solve(covariance, both, flags=cv2.DECOMP_CHOLESKY)
        return cls(places, np.asarray(solved[:, 0] + 1j * solved[:, 1], np.complex128))

    def at(self, points: Complex) -> Complex:
        """(P,) displacement at each point."""
        return np.asarray(_sums(_kernel(points, self.places), self.weights), np.complex64)

    def around(self, points: Complex) -> tuple[Complex, tuple[Complex, Complex], Floats]:
        """(P,) displacement at each point; its derivatives along x and along y; how many keypoints speak there, those further
        away for less."""
        kernel = _kernel(points, self.places)
        steep = kernel / -(_WIDTH**2)
        away = points[:, None] - self.places[None, :]
        slopes = (
            np.asarray(_sums(steep * away.real, self.weights), np.complex64),
            np.asarray(_sums(steep * away.imag, self.weights), np.complex64),
        )
        shifts = np.asarray(_sums(kernel, self.weights), np.complex64)
        return shifts, slopes, np.asarray(kernel.sum(axis=1), np.float64)


def _sums(kernel: npt.NDArray[Any], values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """kernel @ values, without a BLAS, whose order of adding depends on its threads."""
    return np.asarray(np.einsum("pk,k->p", kernel, values))


def _kernel(points: Complex, places: Complex) -> Floats:
    x = points.real[:, None].astype(np.float64) - places.real[None, :]
    y = points.imag[:, None].astype(np.float64) - places.imag[None, :]
    return np.asarray(np.exp((x * x + y * y) * (-0.5 / _WIDTH**2)), np.float64)
