"""Candidates: the pairs worth a closer look, by descriptor, by perceptual hash, and by the votes of keypoints.

Shapes: M pictures, D numbers per vector, F = 8 dihedral forms of 32-byte hashes, P pairs.
"""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from ndd.hashing import hamming
from ndd.index.base import cosine_distance
from ndd.index.flat import FlatIndex
from ndd.stages.votes import LOUD, Votes

__all__ = [
    "ASKED",
    "QUALITY",
    "SURE",
    "Matcher",
    "merge",
    "merge_promises",
    "pair_distances",
    "pair_hash_bits",
    "pair_standout",
]

Rows = NDArray[np.int64]

QUALITY = 50
"""Least PDQ quality (0…100) at which a hash may propose a pair: below, the picture has too little structure and many
hashes coincide (Facebook, "The TMK+PDQF video-hashing algorithm and the PDQ image-hashing algorithm", 2019, §PDQ quality)."""

SURE = np.inf
"""What a pair promises that is worth a look whatever a glance would say."""

ASKED = 0.6
"""What a pair has to promise for a glance: …"""
_STANDING = 6.0
"""… so much for two vectors that are nearer by 1 than strangers are, …"""
_MOST_VOTES = 4.0
"""… 1 for each vote, up to these, …"""
_SILENT = 1.0
"""… and this where one of the pictures has too few keypoints to vote."""

_WIDER = 3
"""So many times the neighbours are looked at where hubs are moved back among them. On an album of edited copies the true
pairs among 25 neighbours rose from .952 to .960 (of whitened descriptors), among 50 from .972 to .978."""
_BYTES = 64 * 2**20


class Matcher:
    """Proposes pairs for any slice of the pictures; proposals of all slices together do not depend on the slicing."""

    def __init__(
        self,
        vectors_MD: NDArray[np.float16],
        hashes_MF32: NDArray[np.uint8],
        quality_M: NDArray[np.integer],
        *,
        neighbours: int,
        max_distance: float,
        hash_bits: int,
        side_M: NDArray[np.integer] | None = None,
        content_M: NDArray[np.integer] | None = None,
        hubness_M: NDArray[np.floating] | None = None,
        votes: Votes | None = None,
    ) -> None:
        """side: 0 or 1; if given, only pairs between the sides are proposed. content: equal numbers mean equal bytes,
        which need no proposal (default: all differ). hubness: see `ndd.model.background`; a picture that is near to
        everything is a neighbour only where it is nearer than that (default: none is). votes: of the same pictures'
        keypoints; they propose pairs of their own, and what neither vectors nor votes promise enough is no proposal."""
        count = len(vectors_MD)
        self._vectors, self._hashes = vectors_MD, hashes_MF32
        self._neighbours, self._max_distance, self._bits = neighbours, max_distance, hash_bits
        self._side = np.zeros(count, np.int64) if side_M is None else np.asarray(side_M, np.int64)
        self._content = np.arange(count) if content_M is None else np.asarray(content_M)
        self._sharp = np.asarray(quality_M) >= QUALITY
        self._hubness = np.zeros(count) if hubness_M is None else np.asarray(hubness_M, np.float64)
        self._votes = votes
        self._wide = neighbours if hubness_M is None else _WIDER * neighbours
        sides = (0,) if side_M is None else (0, 1)
        # What a picture of side s is compared with: its own side, or the other one.
        self._pools = {side: _Pool(self, np.flatnonzero(self._side == sides[-1 - side])) for side in sides}

    def __call__(self, batch: dict[str, Rows]) -> dict[str, NDArray[Any]]:
        """{"node": (Q,)} → {"left": (P,), "right": (P,), "promise": (P,)} with left < right: proposals of these pictures, and
        what each promises before a glance (see ASKED), SURE where none is wanted."""
        nodes = np.asarray(batch["node"], np.int64)
        found, promises = [np.zeros((0, 2), np.int64)], [np.zeros(0)]
        for side, pool in self._pools.items():
            asked = nodes[self._side[nodes] == side]
            if len(asked) and len(pool.rows):
                for pairs, promise in (pool.by_hash(asked), pool.by_looks(asked)):
                    found.append(pairs)
                    promises.append(promise)
        pairs, promise = merge_promises(np.concatenate(found), np.concatenate(promises))
        return {"left": pairs[:, 0], "right": pairs[:, 1], "promise": promise}


class _Pool:
    """One side's pictures, ready to be compared with."""

    def __init__(self, matcher: Matcher, rows: Rows) -> None:
        self.rows = rows
        self._of = matcher
        self._flat = FlatIndex(matcher._vectors.shape[1])
        self._flat.add(matcher._vectors[rows])
        self._sharp = rows[matcher._sharp[rows]]
        self._binary = faiss.IndexBinaryFlat(8 * matcher._hashes.shape[2])
        self._binary.add(np.ascontiguousarray(matcher._hashes[self._sharp, 0]))

    def by_looks(self, asked: Rows) -> tuple[Rows, NDArray[np.float64]]:
        """What vectors and votes propose: (P, 2), and (P,) what they promise."""
        of, near = self._of, self._by_vector(asked)
        votes = of._votes
        if votes is None:
            return near, np.full(len(near), SURE)
        ballot = votes.ballot(asked, side=int(of._side[self.rows[0]]))
        voted = ballot.proposals(most=2 * of._neighbours)
        pairs = np.concatenate([near, voted[of._content[voted[:, 0]] != of._content[voted[:, 1]]]])
        pairs = np.unique(pairs, axis=0)
        left, right = pairs.T
        heard = ballot.of(left, right)
        standout = pair_standout(of._vectors, of._hubness, left, right)
        silent = votes.silent(left) | votes.silent(right)
        promise = _STANDING * standout
        promise += np.where(silent, np.maximum(heard, _SILENT), np.minimum(heard, _MOST_VOTES))
        promise[heard >= LOUD] = SURE
        asking = promise >= ASKED
        return pairs[asking], promise[asking]

    def _by_vector(self, asked: Rows) -> Rows:
        """(P, 2) the nearest `neighbours` of each, no farther than max_distance, hubs moved back."""
        of = self._of
        # A picture finds its own bytes once: itself, or on the other side its one representative.
        nearest = self._flat.search(of._vectors[asked], k=of._wide + 1)
        order = np.argsort(nearest.distances + of._hubness[self.rows[nearest.rows]], axis=1, kind="stable")
        rows, distances = (np.take_along_axis(of_all, order, axis=1) for of_all in (nearest.rows, nearest.distances))
        found = np.where(rows < 0, asked[:, None], self.rows[rows])
        good = (rows >= 0) & (of._content[found] != of._content[asked][:, None])
        good &= np.cumsum(good, axis=1) <= of._neighbours
        good &= distances <= of._max_distance
        line, column = np.nonzero(good)
        return np.stack([asked[line], found[line, column]], axis=1)

    def by_hash(self, asked: Rows) -> tuple[Rows, NDArray[np.float64]]:
        """(P, 2) the nearest `neighbours` of each by perceptual hash, within hash_bits in any of the eight forms; (P,) SURE."""
        of = self._of
        asked = asked[of._sharp[asked]]
        if not len(asked) or not len(self._sharp):
            return np.zeros((0, 2), np.int64), np.zeros(0)
        forms = of._hashes.shape[1]
        # Worst case: every picture answers every form with 12 bytes.
        step = max(1, _BYTES // (12 * forms * len(self._sharp)))
        found = np.concatenate([self._hash_block(asked[start : start + step]) for start in range(0, len(asked), step)])
        return found, np.full(len(found), SURE)

    def _hash_block(self, asked: Rows) -> Rows:
        of = self._of
        count, forms = len(asked), of._hashes.shape[1]
        queries = np.ascontiguousarray(of._hashes[asked].reshape(count * forms, -1))
        # FAISS takes distances strictly below the radius.
        limits, bits, hits = self._binary.range_search(queries, of._bits + 1)
        answers: Rows = np.diff(np.asarray(limits, np.int64)).astype(np.int64)
        line = np.repeat(np.arange(count * forms) // forms, answers)
        found = self._sharp[hits]
        good = of._content[found] != of._content[asked[line]]
        line, found, bits = line[good], found[good], bits[good]
        order = np.lexsort((bits, found, line))
        line, found, bits = line[order], found[order], bits[order]
        first = np.ones(len(line), bool)
        first[1:] = (line[1:] != line[:-1]) | (found[1:] != found[:-1])
        line, found, bits = line[first], found[first], bits[first]
        order = np.lexsort((found, bits, line))
        line, found = line[order], found[order]
        rank = np.arange(len(line)) - np.searchsorted(line, line)
        near = rank < of._neighbours
        return np.stack([asked[line[near]], found[near]], axis=1)


def merge(pairs_P2: Rows) -> Rows:
    """Each unordered pair once, left < right, sorted."""
    return np.unique(np.sort(pairs_P2, axis=1), axis=0).reshape(-1, 2)


def merge_promises(pairs_P2: Rows, promises_P: NDArray[np.float64]) -> tuple[Rows, NDArray[np.float64]]:
    """As `merge`, and (P,) the most that each pair promises."""
    pairs, inverse = np.unique(np.sort(pairs_P2, axis=1), axis=0, return_inverse=True)
    most = np.full(len(pairs), -np.inf)
    np.maximum.at(most, inverse.ravel(), promises_P)
    return pairs.reshape(-1, 2), most


def pair_distances(vectors_MD: NDArray[np.float16], left_P: Rows, right_P: Rows) -> NDArray[np.float64]:
    """(P,) 1 − cosine of each pair, exact."""
    parts = [
        cosine_distance(vectors_MD[left_P[start : start + 8192]], vectors_MD[right_P[start : start + 8192]])
        for start in range(0, len(left_P), 8192)
    ]
    return np.concatenate([np.zeros(0), *parts])


def pair_standout(
    vectors_MD: NDArray[np.float16], hubness_M: NDArray[np.floating], left_P: Rows, right_P: Rows
) -> NDArray[np.float64]:
    """(P,) by how much the two of each pair are nearer than they are to strangers: cosine less the mean of both hubnesses."""
    crowd = (hubness_M[left_P] + hubness_M[right_P]) / 2.0
    return np.asarray(1.0 - pair_distances(vectors_MD, left_P, right_P) - crowd, np.float64)


def pair_hash_bits(hashes_MF32: NDArray[np.uint8], left_P: Rows, right_P: Rows) -> tuple[Rows, NDArray[np.bool_]]:
    """(P,) least Hamming distance of one picture's hash and any of the eight forms of the other's, both ways round, and
    (P,) whether the unturned form is (among) the nearest.

    Both ways, because turning a picture and then hashing it is not always the same as turning its hash.
    """
    bits, upright = [np.zeros(0, np.int64)], [np.zeros(0, np.bool_)]
    for start in range(0, len(left_P), 8192):
        left, right = (hashes_MF32[rows[start : start + 8192]] for rows in (left_P, right_P))
        there, back = hamming(left[:, :1], right), hamming(right[:, :1], left)
        least = np.minimum(there.min(axis=1), back.min(axis=1))
        bits.append(least)
        upright.append(there[:, 0] == least)
    return np.concatenate(bits), np.concatenate(upright)
