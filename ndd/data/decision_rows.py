"""Decisions as rows: the columns, their checks, and CSV and Parquet files of them."""

from __future__ import annotations

import csv
import io
import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from ndd.errors import InputError, SchemaError, UsageError
from ndd.files import atomic_path
from ndd.parquet import column, read_schema, read_table, write_table
from ndd.types import Decision, Draw, ImageId, Relation, Verdict

__all__ = [
    "COLUMNS",
    "DECISIONS",
    "cells_of",
    "from_values",
    "one_line",
    "read_decisions",
    "sha256_id",
    "write_decisions",
]

DECISIONS = pa.schema(
    [
        pa.field("decision_id", pa.string(), nullable=False),
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("left_id", pa.string(), nullable=False),
        pa.field("right_id", pa.string(), nullable=False),
        pa.field("verdict", pa.string(), nullable=False),
        pa.field("relation", pa.string()),
        pa.field("reviewer", pa.string(), nullable=False),
        pa.field("time", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("embedding_digest", pa.string(), nullable=False),
        pa.field("scorer_digest", pa.string(), nullable=False),
        pa.field("draw", pa.string(), nullable=False),
        pa.field("p_draw", pa.float64(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("supersedes", pa.string()),
    ]
)
COLUMNS: tuple[str, ...] = tuple(DECISIONS.names)
DERIVED = frozenset({"decision_id", "pair_id"})
"""Columns that follow from the others: a file to import may leave them out; where they are there, they must fit."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_CONTROL = frozenset({"Cc", "Cs"})
_E = TypeVar("_E", bound=StrEnum)


def cells_of(decision: Decision, *, where: str) -> list[str]:
    """The row as text, in the order of COLUMNS; an absent value is empty. Raises SchemaError if it cannot be stored."""
    # The ids are digests of the other columns, so these are checked first.
    checked = from_values({n: getattr(decision, n) for n in COLUMNS if n not in DERIVED}, where=where)
    return [_text(getattr(checked, name)) for name in COLUMNS]


def from_values(values: Mapping[str, Any], *, where: str) -> Decision:
    """A decision from text or typed values. Raises SchemaError naming `where` and the column."""

    def take(name: str, read: Callable[[Any], Any]) -> Any:
        try:
            return read(values[name])
        except ValueError as error:
            raise SchemaError(f"{where}, column {name!r}: {error}") from None

    left, right = take("left_id", sha256_id), take("right_id", sha256_id)
    if left >= right:
        raise SchemaError(f"{where}, column 'right_id': not above left_id; give two different pictures in id order")
    decision = Decision(
        left_id=left,
        right_id=right,
        verdict=take("verdict", _member(Verdict)),
        relation=take("relation", _optional(_member(Relation))),
        reviewer=take("reviewer", _name),
        time=take("time", _moment),
        embedding_digest=take("embedding_digest", one_line),
        scorer_digest=take("scorer_digest", one_line),
        draw=take("draw", _member(Draw)),
        p_draw=take("p_draw", _probability),
        source=take("source", _name),
        supersedes=take("supersedes", _optional(one_line)),
    )
    for name in DERIVED & values.keys():
        if values[name] != getattr(decision, name):
            raise SchemaError(f"{where}, column {name!r}: does not follow from the other columns; leave the column out")
    if decision.supersedes == decision.decision_id:
        raise SchemaError(f"{where}, column 'supersedes': names this very decision; name an earlier one")
    return decision


def read_decisions(path: str | os.PathLike[str]) -> list[Decision]:
    """The decisions in a `.csv` or `.parquet` file; columns in any order, `decision_id` and `pair_id` may be left out.

    CSV: UTF-8 with a header; an absent relation or supersedes is an empty cell; time is ISO 8601 with its zone.
    Raises UsageError, InputError, SchemaError naming the line (CSV, the header is line 1) or row (Parquet, from 0).
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file; name a .csv or .parquet file of decisions")
    rows = _csv_rows(path) if _is_csv(path) else _parquet_rows(path)
    return [from_values(values, where=where) for where, values in rows]


def write_decisions(path: str | os.PathLike[str], decisions: Sequence[Decision]) -> None:
    """Write a `.csv` or `.parquet` file, atomically, in the order given. Raises UsageError, StoreError."""
    if _is_csv(path):
        with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows(cells_of(d, where=f"{path}, row {i}") for i, d in enumerate(decisions))
        return
    values = {name: [getattr(d, name) for d in decisions] for name in COLUMNS}
    arrays = [column(values[f.name], f.type, name=f.name, where=str(path)) for f in DECISIONS]
    write_table(path, pa.Table.from_arrays(arrays, schema=DECISIONS))


def one_line(text: Any) -> str:
    """`text` if it is text without control characters, else ValueError."""
    # isprintable is the quick answer for most; it also refuses spaces that names are written with, such as U+3000.
    if not isinstance(text, str) or not (text.isprintable() or not _CONTROL & set(map(unicodedata.category, text))):
        raise ValueError(f"{text!r} is not text on one line")
    return text


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _is_csv(path: str | os.PathLike[str]) -> bool:
    suffix = Path(path).suffix.lower()
    if suffix not in (".csv", ".parquet"):
        raise UsageError(f"{path}: decisions are kept as .csv or .parquet; choose one of these suffixes")
    return suffix == ".csv"


def _csv_rows(path: str | os.PathLike[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    content = Path(path).read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise SchemaError(f"{path}, line {line}: not UTF-8; save the table as CSV in UTF-8") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, [])
        _check_header(header, path)
        for cells in reader:
            where = f"{path}, line {reader.line_num}"
            if len(cells) != len(header):
                raise SchemaError(f"{where}: {len(cells)} cells under {len(header)} columns; quote cells with commas")
            yield where, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise SchemaError(f"{path}, line {reader.line_num}: not CSV ({error}); mend the quotes") from None


def _check_header(header: list[str], path: str | os.PathLike[str]) -> None:
    for name in COLUMNS:
        if name not in header and name not in DERIVED:
            raise SchemaError(f"{path}, line 1: column {name!r} is missing; expected {', '.join(COLUMNS)}")
    for name in header:
        if name not in COLUMNS or header.count(name) > 1:
            raise SchemaError(f"{path}, line 1: unexpected column {name!r}; expected {', '.join(COLUMNS)}")


def _parquet_rows(path: str | os.PathLike[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    there = read_schema(path).names
    schema = pa.schema([f for f in DECISIONS if f.name in there or f.name not in DERIVED])
    for i, values in enumerate(read_table(path, schema).to_pylist()):
        yield f"{path}, row {i}", values


def sha256_id(value: Any) -> ImageId:
    """`value` if it is a sha256 in lower-case hexadecimal, else ValueError."""
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise ValueError(f"{value!r} is no sha256; expected 64 lower-case hexadecimal digits")
    return ImageId(value)


def _name(value: Any) -> str:
    if not one_line(value).strip():
        raise ValueError("is empty; say who or what it was")
    return str(value)


def _member(kind: type[_E]) -> Callable[[Any], _E]:
    def read(value: Any) -> _E:
        try:
            return kind(value)
        except ValueError:
            raise ValueError(f"{value!r} is not one of {', '.join(kind)}") from None

    return read


def _optional(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value in (None, "") else read(value)


def _moment(value: Any) -> datetime:
    try:
        time = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    except (ValueError, TypeError):
        raise ValueError(f"{value!r} is no ISO 8601 time, e.g. 2026-11-22T10:00:00+00:00") from None
    if time.tzinfo is None:
        raise ValueError(f"{value!r} has no time zone; add it, e.g. +00:00")
    return time.astimezone(UTC)


def _probability(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{value!r} is not a number") from None
    if not 0.0 < number <= 1.0:
        raise ValueError(f"{value!r} is no inclusion probability in (0, 1]")
    return number
