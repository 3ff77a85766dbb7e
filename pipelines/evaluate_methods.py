"""The methods of the comparison on one set of labelled pairs, each in a setting that is fair to it and said beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ndd.baselines import dhash, hamming_pairs, phash, sift, sift_pairs, thumbnails
from ndd.config import DecodeLimits
from ndd.detector import Detector
from ndd.errors import DecodeError
from ndd.hashing import pdq
from ndd.images import to_square
from ndd.known import KnownPicture
from ndd.model.directory import ModelDirectory
from ndd.model.teacher import load_teacher, teacher_features
from ndd.stages.decode import Decoder
from pipelines.album import Album
from pipelines.bench_methods import half_hubness
from pipelines.evaluate_pairs import PairSet

__all__ = ["Progress", "Scored", "cosine_pairs", "neutral_vectors", "rivals", "standout_pairs", "whole_detector"]

S = TypeVar("S")
T = TypeVar("T")
Progress = Callable[[int, int], None]
Scored = tuple[NDArray[np.float64], str]
"""Scores (P,) and the method's setting, for people."""

_SIFT_SIDE, _SIFT_MOST = 480, 1000
_TEACHER, _TEACHER_SIDE = "weights/mobilenetv2-imagenet-fp16.pth", 160
_BLOCK = 32


def neutral_vectors(
    album: Album, data: Path | None, *, progress: Progress | None = None
) -> tuple[NDArray[np.float32], str]:
    """(N, D) vectors of unit length by which hard strangers are chosen, and what they are.

    ImageNet features where the data folder has them, else coloured thumbnails with gradients: neither is compared.
    """
    decoder = Decoder(DecodeLimits(), size=_TEACHER_SIDE)
    weights = None if data is None else data / _TEACHER
    if weights is None or not weights.is_file():
        plain = _each(album, lambda path: thumbnails(decoder.pixels(path.read_bytes())), progress)
        return np.stack(plain), "thumbnails of 8 × 8 colours with gradients"
    teacher = load_teacher(weights)
    canvases = _each(album, lambda path: to_square(decoder.pixels(path.read_bytes()), _TEACHER_SIDE), progress)
    found = [
        teacher_features(teacher, np.stack(canvases[start : start + _BLOCK]))
        for start in range(0, len(canvases), _BLOCK)
    ]
    vectors = np.concatenate(found).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), "ImageNet MobileNetV2 features"


def cosine_pairs(vectors: NDArray[np.floating], pairs: PairSet) -> NDArray[np.float64]:
    """(P,) cosines of the pairs' vectors."""
    wide = np.asarray(vectors, np.float64)
    wide = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    return np.asarray((wide[pairs.left] * wide[pairs.right]).sum(axis=1), np.float64)


def standout_pairs(vectors: NDArray[np.floating], pairs: PairSet, model: ModelDirectory) -> NDArray[np.float64]:
    """(P,) cosines less how near the two pictures are to strangers anyway, as a search weighs them."""
    half = half_hubness(vectors, model)
    return cosine_pairs(vectors, pairs) - half[pairs.left] - half[pairs.right]


def whole_detector(album: Album, pairs: PairSet, model: Path, *, progress: Progress | None = None) -> Scored:
    """Probabilities of the detector: descriptor, hash and keypoints, the pairs compared one by one as `ndd compare` does."""
    detector = Detector(model)
    used = np.unique(np.concatenate((pairs.left, pairs.right))).tolist()
    known: dict[int, KnownPicture] = {}
    for start in range(0, len(used), _BLOCK):
        block = used[start : start + _BLOCK]
        looked = detector.look_many([album.root / album.images[at].image for at in block])
        for at, picture in zip(block, looked, strict=True):
            if isinstance(picture, DecodeError):
                raise picture
            known[at] = picture

    def one(at: int) -> float:
        return detector.match(known[int(pairs.left[at])], known[int(pairs.right[at])]).score

    scores = _told(one, range(len(pairs)), progress)
    return np.array(scores, np.float64), "descriptor, PDQ in 8 forms, SIFT + RANSAC, calibrated"


def rivals(album: Album, pairs: PairSet, *, progress: Progress | None = None) -> Mapping[str, Scored]:
    """SIFT + FLANN and three perceptual hashes. The hashes see the same decoded pixels as the network."""
    decoder = Decoder(DecodeLimits(), size=_SIFT_SIDE)
    used = set(np.concatenate((pairs.left, pairs.right)).tolist())
    nothing = np.zeros((0, 128), np.uint8)

    def look(at: int) -> tuple[NDArray[np.uint8], ...]:
        if at not in used:
            return nothing, np.zeros(32, np.uint8), np.zeros(32, np.uint8), np.zeros(8, np.uint8)
        pixels = decoder.pixels((album.root / album.images[at].image).read_bytes())
        keys = sift(pixels, side=_SIFT_SIDE, most=_SIFT_MOST).astype(np.uint8)
        return keys, pdq(pixels)[0][0], phash(pixels), dhash(pixels)

    looked = _told(look, range(len(album.images)), progress)
    keys = [of[0] for of in looked]
    found = np.array([len(of) for at, of in enumerate(keys) if at in used])
    setting = (
        f"longer side {_SIFT_SIDE} px, {int(np.median(found))} keypoints in the middle picture (at most {_SIFT_MOST}, "
        f"{100 * float((found >= 500).mean()):.0f} % have 500), FLANN, ratio .75, matches in the better direction"
    )
    hashes = {
        "PDQ": (1, "256 bits, Hamming distance"),
        "pHash": (2, "256 bits (16 × 16), Hamming distance"),
        "dHash": (3, "64 bits (8 × 8), Hamming distance"),
    }
    methods = {"SIFT + FLANN": (sift_pairs(keys, pairs.left, pairs.right), setting)}
    for name, (column, said) in hashes.items():
        bits = np.stack([of[column] for of in looked])
        methods[name] = (hamming_pairs(bits[pairs.left], bits[pairs.right]), said)
    return methods


def _each(album: Album, look: Callable[[Path], T], progress: Progress | None) -> list[T]:
    return _told(look, [album.root / row.image for row in album.images], progress)


def _told(work: Callable[[S], T], items: Sequence[S], progress: Progress | None) -> list[T]:
    """`work` over the items on two threads, in order; `progress` hears of every one."""
    found = []
    with ThreadPoolExecutor(2) as pool:
        for at, answer in enumerate(pool.map(work, items), start=1):
            found.append(answer)
            if progress is not None:
                progress(at, len(items))
    return found
