"""Votes: every picture's strongest keypoints look for their like among those of all pictures.

A copy that no descriptor of the whole picture recognises (a strong crop, a picture in a picture) still shares keypoints
with its source, and two strangers that resemble each other share none. So votes propose pairs, and they tell which of the
descriptor's proposals are worth a closer look. A match counts for a pair of pictures together with the others that agree on
how much larger and by how much turned one is in the other (weak geometric consistency: Jégou, Douze & Schmid 2008,
"Hamming embedding and weak geometric consistency for large scale image search"), in the plain or in the mirrored picture.

Shapes: M pictures, V voters of a picture, Q voters that ask, K answers to each, P pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from ndd.files import atomic_path, make_directory
from ndd.stages.verify import Voters, VoterStore
from ndd.verify.glance import FEW
from ndd.verify.keypoints import BANDWIDTH, VOTERS, mirror_descriptors
from ndd.verify.words import NEAREST, mirrored_words, vocabulary

__all__ = ["LOUD", "PROPOSED", "Ballot", "Votes", "write_votes"]

Rows = NDArray[np.int64]

PROPOSED = 1.0
"""Votes from which a pair is thought of; whether it is worth a glance follows from its vectors too (`ndd.stages.match`)."""
LOUD = 6.0
"""Votes from which a pair needs no glance: patterns that repeat have many and yet few keypoints that lie alike."""

_ANSWERS = 4
_TURNS, _ZOOMS = 12, 16
_SHIFTS = ((0.0, 0.0), (0.5, 0.5), (0.0, 0.5), (0.5, 0.0))
"""Cells of one octave and 30° lie on four grids, so that what agrees is cut by the borders of at most three of them."""
_LARGEST = 8 * 2**20
"""Most keypoints in an index, 136 bytes each: of larger albums fewer of each picture, but at least `_LEAST`."""
_LEAST = 16
_BLOCK = 16_384


@dataclass(frozen=True, slots=True, eq=False)
class Ballot:
    """Votes of pictures for others, sorted: asked, found (P,) picture numbers, and votes (P,)."""

    asked: Rows
    found: Rows
    votes: NDArray[np.float64]

    def of(self, asked: Rows, found: Rows) -> NDArray[np.float64]:
        """(P,) votes of each `asked` picture for each `found` one; 0 where there were none."""
        known, wanted = (a * np.int64(2**32) + b for a, b in ((self.asked, self.found), (asked, found)))
        at = np.minimum(np.searchsorted(known, wanted), max(len(known) - 1, 0))
        if not len(known):
            return np.zeros(len(wanted))
        return np.where(known[at] == wanted, self.votes[at], 0.0)

    def proposals(self, *, most: int) -> Rows:
        """(P, 2) the pairs that the votes propose, at most `most` of each picture that was asked."""
        heard = np.flatnonzero(self.votes >= PROPOSED)
        order = heard[np.lexsort((self.found[heard], -self.votes[heard], self.asked[heard]))]
        rank = np.arange(len(order)) - np.searchsorted(self.asked[order], self.asked[order])
        chosen = order[rank < most]
        return np.stack([self.asked[chosen], self.found[chosen]], axis=1)


def write_votes(directory: Path, ids: Sequence[str], store: VoterStore, *, sides: NDArray[np.integer]) -> int:
    """Index the voters of pictures 0…M−1 (`ids`), those of each side by itself; how many voters there are in all."""
    make_directory(directory)
    most = int(np.clip(_LARGEST // max(len(ids), 1), _LEAST, VOTERS))
    poses = np.zeros((len(ids), most, 2), np.uint8)
    counts = np.zeros((len(ids), 2), np.uint16)
    total = 0
    for side in np.unique(sides):
        index = _empty_index()
        for rows in _blocks(np.flatnonzero(sides == side), _BLOCK // most):
            known = [(row, voters) for row in rows if (voters := store.voters(ids[row], most=most)) is not None]
            for row, voters in known:
                poses[row, : len(voters.angles)] = _pose(voters)
                counts[row] = len(voters.angles), voters.keypoints
            total += _add(index, known, most=most)
        with atomic_path(directory / f"{side}.faiss") as temporary:
            faiss.write_index(index, str(temporary))
    for name, values in (("poses", poses), ("counts", counts)):
        with atomic_path(directory / f"{name}.npy") as temporary, temporary.open("wb") as file:
            np.save(file, values)
    return total


class Votes:
    """The indexed voters, mapped into memory: any number of workers share what the page cache holds of them."""

    def __init__(self, directory: Path, ids: Sequence[str], store: VoterStore) -> None:
        """directory: as `write_votes` left it, for the same ids."""
        self._ids, self._store = ids, store
        self._poses = np.load(directory / "poses.npy", mmap_mode="r")
        self._counts = np.load(directory / "counts.npy")
        self._indexes = {
            int(path.stem): faiss.read_index(str(path), faiss.IO_FLAG_MMAP)
            for path in sorted(directory.glob("*.faiss"))
        }

    def silent(self, rows: Rows) -> NDArray[np.bool_]:
        """Whether each picture has too few keypoints for its silence to mean anything."""
        return np.asarray(self._counts[rows, 1] < FEW)

    def ballot(self, asked: Rows, *, side: int) -> Ballot:
        """The votes of the `asked` pictures for those of `side`. Depends on no other picture that is asked with them."""
        index, most = self._indexes.get(side), self._poses.shape[1]
        parts = []
        for rows in _blocks(asked, max(1, _BLOCK // most)):
            known = [(row, v) for row in rows if (v := self._store.voters(self._ids[row], most=most)) is not None]
            known = [(row, v) for row, v in known if len(v.words)]
            if known and index is not None:
                parts.append(self._ask(index, known))
        empty = np.zeros(0, np.int64)
        if not parts:
            return Ballot(empty, empty, np.zeros(0))
        keys, votes = (np.concatenate(values) for values in zip(*parts, strict=True))
        order = np.argsort(keys, kind="stable")
        return Ballot(keys[order] >> 32, keys[order] & 0xFFFF_FFFF, votes[order])

    def _ask(self, index: Any, known: Sequence[tuple[int, Voters]]) -> tuple[Rows, NDArray[np.float64]]:
        owner = np.repeat([row for row, _ in known], [len(voters.words) for _, voters in known])
        descriptors = np.concatenate([voters.descriptors for _, voters in known])
        words = np.concatenate([voters.words for _, voters in known])
        octaves = np.concatenate([voters.octaves for _, voters in known]).astype(np.float64)
        angles = np.concatenate([voters.angles for _, voters in known]).astype(np.float64)
        parts = []
        for mirrored in (False, True):
            distances, found = index.search_preassigned(
                (mirror_descriptors(descriptors) if mirrored else descriptors).astype(np.float32),
                _ANSWERS,
                (mirrored_words(words) if mirrored else words).astype(np.int64),
                None,
            )
            seen = np.pi - angles if mirrored else angles
            parts.append(self._count(owner, octaves, seen, found, distances))
        keys, votes = (np.concatenate(values) for values in zip(*parts, strict=True))
        return _most(keys, votes)

    def _count(
        self,
        owner_Q: Rows,
        octaves_Q: NDArray[np.float64],
        angles_Q: NDArray[np.float64],
        found_QK: Rows,
        distances_QK: NDArray[np.float32],
    ) -> tuple[Rows, NDArray[np.float64]]:
        """Keys (picture that asks << 32 | picture found), ascending, and the most votes that agree on a zoom and a turn."""
        most = self._poses.shape[1]
        asks = np.repeat(np.arange(len(owner_Q)), found_QK.shape[1])
        found, distances = found_QK.ravel(), distances_QK.ravel().astype(np.float64)
        picture = found // most
        good = (found >= 0) & (picture != owner_Q[asks])
        asks, found, distances, picture = asks[good], found[good], distances[good], picture[good]
        # A voter has one vote for each picture, its nearest: repeated patterns would stuff the ballot.
        order = np.lexsort((distances, picture, asks))
        asks, found, distances, picture = asks[order], found[order], distances[order], picture[order]
        first = np.ones(len(asks), bool)
        first[1:] = (asks[1:] != asks[:-1]) | (picture[1:] != picture[:-1])
        asks, found, distances, picture = asks[first], found[first], distances[first], picture[first]
        octave, angle = _unpose(self._poses[picture, found % most])
        zoom, turn = octave - octaves_Q[asks], (angle - angles_Q[asks]) / (2 * np.pi) % 1.0
        keys, worth = (owner_Q[asks] << 32) | picture, np.exp(-distances / BANDWIDTH)
        parts = []
        for along, around in _SHIFTS:
            cell = np.clip(np.floor(zoom + along), -_ZOOMS // 2, _ZOOMS // 2 - 1).astype(np.int64) + _ZOOMS // 2
            cell = cell * _TURNS + np.floor(turn * _TURNS + around).astype(np.int64) % _TURNS
            order = np.lexsort((cell, keys))
            sorted_keys, sorted_cells = keys[order], cell[order]
            starts = np.flatnonzero(
                np.r_[True, (sorted_keys[1:] != sorted_keys[:-1]) | (sorted_cells[1:] != sorted_cells[:-1])]
            )
            if len(order):
                parts.append((sorted_keys[starts], np.add.reduceat(worth[order], starts)))
        if not parts:
            return np.zeros(0, np.int64), np.zeros(0)
        return _most(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def _most(keys: Rows, votes: NDArray[np.float64]) -> tuple[Rows, NDArray[np.float64]]:
    """Each key once, with the most votes it has."""
    if not len(keys):
        return keys, votes
    order = np.argsort(keys, kind="stable")
    keys, votes = keys[order], votes[order]
    starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]])
    return keys[starts], np.maximum.reduceat(votes, starts)


def _empty_index() -> faiss.IndexIVFScalarQuantizer:
    words = vocabulary()
    quantizer = faiss.IndexFlatL2(words.shape[1])
    quantizer.add(words.astype(np.float32))
    # Bytes as they are: nothing to be trained, and distances are exact.
    kind = faiss.ScalarQuantizer.QT_8bit_direct
    index = faiss.IndexIVFScalarQuantizer(quantizer, words.shape[1], len(words), kind, faiss.METRIC_L2, False)
    index.is_trained = True
    index.nprobe = NEAREST
    return index


def _add(index: faiss.IndexIVFScalarQuantizer, known: Sequence[tuple[int, Voters]], *, most: int) -> int:
    known = [(row, voters) for row, voters in known if len(voters.words)]
    if not known:
        return 0
    descriptors = np.concatenate([voters.descriptors for _, voters in known]).astype(np.float32)
    ids = np.concatenate([row * most + np.arange(len(voters.words), dtype=np.int64) for row, voters in known])
    words = np.concatenate([voters.words[:, 0] for _, voters in known]).astype(np.int64)
    index.add_core(len(ids), faiss.swig_ptr(descriptors), faiss.swig_ptr(ids), faiss.swig_ptr(words))
    return len(ids)


def _blocks(rows: Rows, size: int) -> Iterator[Rows]:
    return (rows[start : start + size] for start in range(0, len(rows), size))


def _pose(voters: Voters) -> NDArray[np.uint8]:
    """(V, 2) octave in sixteenths from 2⁻¹² on, and angle in 256ths of a turn."""
    octave = np.clip(np.rint((voters.octaves.astype(np.float64) + 12.0) * 16.0), 0, 255)
    angle = np.rint(voters.angles.astype(np.float64) / (2 * np.pi) * 256.0) % 256
    return np.stack([octave, angle], axis=1).astype(np.uint8)


def _unpose(pose_P2: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    octave, angle = pose_P2[:, 0].astype(np.float64), pose_P2[:, 1].astype(np.float64)
    return octave / 16.0 - 12.0, angle / 256.0 * 2 * np.pi
