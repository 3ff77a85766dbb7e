"""`python -m pipelines words`: learn the vocabulary of visual words that comes with ndd from photographs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ndd.errors import InputError
from ndd.files import atomic_path
from ndd.images import decode
from ndd.verify.keypoints import extract
from ndd.verify.words import VOCABULARY
from pipelines.album import Photo, read_photos, read_tar

__all__ = ["add_arguments", "learn", "run"]

_EACH = 48
"""Keypoints taken of each photograph, at random."""
_ROUNDS = 12
_LEAST = 40
"""Keypoints for each word below which k-means would learn noise."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("photos", type=Path, help="folder or tar of photographs")
    parser.add_argument("--out", type=Path, default=VOCABULARY, help="file to write (default: the one ndd reads)")
    parser.add_argument("--words", type=int, default=512, help="words; each has its mirror image besides (default 512)")
    parser.add_argument("--limit", type=int, default=1500, help="photographs used, the first by name (default 1500)")
    parser.add_argument("--seed", type=int, default=1, help="of the keypoints drawn and of k-means (default 1)")


def run(arguments: argparse.Namespace) -> int:
    """Learn, write, say from what; the exit code."""
    place: Path = arguments.photos
    found = read_tar(place) if place.suffix == ".tar" else read_photos(place)
    photos = sorted(found, key=lambda photo: photo.name)[: arguments.limit]
    words = learn(photos, words=arguments.words, seed=arguments.seed)
    with atomic_path(arguments.out) as temporary, temporary.open("wb") as file:
        np.save(file, words)
    sys.stdout.write(f"{arguments.out}: {len(words)} words from {len(photos)} photographs\n")
    return 0


def learn(photos: list[Photo], *, words: int, seed: int) -> npt.NDArray[np.uint8]:
    """(words, 128) uint8 centres of the keypoints of `photos`, by k-means. InputError if there are too few keypoints."""
    import faiss

    rng = np.random.default_rng(seed)
    drawn = [np.zeros((0, 128), np.uint8)]
    for photo in photos:
        descriptors = extract(decode(photo.content).pixels).descriptors
        drawn.append(descriptors[rng.permutation(len(descriptors))[:_EACH]])
    seen = np.concatenate(drawn).astype(np.float32)
    if len(seen) < _LEAST * words:
        raise InputError(
            f"{len(photos)} photographs: {len(seen)} keypoints for {words} words, at least {_LEAST * words} are needed; "
            "give more photographs, or ask for fewer words"
        )
    means = faiss.Kmeans(seen.shape[1], words, niter=_ROUNDS, seed=seed, max_points_per_centroid=len(seen) // words + 1)
    means.train(seen)
    centres: Any = means.centroids
    return np.asarray(np.clip(np.rint(centres), 0, 255), np.uint8)
