"""Proposals hold the nearest, whatever the vectors look like; the exact index is the oracle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ndd.errors import StoreError
from ndd.index.ann import Limits, Proposer, bitmap
from ndd.index.flat import FlatIndex
from tests.ndd.index.builders import clusters

LIMITS = {"exact": Limits(), "scalar": Limits(exact=100), "ivf": Limits(exact=100, scalar=1000)}
DIM = 32


def recall(proposer: Proposer, vectors: NDArray[np.float16], queries: NDArray[np.float16], *, k: int = 10) -> float:
    flat = FlatIndex(vectors.shape[1])
    flat.add(vectors)
    wanted = flat.search(queries, k=k).rows
    found = proposer.search(queries, k=2 * k + 64)
    return float(np.mean([np.isin(w, f).mean() for w, f in zip(wanted, found, strict=True)]))


def queries_near(vectors: NDArray[np.float16], count: int, *, seed: int = 9) -> NDArray[np.float16]:
    random = np.random.default_rng(seed)
    made = vectors[random.integers(0, len(vectors), count)] + 0.02 * random.standard_normal((count, vectors.shape[1]))
    return np.asarray(made / np.linalg.norm(made, axis=1, keepdims=True), np.float16)


@pytest.mark.parametrize("kind", LIMITS)
def test_the_nearest_ten_are_proposed(kind: str) -> None:
    vectors = clusters(6000, DIM, groups=120)
    proposer = Proposer.trained(vectors, limits=LIMITS[kind])
    assert proposer.info()["kind"] == kind
    assert len(proposer) == 6000
    assert recall(proposer, vectors, queries_near(vectors, 200)) >= 0.98


def test_vectors_without_clusters_are_all_compared() -> None:
    """Looking into the lists of the nearest centroids alone would find a third of the neighbours."""
    vectors = clusters(6000, DIM, groups=1, spread=1.0)
    proposer = Proposer.trained(vectors, limits=LIMITS["ivf"])
    assert proposer.info()["kind"] == "scalar"
    assert recall(proposer, vectors, queries_near(vectors, 200)) >= 0.99


@pytest.mark.parametrize("kind", LIMITS)
def test_rows_added_after_training_are_found_and_dead_ones_are_not(kind: str) -> None:
    vectors = clusters(4000, DIM, groups=50)
    proposer = Proposer.trained(vectors[:3000], limits=LIMITS[kind])
    proposer.add(vectors[3000:])
    assert (proposer.search(vectors[3000:3100], k=1)[:, 0] == np.arange(3000, 3100)).mean() > 0.95
    alive = np.arange(4000) % 3 != 0
    found = proposer.search(vectors[:60], k=10, alive=bitmap(alive))
    assert (found % 3 != 0)[found >= 0].all()
    assert (found >= 0).mean() > 0.95
    only = np.zeros(4000, bool)
    only[[7, 2000]] = True
    assert set(proposer.search(vectors[7:8], k=10, alive=bitmap(only))[0]) <= {7, 2000, -1}


@pytest.mark.parametrize("kind", ["scalar", "ivf"])
def test_what_is_saved_finds_the_same_and_can_grow(kind: str, tmp_path: Path) -> None:
    vectors = clusters(3000, DIM, groups=40)
    proposer = Proposer.trained(vectors, limits=LIMITS[kind])
    proposer.save(tmp_path / "search")
    again = Proposer.load(tmp_path / "search", kind=kind, dim=DIM, trained_on=proposer.trained_on)
    assert again.info() == proposer.info()
    assert np.array_equal(again.search(vectors[:50], k=20), proposer.search(vectors[:50], k=20))
    again.add(vectors[:5])
    assert len(again) == 3005
    (tmp_path / "search").write_bytes((tmp_path / "search").read_bytes()[:1000])
    with pytest.raises(StoreError, match="search: cannot be read"):
        Proposer.load(tmp_path / "search", kind=kind, dim=DIM, trained_on=1)


def test_kinds_follow_the_number_of_vectors() -> None:
    limits = Limits(exact=10, scalar=20)
    assert [limits.kind(count) for count in (0, 10, 11, 20, 21)] == ["exact", "exact", "scalar", "scalar", "ivf"]
