"""Proposes near vectors quickly; who asks ranks the proposals exactly.

Three kinds, by the number of vectors: `exact` compares single-precision copies of all; `scalar` compares all at 8 bits per
number (a quarter of the memory traffic); `ivf` looks into the lists of the nearest centroids only, 8 bits per number
(Sivic & Zisserman 2003; Jégou, Douze & Schmid 2011, doi:10.1109/TPAMI.2010.57). How many lists is measured when it is
trained, on the vectors themselves; vectors without clusters are all compared, which is slower, not worse.

Rows are numbered in the order of `add`. Searching from several threads is safe, adding at the same time is not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from ndd.errors import StoreError
from ndd.index.base import Half

__all__ = ["Limits", "Proposer", "bitmap"]

_SAMPLE = 40
"""Training vectors per centroid (FAISS warns below 39)."""
_PROBES = 256
"""Vectors on which the number of lists is measured."""
_NEAR = 0.3
"""How far a query may lie from a vector, as edited copies do: 1 − cosine of about .04."""
_CHUNK = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How many vectors each kind takes, and how good `ivf` must be."""

    exact: int = 16_384
    """Above, 8 bits per number."""
    scalar: int = 50_000
    """Above, an inverted file: comparing 100,000 times 256 numbers at 8 bits takes 6 ms of one core, this less than 1."""
    recall: float = 0.995
    """Share of the nearest ten that the lists looked into must hold."""

    def kind(self, count: int) -> str:
        """The kind for so many vectors."""
        return "exact" if count <= self.exact else "scalar" if count <= self.scalar else "ivf"


class Proposer:
    """Near rows of a growing set of half-precision vectors of unit length (up to rounding)."""

    def __init__(self, dim: int, *, kind: str = "exact", index: Any = None, trained_on: int = 0) -> None:
        """An empty one that compares exactly; `trained` and `load` make the others. trained_on: how many vectors."""
        self.dim, self.kind, self.trained_on = dim, kind, trained_on
        self._index: Any = faiss.IndexFlatIP(dim) if index is None else index

    @classmethod
    def trained(cls, vectors_ND: Half, *, limits: Limits, seed: int = 0) -> Proposer:
        """One of the kind that suits these vectors, with them in it."""
        count, dim = vectors_ND.shape
        kind = limits.kind(count)
        if kind == "ivf":
            made = cls(dim, kind=kind, index=_inverted(_some(vectors_ND, _SAMPLE * _lists(count), seed), count, seed))
            made.add(vectors_ND)
            made._index.nprobe = probed = _lists_to_probe(made._index, vectors_ND, limits.recall, seed + 1)
            if probed <= _lists(count) // 2:
                made.trained_on = count
                return made
            kind = "scalar"  # no clusters to go by: comparing all is quicker than looking into most of the lists
        index: Any = None
        if kind == "scalar":
            index = faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
            index.train(_unit(_some(vectors_ND, _CHUNK, seed)))
        made = cls(dim, kind=kind, index=index, trained_on=count)
        made.add(vectors_ND)
        return made

    @classmethod
    def load(cls, path: Path, *, kind: str, dim: int, trained_on: int) -> Proposer:
        """The one that `save` wrote. Raises StoreError."""
        try:
            index = faiss.read_index(str(path))
        except RuntimeError as error:
            raise StoreError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from error
        return cls(dim, kind=kind, index=index, trained_on=trained_on)

    def save(self, path: Path) -> None:
        """Write it to a file, not yet durable. OSError if it cannot be written."""
        data = faiss.serialize_index(self._index)
        with path.open("wb") as file:
            file.write(data.data)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def add(self, vectors_ND: Half) -> None:
        """Append rows."""
        for start in range(0, len(vectors_ND), _CHUNK):
            self._index.add(_unit(vectors_ND[start : start + _CHUNK]))

    def search(self, queries_QD: Half, *, k: int, alive: NDArray[np.uint8] | None = None) -> NDArray[np.int64]:
        """(Q, k) rows near each query, −1 where there are fewer. alive: see `bitmap`; None means every row."""
        queries = _unit(queries_QD)
        if alive is None:
            rows: NDArray[np.int64] = self._index.search(queries, k)[1]
            return rows
        library: Any = faiss  # its type hints know of no keywords here
        living = library.IDSelectorBitmap(len(alive), library.swig_ptr(alive))
        if self.kind == "ivf":
            parameters = library.SearchParametersIVF(sel=living, nprobe=self._index.nprobe)
        else:
            parameters = library.SearchParameters(sel=living)
        found: NDArray[np.int64] = self._index.search(queries, k, params=parameters)[1]
        return found

    def info(self) -> dict[str, Any]:
        """What kind it is."""
        if self.kind != "ivf":
            return {"kind": self.kind}
        return {"kind": "ivf", "lists": int(self._index.nlist), "probed": int(self._index.nprobe)}


def bitmap(alive_N: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """One bit for each row, as `Proposer.search` takes it."""
    return np.packbits(alive_N, bitorder="little")


def _lists(count: int) -> int:
    return round(2 * math.sqrt(count))


def _inverted(sample_ND: Half, count: int, seed: int) -> Any:
    """An empty inverted file with centroids learnt from a sample."""
    dim = sample_ND.shape[1]
    index: Any = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatIP(dim), dim, _lists(count), faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
    )
    index.cp.seed, index.cp.niter, index.cp.spherical = seed + 1, 10, True
    index.cp.min_points_per_centroid = 1  # no complaint on stderr where a caller sets low limits
    index.train(_unit(sample_ND))
    return index


def _lists_to_probe(index: Any, vectors_ND: Half, recall: float, seed: int) -> int:
    """The least power of two of lists that hold `recall` of the nearest ten, for some of the vectors themselves (which do
    not count as found) and for others near them; all lists if need be."""
    own = _unit(_some(vectors_ND, _PROBES, seed))
    noise = np.random.default_rng(seed).standard_normal(own.shape) * (_NEAR / math.sqrt(own.shape[1]))
    queries = np.concatenate([own, _unit(np.asarray(own + noise, np.float16))])
    index.nprobe = index.nlist
    wanted = index.search(queries, 11)[1]
    probe = 1
    while probe < index.nlist:
        index.nprobe = probe
        found = index.search(queries, 11)[1]
        if min(_overlap(found[part], wanted[part]) for part in (slice(len(own)), slice(len(own), None))) >= recall:
            return probe
        probe *= 2
    return int(index.nlist)


def _overlap(found_QK: NDArray[np.int64], wanted_QK: NDArray[np.int64]) -> float:
    """Share of the wanted rows that were found, without the nearest, which is found by any search."""
    hits = [np.isin(wanted[1:], found).mean() for found, wanted in zip(found_QK, wanted_QK, strict=True)]
    return float(np.mean(hits))


def _some(vectors: Half, count: int, seed: int) -> Half:
    if len(vectors) <= count:
        return vectors
    rows = np.random.default_rng(seed).choice(len(vectors), count, replace=False)
    return vectors[np.sort(rows)]


def _unit(vectors: Half) -> NDArray[np.float32]:
    single = np.ascontiguousarray(vectors, np.float32)
    size = np.sqrt(np.einsum("nd,nd->n", single, single))
    return np.asarray(single / np.maximum(size, 1e-12)[:, None], np.float32)
