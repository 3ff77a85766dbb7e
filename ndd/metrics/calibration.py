"""Whether probabilities mean what they say: reliability by bins, and the expected calibration error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Reliability", "expected_calibration_error", "reliability"]


@dataclass(frozen=True, slots=True)
class Reliability:
    """Bins of equal width over [0, 1], each closed below; 1 belongs to the last. Arrays of one entry per bin.

    count: pairs. score: mean score; frequency: share of duplicates; both nan in an empty bin.
    """

    count: NDArray[np.int64]
    score: NDArray[np.float64]
    frequency: NDArray[np.float64]

    @property
    def error(self) -> float:
        """Mean gap between score and frequency, weighted by size (Guo et al. 2017, eq. 3); 0 without pairs."""
        total = int(self.count.sum())
        gaps = np.abs(self.score - self.frequency)[self.count > 0]
        return float((self.count[self.count > 0] * gaps).sum() / total) if total else 0.0


def reliability(scores: ArrayLike, labels: ArrayLike, *, bins: int = 15) -> Reliability:
    """scores (P,) in [0, 1], labels (P,) true for duplicate. Raises ValueError for NaN or anything outside [0, 1]."""
    values, truth = np.asarray(scores, np.float64), np.asarray(labels, bool)
    if values.ndim != 1 or values.shape != truth.shape:
        raise ValueError(f"expected two arrays (P,) of one length, got {values.shape} and {truth.shape}")
    outside = np.flatnonzero(~((values >= 0.0) & (values <= 1.0)))
    if len(outside):
        raise ValueError(f"score {int(outside[0])} is {values[outside[0]]}; a probability lies in 0…1")
    at = np.minimum((values * bins).astype(np.int64), bins - 1)
    count = np.bincount(at, minlength=bins)
    with np.errstate(invalid="ignore"):
        score = np.bincount(at, values, bins) / count
        frequency = np.bincount(at, truth.astype(np.float64), bins) / count
    return Reliability(count.astype(np.int64), score, frequency)


def expected_calibration_error(scores: ArrayLike, labels: ArrayLike, *, bins: int = 15) -> float:
    """The error of `reliability`: 0 for probabilities that mean what they say."""
    return reliability(scores, labels, bins=bins).error
