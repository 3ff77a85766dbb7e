"""What a learnt descriptor has to beat: perceptual hashes, matched keypoints and ImageNet features, as rankings of pairs.

Each method yields `rows(start, stop)`, the scores of a block of pictures against all N (higher = more alike), which
`ndd.metrics.retrieval.evaluate_groups` takes: two methods measured on one album differ in nothing but their scores.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from ndd.metrics.retrieval import ScoreRows

__all__ = [
    "RATIO",
    "cosine_rows",
    "dhash",
    "dihedral_rows",
    "hamming_pairs",
    "hamming_rows",
    "phash",
    "sift",
    "sift_pairs",
    "sift_scores",
    "thumbnails",
]

RATIO = 0.75
"""A match counts if its distance is below this share of the second nearest's (Lowe 2004, section 7.1)."""


def phash(pixels: NDArray[np.uint8], *, size: int = 16) -> NDArray[np.uint8]:
    """DCT hash of (H,W,3) uint8 RGB → (size² / 8,) packed bits.

    Luma at 4·size, its DCT, the `size` × `size` lowest frequencies against their median (Zauner 2010, as in the
    ImageHash library, which scales with Lanczos where this averages areas). `size` is a multiple of 4.
    """
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    side = 4 * size
    shrinks = min(grey.shape) >= side
    small = cv2.resize(grey, (side, side), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    low = cv2.dct(small.astype(np.float32))[:size, :size]
    return np.packbits(low.ravel() > np.median(low))


def dhash(pixels: NDArray[np.uint8], *, size: int = 8) -> NDArray[np.uint8]:
    """Difference hash of (H,W,3) uint8 RGB → (size² / 8,) packed bits: is each cell of a grey `size` × (size + 1)
    thumbnail darker than its right neighbour (Krawetz 2013)? `size` is a multiple of 8."""
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (size + 1, size), interpolation=cv2.INTER_AREA).astype(np.int16)
    return np.packbits((small[:, 1:] > small[:, :-1]).ravel())


def thumbnails(pixels: NDArray[np.uint8], *, size: int = 8) -> NDArray[np.float32]:
    """A descriptor without learning, of unit length: what a picture looks like from afar (Torralba et al. 2008, "80 million
    tiny images"), in colour, and its mean gradient in each cell. (5 · size²,) float32."""
    small = cv2.resize(pixels, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32) / 255.0
    grey = cv2.cvtColor(cv2.resize(pixels, (8 * size, 8 * size), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
    slopes = [np.abs(cv2.Sobel(grey, cv2.CV_32F, dx, 1 - dx)) / 255.0 for dx in (0, 1)]
    cells = [cv2.resize(slope, (size, size), interpolation=cv2.INTER_AREA).ravel() for slope in slopes]
    whole = np.concatenate([(small - small.mean()).ravel(), *cells])
    return np.asarray(whole / max(float(np.linalg.norm(whole)), 1e-6), np.float32)


def sift(pixels: NDArray[np.uint8], *, side: int = 480, most: int = 1000) -> NDArray[np.float32]:
    """SIFT descriptors (K, 128) of (H,W,3) uint8 RGB whose longer side is brought to `side` pixels, the `most` strongest.

    A low contrast threshold, so that ordinary photographs have 500 and more.
    """
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    factor = side / max(grey.shape)
    size = (max(1, round(grey.shape[1] * factor)), max(1, round(grey.shape[0] * factor)))
    scaled = cv2.resize(grey, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)
    finder = cv2.SIFT_create(nfeatures=most, contrastThreshold=0.01)  # type: ignore[attr-defined]
    _, descriptors = finder.detectAndCompute(scaled, None)
    return np.zeros((0, 128), np.float32) if descriptors is None else np.asarray(descriptors, np.float32)


def sift_scores(described: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Descriptors (K, 128) of N pictures → (N, N) numbers of matches by FLANN that pass the ratio test.

    A pair counts by the better of its two directions. Seeded, so that the k-d trees are the same in every run.
    """
    scores = np.zeros((len(described), len(described)), np.float32)
    cv2.setRNGSeed(0)
    for at, trained in enumerate(described):
        if len(trained) < 2:
            continue
        matcher = cv2.FlannBasedMatcher({"algorithm": 1, "trees": 4}, {"checks": 32})
        matcher.add([trained])
        matcher.train()
        for other, asked in enumerate(described):
            if other != at and len(asked):
                nearest = matcher.knnMatch(asked, k=2)
                scores[other, at] = sum(first.distance < RATIO * second.distance for first, second in nearest)
    return np.maximum(scores, scores.T)


def sift_pairs(
    described: Sequence[NDArray[np.uint8]], left: NDArray[np.int64], right: NDArray[np.int64]
) -> NDArray[np.float64]:
    """As `sift_scores`, for the pairs (left, right) alone: (P,). described: descriptors (K, 128), whole numbers up to 255."""
    scores = np.zeros(len(left), np.float64)
    cv2.setRNGSeed(0)
    wanted: dict[int, list[tuple[int, int]]] = {}
    for at, (a, b) in enumerate(zip(left.tolist(), right.tolist(), strict=True)):
        wanted.setdefault(a, []).append((b, at))
        wanted.setdefault(b, []).append((a, at))
    for trained, asked in sorted(wanted.items()):
        if len(described[trained]) < 2:
            continue
        matcher = cv2.FlannBasedMatcher({"algorithm": 1, "trees": 4}, {"checks": 32})
        matcher.add([described[trained].astype(np.float32)])
        matcher.train()
        for other, at in asked:
            if len(described[other]):
                nearest = matcher.knnMatch(described[other].astype(np.float32), k=2)
                found = sum(first.distance < RATIO * second.distance for first, second in nearest)
                scores[at] = max(scores[at], found)
    return scores


def hamming_pairs(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(P, B) and (P, B) packed bits → (P,) minus the Hamming distance."""
    return np.asarray(-np.bitwise_count(left ^ right).sum(axis=1, dtype=np.int64), np.float64)


def hamming_rows(hashes: NDArray[np.uint8]) -> ScoreRows:
    """hashes (N, B) packed bits, B a multiple of 8 → rows of minus the Hamming distance."""
    words = _words(hashes)
    return lambda start, stop: -_distances(words[start:stop], words).astype(np.float32)


def dihedral_rows(hashes: NDArray[np.uint8]) -> ScoreRows:
    """hashes (N, 8, B): form 0 as it is, then its quarter turns and mirrors → rows of minus the least distance.

    The least over the eight forms of either picture against the other as it is: rotating one or the other need not
    give the same bits, and the score of a pair has no order.
    """
    words = _words(hashes)
    upright = np.ascontiguousarray(words[:, 0])

    def rows(start: int, stop: int) -> NDArray[np.float32]:
        least = np.full((stop - start, len(words)), np.iinfo(np.int32).max, np.int32)
        for form in range(words.shape[1]):
            np.minimum(least, _distances(upright[start:stop], words[:, form]), out=least)
            np.minimum(least, _distances(words[start:stop, form], upright), out=least)
        return -least.astype(np.float32)

    return rows


def cosine_rows(vectors: NDArray[np.floating]) -> ScoreRows:
    """vectors (N, D), any norm → rows of cosines. Raises ValueError for a vector of length zero."""
    held = np.ascontiguousarray(vectors, np.float32)
    norms = np.linalg.norm(held, axis=1, keepdims=True)
    if not (norms > 0).all():
        raise ValueError(f"vector {int(np.flatnonzero(norms[:, 0] == 0)[0])} is zero: it has no direction")
    held = held / norms
    return lambda start, stop: held[start:stop] @ held.T


def _words(hashes: NDArray[np.uint8]) -> NDArray[np.uint64]:
    if hashes.dtype != np.uint8 or hashes.shape[-1] % 8:
        raise ValueError(f"hashes must be packed bits in whole 64-bit words, got {hashes.shape} {hashes.dtype}")
    return np.ascontiguousarray(hashes).view(np.uint64)


def _distances(left: NDArray[np.uint64], right: NDArray[np.uint64]) -> NDArray[np.int32]:
    total = np.zeros((len(left), len(right)), np.int32)
    for word in range(left.shape[1]):  # word by word: a third axis would cost eight times the memory
        total += np.bitwise_count(left[:, None, word] ^ right[None, :, word])
    return total
