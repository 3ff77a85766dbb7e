"""Exact search: every query is compared with every vector. The oracle for the approximate indexes."""

from __future__ import annotations

import faiss
import numpy as np
from numpy.typing import NDArray

from ndd.index.base import Double, Half, Neighbours, from_products, lengths

__all__ = ["FlatIndex"]

_SPARE = 16
"""Neighbours fetched in single precision beyond those asked for, to be ranked again exactly."""
_QUERIES = 256
_ROWS = 8192


class FlatIndex:
    """Exact nearest neighbours by (distance, row): the same answer for any cut of the queries and any thread count.

    FAISS searches in single precision, whose last digits depend on how the work is cut. So it only proposes; distances
    are computed anew from exact products (see `cosine_distance`), and where the proposal cannot be proved to hold the
    nearest k (ties within rounding at its edge) all rows are compared exactly.
    """

    def __init__(self, dim: int) -> None:
        self._dim = dim
        self._vectors: Half = np.zeros((0, dim), np.float16)
        self._lengths: Double = np.zeros(0)
        self._coarse = faiss.IndexFlatIP(dim)
        # Error bound of an inner product of unit vectors in single precision, inputs rounded too (Higham 2002, §3.1).
        self._slack = (dim + 8) * 2.0**-24

    @property
    def dim(self) -> int:
        """Numbers per vector."""
        return self._dim

    def __len__(self) -> int:
        return len(self._vectors)

    def add(self, vectors_ND: Half) -> None:
        """Append (N, D) float16 vectors of unit length (up to rounding). ValueError for another shape or type."""
        self._check(vectors_ND)
        size = lengths(vectors_ND)
        self._coarse.add(_unit(vectors_ND, size))
        self._vectors = np.concatenate([self._vectors, vectors_ND])
        self._lengths = np.concatenate([self._lengths, size])

    def search(self, queries_QD: Half, *, k: int) -> Neighbours:
        """The k nearest rows of each (Q, D) float16 query."""
        self._check(queries_QD)
        rows = np.full((len(queries_QD), k), -1, np.int64)
        distances = np.full((len(queries_QD), k), np.inf)
        width = min(k, len(self))
        if width:
            for start in range(0, len(queries_QD), _QUERIES):
                part = slice(start, start + _QUERIES)
                rows[part, :width], distances[part, :width] = self._nearest(queries_QD[part], width)
        return Neighbours(rows, distances)

    def _nearest(self, queries: Half, k: int) -> tuple[NDArray[np.int64], Double]:
        size = lengths(queries)
        wide = min(k + _SPARE, len(self))
        scores, rows = self._coarse.search(_unit(queries, size), wide)
        # In row order, so that a stable sort by distance breaks ties by row.
        rows = np.sort(rows, axis=1)
        near_QWD = self._vectors[rows].astype(np.float64)
        products = np.matmul(near_QWD, queries.astype(np.float64)[:, :, None])[:, :, 0]  # exact: see `cosine_distance`
        rows, distances = _smallest(rows, from_products(products, size[:, None] * self._lengths[rows]), k)
        if wide < len(self):
            # A row that was not proposed has a coarse score of at most the last proposed one.
            beyond = 1.0 - scores[:, -1].astype(np.float64) - self._slack
            (unsure,) = np.nonzero(distances[:, -1] >= beyond)
            for start in range(0, len(unsure), 64):
                part = unsure[start : start + 64]
                rows[part], distances[part] = self._compare_all(queries[part], size[part], k)
        return rows, distances

    def _compare_all(self, queries: Half, size: Double, k: int) -> tuple[NDArray[np.int64], Double]:
        rows = np.zeros((len(queries), 0), np.int64)
        distances = np.zeros((len(queries), 0))
        wide = queries.astype(np.float64)
        for start in range(0, len(self), _ROWS):
            part = slice(start, start + _ROWS)
            products = wide @ self._vectors[part].astype(np.float64).T  # exact, hence the same under any BLAS
            found = from_products(products, size[:, None] * self._lengths[None, part])
            numbers = np.broadcast_to(np.arange(start, start + found.shape[1]), found.shape)
            rows, distances = _smallest(np.hstack([rows, numbers]), np.hstack([distances, found]), k)
        return rows, distances

    def _check(self, vectors: Half) -> None:
        if vectors.dtype != np.float16 or vectors.ndim != 2 or vectors.shape[1] != self._dim:
            raise ValueError(f"expected (N, {self._dim}) float16 vectors, got {vectors.shape} {vectors.dtype}")


def _unit(vectors: Half, size: Double) -> NDArray[np.float32]:
    return np.ascontiguousarray(vectors / np.maximum(size, 1e-12)[:, None], np.float32)


def _smallest(rows: NDArray[np.int64], distances: Double, k: int) -> tuple[NDArray[np.int64], Double]:
    """The k smallest of each line, earlier columns first among equals."""
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(rows, order, axis=1), np.take_along_axis(distances, order, axis=1)
