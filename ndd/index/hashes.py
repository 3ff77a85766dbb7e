"""Near perceptual hashes among the pictures that have enough structure for one to mean something."""

from __future__ import annotations

import faiss
import numpy as np
from numpy.typing import NDArray

from ndd.stages.match import QUALITY

__all__ = ["HashSearch"]


class HashSearch:
    """256-bit hashes of rows, compared one by one (3 MB for 100,000). Searching from several threads is safe, adding is not."""

    def __init__(self) -> None:
        self._index = faiss.IndexBinaryFlat(256)
        self._rows: list[NDArray[np.int64]] = []

    def add(self, rows_N: NDArray[np.int64], hashes_N32: NDArray[np.uint8], quality_N: NDArray[np.uint8]) -> None:
        """Take in those of these rows whose quality suffices."""
        sharp = quality_N >= QUALITY
        if sharp.any():
            self._index.add(np.ascontiguousarray(hashes_N32[sharp]))
            self._rows.append(rows_N[sharp])

    def search(self, forms_F32: NDArray[np.uint8], *, bits: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows within `bits` of any of the forms, each once, nearest first (equals by row), and how many bits away."""
        if not self._rows:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        _, found, at = self._index.range_search(np.ascontiguousarray(forms_F32), bits + 1)  # strictly below the radius
        rows = np.concatenate(self._rows)[at] if len(at) else np.zeros(0, np.int64)
        order = np.lexsort((rows, found))
        rows, found = rows[order], found[order]
        _, first = np.unique(rows, return_index=True)
        first = np.sort(first)
        return rows[first], found[first].astype(np.int64)
