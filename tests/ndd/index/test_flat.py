"""Exact search against a plain loop in rational arithmetic, and its independence of how the work is cut."""

from __future__ import annotations

from fractions import Fraction

import faiss
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ndd.index.base import cosine_distance
from ndd.index.flat import FlatIndex

Half = NDArray[np.float16]


def unit(rows: NDArray[np.floating]) -> Half:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


def random_vectors(count: int, dim: int, *, seed: int = 0, spread: float = 1.0) -> Half:
    """Unit vectors around one direction; a small spread makes them all nearly equal."""
    rng = np.random.default_rng(seed)
    return unit(rng.normal(size=dim) + spread * rng.normal(size=(count, dim)))


def oracle(vectors: Half, queries: Half, k: int) -> NDArray[np.int64]:
    """The nearest rows by comparing exact rational products, ties by row."""
    answers = []
    for query in queries:
        ranked = []
        for row, vector in enumerate(vectors):
            product = sum(
                (Fraction(float(a)) * Fraction(float(b)) for a, b in zip(query, vector, strict=True)), Fraction()
            )
            square = sum((Fraction(float(a)) ** 2 for a in vector), Fraction())
            # Order by cosine without a root: sign and square of product / length.
            ranked.append((-(product * abs(product)) / square, row))
        answers.append([row for _, row in sorted(ranked)[:k]])
    return np.asarray(answers)


def test_distance_is_that_of_the_textbook() -> None:
    left = np.array([[1, 0], [1, 0], [0.6, 0.8], [0, 0]], np.float16)
    right = np.array([[1, 0], [-1, 0], [0.8, -0.6], [1, 0]], np.float16)
    np.testing.assert_allclose(cosine_distance(left, right), [0.0, 2.0, 1.0, 1.0], atol=1e-3)
    assert cosine_distance(left[:2], right[:2]).tolist() == [0.0, 2.0]


@given(st.integers(0, 2**32 - 1))
def test_distance_does_not_depend_on_the_order_of_summation(seed: int) -> None:
    rng = np.random.default_rng(seed)
    left, right = random_vectors(6, 96, seed=seed), random_vectors(6, 96, seed=seed + 1)
    shuffle = rng.permutation(96)
    expected = cosine_distance(left, right)
    assert np.array_equal(cosine_distance(left[:, shuffle], right[:, shuffle]), expected)
    assert np.array_equal(cosine_distance(right, left), expected)


@pytest.mark.parametrize("spread", [1.0, 1e-3])
def test_neighbours_are_those_of_exact_arithmetic(spread: float) -> None:
    vectors = random_vectors(120, 16, spread=spread)
    index = FlatIndex(16)
    index.add(vectors[:50])
    index.add(vectors[50:])
    found = index.search(vectors[:20], k=7)
    assert found.rows.tolist() == oracle(vectors, vectors[:20], 7).tolist()
    assert (np.diff(found.distances, axis=1) >= 0).all()


def test_ties_come_in_row_order_even_when_there_are_hundreds() -> None:
    """More equal vectors than the coarse search proposes: it alone would return an arbitrary part of them."""
    vectors = np.repeat(random_vectors(3, 32), 200, axis=0)
    index = FlatIndex(32)
    index.add(vectors)
    found = index.search(vectors[[5, 250]], k=12)
    assert found.rows.tolist() == [list(range(12)), list(range(200, 212))]
    assert not found.distances.any()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("spread", [1.0, 1e-4])
def test_any_cut_of_the_queries_gives_the_same_answer(spread: float, threads: int) -> None:
    vectors = random_vectors(700, 64, spread=spread)
    index = FlatIndex(64)
    index.add(vectors)
    whole = index.search(vectors, k=9)
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(threads)
    try:
        for size in (1, 7, 130):
            rows = [index.search(vectors[at : at + size], k=9) for at in range(0, 260, size)]
            assert np.array_equal(np.concatenate([part.rows for part in rows])[:260], whole.rows[:260])
            assert np.array_equal(np.concatenate([part.distances for part in rows])[:260], whole.distances[:260])
    finally:
        faiss.omp_set_num_threads(before)


def test_fewer_vectors_than_asked_for() -> None:
    index = FlatIndex(8)
    assert index.search(random_vectors(2, 8), k=3).rows.tolist() == [[-1] * 3] * 2
    index.add(random_vectors(2, 8))
    found = index.search(random_vectors(1, 8), k=3)
    assert found.rows.tolist() == [[0, 1, -1]]
    assert found.distances[0, 2] == np.inf
    assert len(index) == 2


@pytest.mark.parametrize("wrong", [np.zeros((2, 7), np.float16), np.zeros((2, 8), np.float32), np.zeros(8, np.float16)])
def test_another_shape_or_type_is_refused(wrong: NDArray[np.floating]) -> None:
    index = FlatIndex(8)
    with pytest.raises(ValueError, match="float16"):
        index.add(wrong)
