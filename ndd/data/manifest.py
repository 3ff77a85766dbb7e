"""The manifest: what there is to work on, one row per readable picture file, and splits that do not leak.

Identity is content: `id` is the sha256 of the file's bytes. Two files with the same bytes are two rows with one id.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa

from ndd.config import check
from ndd.data.uris import text_to_uri, uri_to_text
from ndd.errors import SchemaError
from ndd.parquet import column, read_table, write_table
from ndd.types import Failure, ImageId

__all__ = [
    "MANIFEST",
    "ManifestRow",
    "Split",
    "assign_splits",
    "fold_of",
    "join_groups",
    "k_folds",
    "manifest_digest",
    "read_manifest",
    "read_uris",
    "split_of",
    "write_manifest",
]

MANIFEST = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("format", pa.string(), nullable=False),
        pa.field("taken", pa.string()),
        pa.field("split", pa.string()),
        pa.field("group", pa.string()),
    ]
)
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Split(StrEnum):
    """Which side of the train/test cut a picture is on."""

    TRAIN = "train"
    TEST = "test"


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestRow:
    """One picture file.

    uri: what to open. path: its name in every output, unique. size: bytes. width, height: pixels, upright (after EXIF
    orientation). format: "JPEG", "PNG" … taken: EXIF DateTimeOriginal, ISO 8601, or None. split: None before a cut.
    group: what must stay on one side of any cut (pictures of one subject, say); None: the content by itself.
    """

    id: ImageId
    uri: str
    path: str
    size: int
    width: int
    height: int
    format: str
    taken: str | None = None
    split: Split | None = None
    group: str | None = None

    @property
    def sha256(self) -> str:
        """sha256 of the file's bytes; the same as `id`, under the name that other tools look for."""
        return str(self.id)


def write_manifest(path: str | os.PathLike[str], rows: Sequence[ManifestRow]) -> Path:
    """Write `rows` sorted by path, atomically; the same rows in any order give the same bytes.

    Raises SchemaError for a path that comes twice, an id that is no sha256, a size that is not positive, a date that is
    not ISO 8601, or pictures with the same bytes on both sides of the train/test cut.
    """
    where = str(path)
    ordered = sorted(rows, key=lambda row: row.path)
    _check(ordered, where)
    values = [{name: getattr(row, name) for name in MANIFEST.names} | {"uri": uri_to_text(row.uri)} for row in ordered]
    arrays = [column([v[f.name] for v in values], f.type, name=f.name, where=where) for f in MANIFEST]
    return write_table(path, pa.Table.from_arrays(arrays, schema=MANIFEST))


def read_manifest(path: str | os.PathLike[str]) -> list[ManifestRow]:
    """The rows at `path`, sorted by path. Raises InputError, SchemaError as `write_manifest`."""
    rows = []
    for i, values in enumerate(read_table(path, MANIFEST).to_pylist()):
        if values.pop("sha256") != values["id"]:
            raise SchemaError(f"{path}, row {i} {values['path']!r}: sha256 differs from id; ingest the pictures again")
        values["uri"] = text_to_uri(values["uri"])
        values["split"] = _split(values["split"], f"{path}, row {i} {values['path']!r}")
        rows.append(ManifestRow(**values))
    _check(rows, str(path))
    return rows


def read_uris(path: str | os.PathLike[str]) -> Any:
    """What to open for each row, as an Arrow array of text (see `ndd.data.uris.text_to_uri`): for runs over millions."""
    return read_table(path, MANIFEST).column("uri").combine_chunks()


def manifest_digest(rows: Iterable[ManifestRow], *, failures: Iterable[Failure] = ()) -> str:
    """sha256 (hex) of what a run reads: every path with its content and split, and every failure; any order.

    Size, pixels and date follow from the content. The uri is left out: an album that moved is the same album. Failures
    count because outputs list them: a repaired file changes the digest, and so does one that broke.
    """
    lines = [json.dumps(["picture", row.path, row.id, row.split, *([row.group] if row.group else [])]) for row in rows]
    lines += [json.dumps(["failure", row.path, row.stage, row.reason]) for row in failures]
    digest = hashlib.sha256()
    for line in sorted(lines):
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()


def split_of(group: str, *, test: float = 0.2, seed: int = 0) -> Split:
    """The side of the cut that a group is on: a share `test` of all groups, chosen by a stable hash.

    It depends on nothing but the arguments: pictures that come later move no group, whatever the machine.
    """
    check(0.0 < test < 1.0, f"test is the share held out, between 0 and 1, got {test}")
    return Split.TEST if _hash("split", group, seed) < test * 2.0**64 else Split.TRAIN


def fold_of(group: str, *, folds: int, seed: int = 0) -> int:
    """The fold of a group, in 0 … folds − 1, by a stable hash that is independent of `split_of`."""
    check(folds >= 2, f"folds must be at least 2, got {folds}")
    return _hash("fold", group, seed) % folds


def assign_splits(
    rows: Iterable[ManifestRow], *, groups: Mapping[str, str] | None = None, test: float = 0.2, seed: int = 0
) -> list[ManifestRow]:
    """`rows` with their split, whole groups on one side.

    groups: path → a lasting name of its group (say, the name of the original); None: the group that the row has, else its
    content. Raises SchemaError for a path without a group, or if files with the same bytes are in two groups (it would leak).
    """
    return [
        replace(row, split=split_of(group, test=test, seed=seed), group=None if group == row.id else group)
        for row, group in _grouped(rows, groups)
    ]


def k_folds(
    rows: Iterable[ManifestRow], *, folds: int, groups: Mapping[str, str] | None = None, seed: int = 0
) -> list[tuple[list[ManifestRow], list[ManifestRow]]]:
    """(train, held out) for each of `folds` folds; each row is held out exactly once, whole groups together.

    Raises as `assign_splits`.
    """
    numbered = [(row, fold_of(group, folds=folds, seed=seed)) for row, group in _grouped(rows, groups)]
    return [([r for r, n in numbered if n != k], [r for r, n in numbered if n == k]) for k in range(folds)]


def join_groups(groups: Sequence[str], links: Iterable[tuple[int, int]]) -> list[str]:
    """The group of each place once the groups of linked places are one, which goes by the smallest of their names."""
    leader = {group: group for group in groups}

    def lead(group: str) -> str:
        while leader[group] != group:
            leader[group] = group = leader[leader[group]]
        return group

    for a, b in links:
        low, high = sorted((lead(groups[a]), lead(groups[b])))
        leader[high] = low
    return [lead(group) for group in groups]


def _hash(purpose: str, group: str, seed: int) -> int:
    """64 uniform bits."""
    text = json.dumps([purpose, seed, group])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _grouped(rows: Iterable[ManifestRow], groups: Mapping[str, str] | None) -> list[tuple[ManifestRow, str]]:
    result = []
    first: dict[ImageId, tuple[str, str]] = {}
    for row in rows:
        if groups is not None and row.path not in groups:
            raise SchemaError(f"{row.path!r}: is in no group; give every picture of the manifest a group")
        group = (row.group or row.id) if groups is None else groups[row.path]
        other, path = first.setdefault(row.id, (group, row.path))
        if other != group:
            raise SchemaError(
                f"{row.path!r} in group {group!r} has the same bytes as {path!r} in group {other!r}; join the groups"
            )
        result.append((row, group))
    return result


def _check(rows: Sequence[ManifestRow], where: str) -> None:
    splits: dict[ImageId, ManifestRow] = {}
    for i, row in enumerate(rows):
        problem = _problem(row)
        other = splits.setdefault(row.id, row)
        if other.split != row.split:
            problem = (
                f"same bytes as {other.path!r}, but one is {row.split or 'in no split'}, the other not; split by group"
            )
        if problem:
            raise SchemaError(f"{where}, row {i} {row.path!r}: {problem}")
    for i, (before, row) in enumerate(pairwise(rows), start=1):
        if not before.path < row.path:
            problem = "is there twice" if before.path == row.path else "is out of order"
            raise SchemaError(f"{where}, row {i} {row.path!r}: {problem}; write each path once, sorted")


def _problem(row: ManifestRow) -> str | None:
    if not _SHA256.fullmatch(row.id):
        return f"id is {row.id!r}; expected 64 lower-case hexadecimal digits"
    for name in ("size", "width", "height"):
        if getattr(row, name) < 1:
            return f"{name} is {getattr(row, name)}; expected at least 1"
    if row.taken is not None:
        try:
            datetime.fromisoformat(row.taken)
        except ValueError:
            return f"taken is {row.taken!r}; expected ISO 8601"
    return None


def _split(text: Any, where: str) -> Split | None:
    try:
        return None if text is None else Split(text)
    except ValueError:
        raise SchemaError(f"{where}: split is {text!r}; expected one of {', '.join(Split)}") from None
