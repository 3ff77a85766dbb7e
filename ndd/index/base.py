"""What every index of embeddings offers, and the one definition of distance.

Shapes: N stored vectors, Q queries, D numbers per vector, k neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Index", "Neighbours", "cosine_distance", "lengths"]

Half = NDArray[np.float16]
Double = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The nearest stored vectors of Q queries, nearest first, ties in row order.

    rows: (Q, k) int64, numbers of the stored vectors in the order they were added; −1 where there are fewer than k.
    distances: (Q, k) float64, 1 − cosine; infinity beside a row of −1.
    """

    rows: NDArray[np.int64]
    distances: Double


class Index(Protocol):
    """A growing collection of vectors that can be searched; rows count from 0 in the order of `add`."""

    @property
    def dim(self) -> int:
        """Numbers per vector."""

    def __len__(self) -> int: ...

    def add(self, vectors_ND: Half) -> None:
        """Append vectors of unit length (up to rounding)."""

    def search(self, queries_QD: Half, *, k: int) -> Neighbours:
        """The k nearest of each query."""


def cosine_distance(left_ND: Half, right_ND: Half) -> Double:
    """(N,) float64: 1 − cosine of the two vectors in each row, in [0, 2]; symmetric, the same on any machine.

    Half-precision numbers are multiples of 2⁻²⁴ with 11 significant bits, so their products are multiples of 2⁻⁴⁸, and
    sums of them below 16 fit the 53 bits of a double: the inner product of two unit vectors is *exact*, in any order of
    summation, with or without fused multiply-add. A vector of zeros is at distance 1 from everything.
    """
    left, right = left_ND.astype(np.float64), right_ND.astype(np.float64)
    return from_products(np.einsum("nd,nd->n", left, right), lengths(left_ND) * lengths(right_ND))


def lengths(vectors_ND: Half) -> Double:
    """(N,) float64: Euclidean length of each row."""
    wide = vectors_ND.astype(np.float64)
    return np.asarray(np.sqrt(np.einsum("nd,nd->n", wide, wide)), np.float64)


def from_products(products: Double, scale: Double) -> Double:
    """Distances from exact inner products and the products of the vectors' lengths."""
    cosine = np.divide(products, scale, out=np.zeros_like(products), where=scale > 0)
    return np.clip(1.0 - cosine, 0.0, 2.0)
