"""The truth that a model is judged by, from a table that somebody wrote: read strictly, because a wrong truth passes
unnoticed otherwise. Every error names the table and the line.

    groups.csv    image, group [, note, severity]     pictures of one group are duplicates; an empty group: of nothing
    pairs.csv     left, right, label                   label: 1, duplicate, true, yes · 0, distinct, false, no

Paths are below the table's folder.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ndd.errors import SchemaError
from pipelines.album import Album, AlbumImage

__all__ = ["LabelledPair", "Truth", "read_truth"]

_ALONE = ("single", "distractor", "hard negative", "lookalike")
"""Notes by which a table says that a picture has no copy."""
_DUPLICATE = frozenset(("1", "duplicate", "true", "yes"))
_DISTINCT = frozenset(("0", "distinct", "false", "no"))


@dataclass(frozen=True, slots=True)
class LabelledPair:
    """Two different pictures, by their numbers in the album."""

    left: int
    right: int
    duplicate: bool


@dataclass(frozen=True, eq=False)
class Truth:
    """album: the pictures, those of one group joined by duplicates. pairs: the labelled ones; None where the groups say
    it of every pair."""

    album: Album
    pairs: tuple[LabelledPair, ...] | None


def read_truth(table: Path) -> Truth:
    """Read groups.csv or pairs.csv, whatever its name, by its columns. Raises SchemaError naming the line."""
    lines = list(_lines(table))
    header = lines[0][1] if lines else {}
    if {"image", "group"} <= header.keys():
        return _groups(table, lines)
    if {"left", "right", "label"} <= header.keys():
        return _pairs(table, lines)
    if not lines:
        raise SchemaError(f"{table}: holds no row; give it a header (image,group or left,right,label) and the truth")
    raise SchemaError(
        f"{table}, line 1: expected the columns image, group or left, right, label; got {', '.join(header)}"
    )


def _lines(table: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """(line, cells) of every row."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restkey="", restval="")
            for row in reader:
                if "" in row:
                    raise SchemaError(f"{table}, line {reader.line_num}: has more cells than the header; quote commas")
                yield reader.line_num, {str(key).strip(): value for key, value in row.items()}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SchemaError(
            f"{table}: cannot be read as CSV in UTF-8 ({error}); name a groups.csv or pairs.csv"
        ) from None


def _groups(table: Path, lines: Sequence[tuple[int, Mapping[str, str]]]) -> Truth:
    at: dict[str, int] = {}
    members: dict[str, list[int]] = {}
    rows = []
    for line, cells in lines:
        image = _image(table, line, cells["image"])
        if image in at:
            raise SchemaError(f"{table}, line {line}: {image} is in line {at[image]} already; name a picture once")
        at[image] = line
        note, group = cells.get("note", "").strip(), cells["group"].strip()
        if group:
            members.setdefault(group, []).append(line)
        rows.append((line, AlbumImage(image, group, note, _severity(table, line, cells.get("severity", "")))))
    for line, row in rows:
        alone = len(members.get(row.group, ())) == 1
        if alone and not row.note.lower().startswith(_ALONE):
            raise SchemaError(
                f"{table}, line {line}: {row.image} is alone in group {row.group!r}; leave the group empty, or note "
                "`single`, if it has no copy"
            )
    if not any(len(lines) > 1 for lines in members.values()):
        raise SchemaError(
            f"{table}: no two pictures share a group, so there is nothing to find; name groups of two or more"
        )
    # A picture without a group is a group by itself; no name of a group holds a line feed.
    named = tuple(
        row if row.group else AlbumImage(row.image, f"\n{row.image}", row.note or "single", row.severity)
        for _, row in rows
    )
    return Truth(Album(table.parent.absolute(), named), None)


def _pairs(table: Path, lines: Sequence[tuple[int, Mapping[str, str]]]) -> Truth:
    at: dict[str, int] = {}
    labels: dict[frozenset[int], tuple[int, bool]] = {}
    pairs = []
    for line, cells in lines:
        ends = [_image(table, line, cells[side]) for side in ("left", "right")]
        if ends[0] == ends[1]:
            raise SchemaError(f"{table}, line {line}: {ends[0]} is paired with itself; name two pictures")
        left, right = (at.setdefault(image, len(at)) for image in ends)
        duplicate = _label(table, line, cells["label"])
        known = labels.setdefault(frozenset((left, right)), (line, duplicate))
        if known[0] != line:
            says = "the same" if known[1] == duplicate else "the opposite"
            raise SchemaError(
                f"{table}, line {line}: {ends[0]} – {ends[1]}: line {known[0]} says {says}; name a pair once"
            )
        pairs.append(LabelledPair(left, right, duplicate))
    for kind in (True, False):
        if not any(pair.duplicate is kind for pair in pairs):
            raise SchemaError(
                f"{table}: no pair is labelled {'duplicate' if kind else 'distinct'}; both kinds are needed"
            )
    images = list(at)
    roots = _joined(len(images), [(pair.left, pair.right) for pair in pairs if pair.duplicate])
    rows = tuple(AlbumImage(image, images[root], "") for image, root in zip(images, roots, strict=True))
    return Truth(Album(table.parent.absolute(), rows), tuple(pairs))


def _image(table: Path, line: int, text: str) -> str:
    image = text.strip()
    if not image:
        raise SchemaError(f"{table}, line {line}: names no picture; fill the cell or remove the line")
    if not (table.parent / image).is_file():
        raise SchemaError(f"{table}, line {line}: {image} is not there; paths are below {table.parent}")
    return image


def _label(table: Path, line: int, text: str) -> bool:
    label = text.strip().lower()
    if label not in _DUPLICATE | _DISTINCT:
        raise SchemaError(f"{table}, line {line}: label {text!r}; expected 1 or duplicate, 0 or distinct")
    return label in _DUPLICATE


def _severity(table: Path, line: int, text: str) -> float | None:
    try:
        value = float(text) if text.strip() else None
    except ValueError:
        value = -1.0
    if value is not None and not 0.0 <= value <= 1.0:
        raise SchemaError(f"{table}, line {line}: severity {text!r}; expected a number in 0…1, or nothing")
    return value


def _joined(count: int, links: Sequence[tuple[int, int]]) -> list[int]:
    """The smallest number of each one's connected component."""
    root = list(range(count))

    def find(x: int) -> int:
        while root[x] != x:
            root[x] = root[root[x]]
            x = root[x]
        return x

    for a, b in links:
        low, high = sorted((find(a), find(b)))
        root[high] = low
    return [find(x) for x in range(count)]
