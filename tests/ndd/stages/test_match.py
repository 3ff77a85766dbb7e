"""Candidates: against plain loops, and independent of how the pictures are cut."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from ndd.hashing import hamming
from ndd.index.base import cosine_distance
from ndd.stages.match import Matcher, merge, merge_promises, pair_distances, pair_hash_bits

COUNT, DIM = 90, 24


class Pictures:
    """Random vectors and hashes with some near copies, some turned ones and some of poor quality."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        vectors = rng.normal(size=(COUNT, DIM))
        vectors[40:60] = vectors[:20] + 0.2 * rng.normal(size=(20, DIM))
        self.vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
        self.hashes = rng.integers(0, 256, (COUNT, 8, 32), dtype=np.uint8)
        # 60…79 are turned copies of 0…19: their first form is one of the others' eight, a few bits off.
        for row in range(20):
            self.hashes[60 + row, 0] = self.hashes[row, row % 8]
            self.hashes[60 + row, 0, 0] ^= np.uint8(1 << (row % 8))
        self.quality = rng.integers(40, 101, COUNT)
        self.side = (np.arange(COUNT) % 2).astype(np.int64)

    def matcher(self, **settings: object) -> Matcher:
        options: dict[str, object] = {"neighbours": 4, "max_distance": 0.5, "hash_bits": 10} | settings
        return Matcher(self.vectors, self.hashes, self.quality, **options)  # type: ignore[arg-type]


def pairs_of(matcher: Matcher, nodes: NDArray[np.int64]) -> set[tuple[int, int]]:
    found = matcher({"node": nodes})
    return set(zip(found["left"].tolist(), found["right"].tolist(), strict=True))


def by_loops(p: Pictures, *, k: int, max_distance: float, bits: int, sided: bool) -> set[tuple[int, int]]:
    pairs = set()
    for a in range(COUNT):
        others = [b for b in range(COUNT) if b != a and (not sided or p.side[a] != p.side[b])]
        near = {b: cosine_distance(p.vectors[[a]], p.vectors[[b]])[0] for b in others}
        nearest = sorted(others, key=lambda b: (near[b], b))[:k]
        pairs |= {(min(a, b), max(a, b)) for b in nearest if near[b] <= max_distance}
        if p.quality[a] >= 50:
            alike = {b: int(hamming(p.hashes[a], p.hashes[b, 0]).min()) for b in others if p.quality[b] >= 50}
            hashed = sorted((b for b in alike if alike[b] <= bits), key=lambda b: (alike[b], b))[:k]
            pairs |= {(min(a, b), max(a, b)) for b in hashed}
    return pairs


@pytest.mark.parametrize("sided", [False, True])
@pytest.mark.parametrize("bits", [0, 10, 100])
def test_candidates_are_those_of_plain_loops(bits: int, sided: bool) -> None:
    p = Pictures(seed=bits)
    matcher = p.matcher(hash_bits=bits, side_M=p.side if sided else None)
    found = pairs_of(matcher, np.arange(COUNT))
    assert found == by_loops(p, k=4, max_distance=0.5, bits=bits, sided=sided)
    assert found


def test_hubs_stand_back_behind_what_is_nearer_than_they_usually_are() -> None:
    p = Pictures(seed=3)
    hubness = np.random.default_rng(5).uniform(0, 0.5, COUNT)
    matcher = p.matcher(hubness_M=hubness, max_distance=2.0, hash_bits=0)
    expected = set()
    for a in range(COUNT):
        near = {b: float(cosine_distance(p.vectors[[a]], p.vectors[[b]])[0]) for b in range(COUNT) if b != a}
        wide = sorted(near, key=lambda b: (near[b], b))[:12]
        expected |= {(min(a, b), max(a, b)) for b in sorted(wide, key=lambda b: near[b] + hubness[b])[:4]}
    found = pairs_of(matcher, np.arange(COUNT))
    assert found - {(b - 60, b) for b in range(60, 80)} <= expected
    assert expected <= found
    assert found != pairs_of(p.matcher(max_distance=2.0, hash_bits=0), np.arange(COUNT))


def test_turned_copies_are_proposed_by_their_hash_alone() -> None:
    p = Pictures(seed=1)
    p.quality[:] = 100
    found = pairs_of(p.matcher(max_distance=0.001), np.arange(COUNT))
    assert {(row, 60 + row) for row in range(20)} <= found


def test_any_cut_of_the_pictures_gives_the_same_candidates() -> None:
    p = Pictures(seed=2)
    matcher, rng = p.matcher(), np.random.default_rng(0)
    whole = pairs_of(matcher, np.arange(COUNT))
    for size in (1, 13, 50):
        order = rng.permutation(COUNT)
        parts = [pairs_of(matcher, order[at : at + size]) for at in range(0, COUNT, size)]
        assert set().union(*parts) == whole


def test_equal_bytes_are_not_proposed_and_take_nobodys_place() -> None:
    """The copy on the other side is the nearest of all; the one neighbour asked for must be another picture."""
    p = Pictures(seed=3)
    p.vectors[1] = p.vectors[0]
    content = np.arange(COUNT)
    content[1] = 0
    matcher = p.matcher(neighbours=1, max_distance=2.0, hash_bits=0, side_M=p.side, content_M=content)
    found = pairs_of(matcher, np.array([0]))
    assert len(found) == 1
    assert (0, 1) not in found


def test_every_candidate_keeps_its_row_when_a_hash_block_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory for hash answers is bounded by asking in smaller blocks; the answer stays."""
    p = Pictures(seed=4)
    whole = pairs_of(p.matcher(hash_bits=100), np.arange(COUNT))
    monkeypatch.setattr("ndd.stages.match._BYTES", 1)
    assert pairs_of(p.matcher(hash_bits=100), np.arange(COUNT)) == whole


def test_pair_hash_bits_is_symmetric_and_knows_upright() -> None:
    p = Pictures(seed=5)
    left, right = np.array([0, 3, 8]), np.array([60, 63, 68])
    bits, upright = pair_hash_bits(p.hashes, left, right)
    assert np.array_equal(bits, pair_hash_bits(p.hashes, right, left)[0])
    assert bits.tolist() == [1, 1, 1]
    assert upright.tolist() == [True, False, True]


def test_pair_distances_come_in_blocks_without_loss() -> None:
    p = Pictures(seed=6)
    left = np.arange(20_000) % COUNT
    right = (left + 7) % COUNT
    expected = cosine_distance(p.vectors[left[:COUNT]], p.vectors[right[:COUNT]])
    assert np.array_equal(pair_distances(p.vectors, left, right), np.resize(expected, 20_000))


def test_a_pair_promises_the_most_that_anyone_said() -> None:
    given = np.array([[3, 1], [1, 3], [0, 2], [2, 0], [4, 5]])
    pairs, promises = merge_promises(given, np.array([0.5, np.inf, 2.0, 1.0, 0.7]))
    assert pairs.tolist() == merge(given).tolist() == [[0, 2], [1, 3], [4, 5]]
    assert promises.tolist() == [2.0, np.inf, 0.7]
    pairs, promises = merge_promises(np.zeros((0, 2), np.int64), np.zeros(0))
    assert pairs.shape == (0, 2) and promises.shape == (0,)


def test_merge_makes_each_pair_once_in_order() -> None:
    given = np.array([[3, 1], [1, 3], [0, 2], [2, 0], [0, 2]])
    assert merge(given).tolist() == [[0, 2], [1, 3]]
    assert merge(np.zeros((0, 2), np.int64)).shape == (0, 2)
