"""Geometric evidence for candidates: keypoints once per picture, then one comparison per pair.

Shapes: K keypoints of a picture, P pairs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ndd.errors import DecodeError
from ndd.files import atomic_path, make_directory
from ndd.images import Pixels
from ndd.types import Failure, ImageId, pair_id
from ndd.verify.geometry import GeometricEvidence, verify
from ndd.verify.keypoints import VOTERS, VOTING_SIDE, Keypoints, extract, grey_within
from ndd.verify.score import PairEvidence
from ndd.verify.words import NEAREST, words_of

__all__ = [
    "SETTLED_BITS",
    "SETTLED_DISTANCE",
    "SETTLED_QUALITY",
    "KeypointStore",
    "VoterStore",
    "Voters",
    "compare",
    "evidence_values",
    "from_text",
    "needs_keypoints",
    "to_text",
]

SETTLED_BITS = 8
"""Perceptual hashes this near (of 256 bits) …"""
SETTLED_DISTANCE = 0.03
"""… with descriptors this near (a picture darkened to .55: .04 to .17) …"""
SETTLED_QUALITY = 80
"""… of two pictures with this much structure are the same picture encoded anew: keypoints would not change that."""

_ARRAYS = {"points": np.float32, "scales": np.float32, "angles": np.float32, "descriptors": np.uint8, "thumb": np.uint8}
_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("thumb_width", pa.int32()),
        *((name, pa.binary()) for name in _ARRAYS),
        ("words", pa.binary()),
        ("stage", pa.string()),
        ("reason", pa.string()),
    ]
)


def needs_keypoints(
    distance_P: NDArray[np.float64],
    hash_bits_P: NDArray[np.integer],
    upright_P: NDArray[np.bool_],
    quality_P: NDArray[np.integer],
) -> NDArray[np.bool_]:
    """(P,) False where descriptor and hash settle the pair. upright: the nearest form of the hash is the unturned one.
    quality: of the poorer picture of the two."""
    near = (hash_bits_P <= SETTLED_BITS) & upright_P & (distance_P <= SETTLED_DISTANCE)
    return np.asarray(~(near & (quality_P >= SETTLED_QUALITY)))


def compare(left: Keypoints, right: Keypoints, *, left_id: ImageId, right_id: ImageId) -> GeometricEvidence:
    """What the keypoints of two pictures have in common; the seed follows from the pair's identity."""
    return verify(left, right, seed=int(pair_id(left_id, right_id)[:8], 16) & 0x7FFF_FFFF)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Voters:
    """What a picture's first V ≤ VOTERS keypoints (of its sketch, see `ndd.verify.keypoints.VOTING_SIDE`) ask with.

    descriptors: (V, 128) uint8. words: (V, 3), see `ndd.verify.words`. octaves: (V,) log2 of the blob's diameter as a
    share of the longer side. angles: (V,) radians. keypoints: how many of them there are.
    """

    descriptors: NDArray[np.uint8]
    words: NDArray[np.uint16]
    octaves: NDArray[np.float32]
    angles: NDArray[np.float32]
    keypoints: int


class KeypointStore:
    """Keypoints on disk, mapped into memory: any number of workers share what the page cache holds of them."""

    def __init__(self, directory: Path) -> None:
        """Chunks written later are not seen: make another store."""
        self._directory = directory
        self._tables: list[Any] = []
        self._at: dict[str, tuple[int, int]] = {}
        for path in sorted(directory.glob("[0-9a-f]*.arrow")):
            table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
            for row, name in enumerate(table.column("id").to_pylist()):
                self._at.setdefault(name, (len(self._tables), row))
            self._tables.append(table)

    def __contains__(self, id: str) -> bool:
        return id in self._at

    def add(self, pictures: Iterable[tuple[ImageId, Callable[[], Pixels]]]) -> int:
        """Extract and write the keypoints of pictures (id, how to get its pixels); how many. One chunk."""
        rows = [self._row(id, pixels) for id, pixels in pictures]
        self._add_words(rows)
        if rows:
            make_directory(self._directory)
            name = hashlib.sha256("\n".join(row["id"] for row in rows).encode()).hexdigest()[:32]
            path = self._directory / f"{name}.arrow"
            with atomic_path(path) as temporary, pa.ipc.new_file(str(temporary), _SCHEMA) as out:
                out.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA))
        return len(rows)

    def get(self, id: str) -> Keypoints | None:
        """The keypoints of a picture; None if they could not be had (see `failures`)."""
        table, row = self._at[id]
        values = {name: self._tables[table].column(name)[row] for name in _SCHEMA.names if name != "words"}
        if values["reason"].is_valid:
            return None
        flat = {name: np.frombuffer(values[name].as_buffer(), kind) for name, kind in _ARRAYS.items()}
        return Keypoints(
            points=flat["points"].reshape(-1, 2),
            scales=flat["scales"],
            angles=flat["angles"],
            descriptors=flat["descriptors"].reshape(-1, 128),
            thumb=flat["thumb"].reshape(-1, values["thumb_width"].as_py()),
            width=values["width"].as_py(),
            height=values["height"].as_py(),
        )

    def failures(self, paths: dict[str, str]) -> list[Failure]:
        """Pictures that could be read before and not any more. paths: id → path."""
        found = {}
        for table in self._tables:
            if table.column("reason").null_count < len(table):
                columns = (table.column(name).to_pylist() for name in ("id", "stage", "reason"))
                for id, stage, reason in zip(*columns, strict=True):
                    if reason is not None and id in paths:
                        found[id] = Failure(path=paths[id], stage=stage, reason=reason)
        return list(found.values())

    def _row(self, id: ImageId, pixels: Callable[[], Pixels]) -> dict[str, Any]:
        try:
            keys = self._extract(pixels())
        except DecodeError as error:
            return {"id": id, "stage": "verify", "reason": error.reason}
        arrays = {name: np.ascontiguousarray(getattr(keys, name), kind).tobytes() for name, kind in _ARRAYS.items()}
        sizes = {"width": keys.width, "height": keys.height, "thumb_width": keys.thumb.shape[1]}
        return {"id": id, **sizes, **arrays, "words": None, "stage": None, "reason": None}

    def _extract(self, pixels: Pixels) -> Keypoints:
        return extract(pixels)

    def _add_words(self, rows: list[dict[str, Any]]) -> None:
        """Keypoints that do not vote have none."""


class VoterStore(KeypointStore):
    """The few keypoints of every picture that vote, with their words."""

    def voters(self, id: str, *, most: int = VOTERS) -> Voters | None:
        """The first `most` keypoints of a picture; None if there are no keypoints of it."""
        table, row = self._at.get(id, (-1, -1))
        if table < 0 or self._tables[table].column("reason")[row].is_valid:
            return None
        of = {
            name: self._tables[table].column(name)[row].as_buffer()
            for name in ("descriptors", "words", "scales", "angles")
        }
        scales = np.frombuffer(of["scales"], np.float32)
        return Voters(
            descriptors=np.frombuffer(of["descriptors"], np.uint8).reshape(-1, 128)[:most],
            words=np.frombuffer(of["words"], np.uint16).reshape(-1, NEAREST)[:most],
            octaves=np.log2(np.maximum(scales[:most], 2.0**-20)),
            angles=np.frombuffer(of["angles"], np.float32)[:most],
            keypoints=len(scales),
        )

    def _extract(self, pixels: Pixels) -> Keypoints:
        # Of a sketch, which has that size already, and of whole pictures the same.
        return extract(grey_within(pixels, VOTING_SIDE), most=VOTERS)

    def _add_words(self, rows: list[dict[str, Any]]) -> None:
        """One search for all of a chunk: it costs three quarters of one for each picture, and each gets the same words."""
        good = [row for row in rows if row["reason"] is None]
        words = words_of(np.frombuffer(b"".join(row["descriptors"] for row in good), np.uint8).reshape(-1, 128))
        start = 0
        for row in good:
            count = len(row["descriptors"]) // 128
            row["words"] = words[start : start + count].tobytes()
            start += count


def evidence_values(evidence: PairEvidence) -> dict[str, Any]:
    """Evidence as JSON values, for tables and answers."""
    values: dict[str, Any] = {"hash_bits": evidence.hash_bits, "upright": evidence.upright}
    if evidence.hubness:
        values["hubness"] = evidence.hubness
    if evidence.flat:
        values["flat"] = True
    return values | ({} if evidence.geometry is None else evidence.geometry.to_dict())


def to_text(evidence: GeometricEvidence) -> str:
    """JSON, without the transform's long digits."""
    return json.dumps(evidence.to_dict(), separators=(",", ":"), allow_nan=False)


def from_text(text: str) -> GeometricEvidence:
    """The evidence that `to_text` wrote."""
    values = json.loads(text)
    transform: Sequence[Sequence[float]] | None = values.get("transform")
    if transform is not None:
        values["transform"] = tuple(tuple(row) for row in transform)
    return GeometricEvidence(**values)
