"""Photographs to make a comparison from, taken out of a library that may hold copies: none like another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ndd.config import DecodeLimits
from ndd.data.manifest import ManifestRow
from ndd.detector import Detector
from ndd.errors import DecodeError, InputError
from ndd.hashing import hamming
from ndd.index.base import cosine_distance
from ndd.known import KnownPicture
from pipelines.album import Photo
from pipelines.edits import FAMILIES
from pipelines.sources import read_source

__all__ = ["TooFewPictures", "copies_each", "unlike_photographs"]

_LEAST = 12
_APART, _BITS = 0.5, 60
"""Descriptor distance and hash bits below which two pictures might be copies: to leave a photograph out costs little, to
count a copy as a stranger costs the comparison."""
_BATCH = 16
_EACH, _FEWEST = 30, 3
"""Copies of each family that a comparison wants, or it cannot see a loss in one; copies of a photograph at least."""


class TooFewPictures(InputError):
    """A library is too small to compare two models on. Nobody's mistake: a schedule meets it until the library has grown."""


def copies_each(photos: int) -> int:
    """Edited copies of each of so many photographs: at most one of each family."""
    return min(max(-(-_EACH * len(FAMILIES) // max(photos, 1)), _FEWEST), len(FAMILIES))


def unlike_photographs(rows: Sequence[ManifestRow], model: Path, *, most: int) -> list[Photo]:
    """At most `most` pictures of `rows`, in the order of their content ids, each unlike those before it.

    Raises TooFewPictures where fewer than twelve are left.
    """
    detector, limits = Detector(model), DecodeLimits()
    kept: list[Photo] = []
    known: list[KnownPicture] = []
    contents = {row.id: row for row in sorted(rows, key=lambda row: row.id)}.values()
    waiting = list(contents)
    for start in range(0, len(waiting), _BATCH):
        some = []
        for row in waiting[start : start + _BATCH]:
            try:
                some.append((row, read_source(row.uri, limits=limits)))
            except DecodeError:
                continue  # ingest has read it; it has gone since
        for (row, content), picture in zip(some, detector.look_many([content for _, content in some]), strict=True):
            if isinstance(picture, DecodeError) or picture.facts["flat"] or not _unlike(picture, known):
                continue
            known.append(picture)
            kept.append(Photo(f"photo-{row.id[:16]}", content))
            if len(kept) == most:
                return kept
    if len(kept) < _LEAST:
        raise TooFewPictures(
            f"--data holds only {len(kept)} pictures that are held out and unlike one another, {_LEAST} are needed to compare "
            "two models; give more pictures"
        )
    return kept


def _unlike(picture: KnownPicture, others: Sequence[KnownPicture]) -> bool:
    if not others:
        return True
    vectors = np.concatenate([other.vector for other in others])
    distance = cosine_distance(np.repeat(picture.vector, len(vectors), axis=0), vectors)
    forms = np.stack([other.hashes for other in others])
    bits = hamming(picture.hashes[None, :1], forms).min(axis=1)
    return bool((distance > _APART).all() and (bits > _BITS).all())
