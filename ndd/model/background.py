"""How crowded a picture's surroundings are: its descriptor against those of pictures that it is no copy of.

A few pictures (flat drawings, plain skies) lie near to everything, and one threshold for all pairs is then spoilt by
them. What counts is by how much a pair is nearer than the two are to strangers anyway: the similarity normalisation of
SSCD (Pizzi et al. 2022, arXiv:2202.10261, §5.4), made symmetric.

`background.safetensors` of a model directory holds the strangers' vectors, made by the same network. It is part of what
a vector means, hence of the embedding's digest. Shapes: M strangers, N pictures, D numbers per vector.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file
from safetensors.numpy import save as save_tensors

from ndd.errors import ModelError
from ndd.files import atomic_path
from ndd.index.base import lengths

__all__ = ["BACKGROUND", "NEAREST", "Background"]

BACKGROUND = "background.safetensors"
NEAREST = 5
"""Strangers that are averaged, after the very nearest: that one may show the same picture. On an album of edited copies 1,
5 and 20 of them, with it and without, were within .01 of µAP of one another."""

_TENSOR = "vectors"
_BLOCK = 256


class Background:
    """Descriptors of pictures that none of a user's is expected to be a copy of."""

    def __init__(self, vectors_MD: NDArray[np.float16]) -> None:
        """vectors: unit length up to rounding. ValueError for another shape or type, and for fewer than NEAREST + 1."""
        if vectors_MD.dtype != np.float16 or vectors_MD.ndim != 2 or len(vectors_MD) <= NEAREST:
            raise ValueError(
                f"a background is at least ({NEAREST + 1}, D) float16, got {vectors_MD.shape} {vectors_MD.dtype}"
            )
        self.vectors = vectors_MD
        self._columns = vectors_MD.astype(np.float64).T
        self._lengths = lengths(vectors_MD)

    def hubness(self, vectors_ND: NDArray[np.float16]) -> NDArray[np.float64]:
        """(N,) mean cosine of each vector to its NEAREST strangers but one, in [-1, 1]; the same however the work is cut.

        Products of half-precision vectors are exact in double precision in any order of summation (see
        `ndd.index.base.cosine_distance`), so only the mean rounds, and it sums in order of size.
        """
        found = np.empty(len(vectors_ND))
        for start in range(0, len(vectors_ND), _BLOCK):
            part = vectors_ND[start : start + _BLOCK]
            scale = lengths(part)[:, None] * self._lengths
            products = part.astype(np.float64) @ self._columns
            cosines = np.divide(products, scale, out=np.zeros_like(products), where=scale > 0)
            nearest = np.sort(np.partition(cosines, -NEAREST - 1, axis=1)[:, -NEAREST - 1 :], axis=1)
            found[start : start + _BLOCK] = nearest[:, :-1].mean(axis=1)
        return found

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Write the file of a model directory, whole or not at all."""
        with atomic_path(Path(directory) / BACKGROUND) as temporary:
            temporary.write_bytes(save_tensors({_TENSOR: np.ascontiguousarray(self.vectors)}))

    @classmethod
    def load(cls, directory: str | os.PathLike[str], *, dim: int) -> Self | None:
        """The background of a model directory; None if it has none. ModelError if it is damaged or of another network."""
        path = Path(directory) / BACKGROUND
        if not path.is_file():
            return None
        try:
            vectors = load_file(path)[_TENSOR]
            if vectors.shape[1:] != (dim,):
                raise ValueError(f"vectors of shape {vectors.shape}, the network's have {dim} numbers")
            return cls(vectors)
        except (SafetensorError, KeyError, ValueError) as error:
            raise ModelError(f"{path}: {str(error).splitlines()[0]}; train or copy the directory again") from error
