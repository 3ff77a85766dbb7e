"""What a run leaves behind: pairs, groups, failures and vectors, as Parquet files with a strict schema.

Every file is sorted by its key, so the same rows give the same bytes in whatever order they were found. Writers and
readers check the same rules and raise SchemaError naming the file, the row and the remedy. A writer counts rows in the
order it was given them, a reader in the order of the file, both from 0.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ndd.errors import DigestMismatch, SchemaError
from ndd.parquet import column, read_schema, read_table, write_table
from ndd.types import Failure, Relation

__all__ = [
    "FAILURES",
    "GROUPS",
    "PAIRS",
    "GroupRow",
    "PairRow",
    "Vectors",
    "read_failures",
    "read_groups",
    "read_pairs",
    "read_vectors",
    "vectors_schema",
    "write_failures",
    "write_groups",
    "write_pairs",
    "write_vectors",
]


def _required(name: str, kind: Any) -> Any:
    return pa.field(name, kind, nullable=False)


PAIRS = pa.schema(
    [
        _required("left", pa.string()),
        _required("right", pa.string()),
        _required("score", pa.float32()),
        _required("duplicate", pa.bool_()),
        pa.field("relation", pa.string()),
        _required("distance", pa.float32()),
        _required("evidence", pa.string()),
    ]
)
GROUPS = pa.schema(
    [
        _required("group", pa.int64()),
        _required("path", pa.string()),
        _required("keep", pa.bool_()),
        _required("reason", pa.string()),
    ]
)
FAILURES = pa.schema([_required(name, pa.string()) for name in ("path", "stage", "reason")])

NORM_TOLERANCE = 1e-3
"""How far a vector's length may be from 1: rounding to half precision moves it by up to 2⁻¹¹."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairRow:
    """One candidate pair; fields as in `ndd.types.Match`. Files hold score and distance as float32."""

    left: str
    right: str
    score: float
    duplicate: bool
    relation: Relation | None
    distance: float
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRow:
    """One member of a group. keep: the copy suggested to be kept, one in each group; reason: why, for a person."""

    group: int
    path: str
    keep: bool
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Vectors:
    """Embeddings (N, dim) float32, row i belonging to paths[i]; `model` is the embedding_digest they were made with."""

    paths: tuple[str, ...]
    vectors: NDArray[np.float32]
    model: str


def write_pairs(path: str | os.PathLike[str], rows: Sequence[PairRow]) -> Path:
    """Write `rows`, sorted by (left, right). Raises SchemaError where `left` ≥ `right`, a pair comes twice, score is
    outside 0…1, distance outside 0…2, either is NaN, or evidence is not plain JSON."""
    where = str(path)
    _check_pairs(rows, where)
    evidence = [_evidence_text(row, f"{where}, row {i} {row.left!r} – {row.right!r}") for i, row in enumerate(rows)]
    order = sorted(range(len(rows)), key=lambda i: (rows[i].left, rows[i].right))
    for a, b in pairwise(order):
        if (rows[a].left, rows[a].right) == (rows[b].left, rows[b].right):
            raise _repeated_pair(where, max(a, b), rows[b])
    columns: dict[str, list[Any]] = {
        "left": [row.left for row in rows],
        "right": [row.right for row in rows],
        "score": [row.score for row in rows],
        "duplicate": [row.duplicate for row in rows],
        "relation": [None if row.relation is None else str(row.relation) for row in rows],
        "distance": [row.distance for row in rows],
        "evidence": evidence,
    }
    return write_table(path, _table(columns, PAIRS, where).take(pa.array(order, pa.int64())))


def read_pairs(path: str | os.PathLike[str]) -> list[PairRow]:
    """The pairs at `path`, sorted by (left, right). Raises InputError, SchemaError."""
    where = str(path)
    rows = []
    for i, values in enumerate(read_table(path, PAIRS).to_pylist()):
        at = f"{where}, row {i} {values['left']!r} – {values['right']!r}"
        relation, evidence = _relation(values.pop("relation"), at), _evidence(values.pop("evidence"), at)
        rows.append(PairRow(relation=relation, evidence=evidence, **values))
    _check_pairs(rows, where)
    for i, (before, row) in enumerate(pairwise(rows), start=1):
        if (before.left, before.right) == (row.left, row.right):
            raise _repeated_pair(where, i, row)
        if (before.left, before.right) > (row.left, row.right):
            raise SchemaError(f"{where}, row {i} {row.left!r} – {row.right!r}: out of order; sort by left, right")
    return rows


def write_groups(path: str | os.PathLike[str], rows: Sequence[GroupRow]) -> Path:
    """Write `rows`, sorted by (group, path). Raises SchemaError for a group of one, a group without exactly one
    `keep`, a path in two groups or a negative group number."""
    _check_groups(rows, str(path))
    ordered = sorted(rows, key=lambda row: (row.group, row.path))
    columns = {name: [getattr(row, name) for row in ordered] for name in GROUPS.names}
    return write_table(path, _table(columns, GROUPS, str(path)))


def read_groups(path: str | os.PathLike[str]) -> list[GroupRow]:
    """The groups at `path`, in the order of the file. Raises InputError, SchemaError."""
    rows = [GroupRow(**values) for values in read_table(path, GROUPS).to_pylist()]
    _check_groups(rows, str(path))
    return rows


def write_failures(path: str | os.PathLike[str], rows: Sequence[Failure]) -> Path:
    """Write `rows`, sorted. Nothing is merged: a picture that failed in two stages has two rows."""
    ordered = sorted(rows, key=lambda row: (row.path, row.stage, row.reason))
    columns = {name: [getattr(row, name) for row in ordered] for name in FAILURES.names}
    return write_table(path, _table(columns, FAILURES, str(path)))


def read_failures(path: str | os.PathLike[str]) -> list[Failure]:
    """The failures at `path`. Raises InputError, SchemaError."""
    return [Failure(**values) for values in read_table(path, FAILURES).to_pylist()]


def vectors_schema(dim: int) -> Any:
    """path, vector (fixed-size list of `dim` float32), model."""
    vector = pa.list_(pa.float32(), dim)
    return pa.schema([_required("path", pa.string()), _required("vector", vector), _required("model", pa.string())])


def write_vectors(
    path: str | os.PathLike[str], paths: Sequence[str], vectors: NDArray[np.floating[Any]], *, model: str
) -> Path:
    """Write `vectors` (N, dim), L2-normalised, row i belonging to paths[i], sorted by path; stored as float32.

    model: embedding_digest of the model they were made with. Raises SchemaError for a wrong shape, NaN, a length that
    is not 1, a path that comes twice or an empty model.
    """
    where = str(path)
    if vectors.ndim != 2 or len(vectors) != len(paths) or vectors.shape[1] < 1:
        raise SchemaError(f"{where}: {len(paths)} paths need vectors ({len(paths)}, dim), got {vectors.shape}")
    if not model:
        raise SchemaError(f"{where}: no model; name the embedding_digest the vectors were made with")
    order = sorted(range(len(paths)), key=paths.__getitem__)
    ordered = [paths[i] for i in order]
    rows = np.ascontiguousarray(vectors[order], dtype=np.float32)
    _check_vectors(ordered, rows, where)
    # The digest is also kept in the metadata: a file without rows still says what it was made with.
    schema = vectors_schema(rows.shape[1]).with_metadata({b"ndd.model": model.encode()})
    arrays = [
        column(ordered, pa.string(), name="path", where=where),
        pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), type=schema.field("vector").type),
        pa.array([model] * len(ordered), pa.string()),
    ]
    return write_table(path, pa.Table.from_arrays(arrays, schema=schema))


def read_vectors(path: str | os.PathLike[str], *, model: str | None = None) -> Vectors:
    """The vectors at `path`; `model`: the embedding_digest they must carry.

    Raises InputError, SchemaError, and DigestMismatch if they were made by another model or by two.
    """
    where = str(path)
    table = read_table(path, vectors_schema(_dim(path)))
    paths = tuple(table.column("path").to_pylist())
    models = set(table.column("model").to_pylist()) or {(table.schema.metadata or {}).get(b"ndd.model", b"").decode()}
    if len(models) > 1:
        raise DigestMismatch(f"{where}: vectors of {len(models)} models in one file: {', '.join(sorted(models))}")
    (found,) = models
    if not found:
        raise SchemaError(f"{where}: does not say which model made it; embed again")
    if model is not None and model != found:
        raise DigestMismatch(f"{where}: made by model {found}, wanted {model}; embed again with that model")
    vector = table.column("vector").combine_chunks()
    dim = vector.type.list_size
    if vector.null_count or vector.values.null_count:
        raise SchemaError(f"{where}: column 'vector' holds empty values; embed again")
    rows = np.array(vector.flatten().to_numpy(zero_copy_only=False), dtype=np.float32).reshape(-1, dim)
    _check_vectors(paths, rows, where)
    return Vectors(paths=paths, vectors=rows, model=found)


def _dim(path: str | os.PathLike[str]) -> int:
    schema = read_schema(path)
    kind = schema.field("vector").type if "vector" in schema.names else None
    if kind is None or not pa.types.is_fixed_size_list(kind):
        raise SchemaError(f"{path}: column 'vector' is {kind or 'missing'}; expected a fixed-size list of float")
    return int(kind.list_size)


def _table(columns: Mapping[str, Sequence[Any]], schema: Any, where: str) -> Any:
    arrays = [column(columns[f.name], f.type, name=f.name, where=where) for f in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def _check_pairs(rows: Sequence[PairRow], where: str) -> None:
    for i, row in enumerate(rows):
        if not row.left < row.right:
            problem = "left is not below right; write each pair once, in path order"
        elif not 0.0 <= row.score <= 1.0:  # NaN fails this too
            problem = f"score is {row.score}; a probability lies in 0…1"
        elif not 0.0 <= row.distance <= 2.0:
            problem = f"distance is {row.distance}; 1 − cosine lies in 0…2 (clip rounding)"
        else:
            continue
        raise SchemaError(f"{where}, row {i} {row.left!r} – {row.right!r}: {problem}")


def _repeated_pair(where: str, i: int, row: PairRow) -> SchemaError:
    return SchemaError(f"{where}, row {i} {row.left!r} – {row.right!r}: the pair is there twice; write it once")


def _evidence_text(row: PairRow, at: str) -> str:
    try:
        plain = dict(row.evidence)
        return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise SchemaError(f"{at}: evidence is not plain JSON ({error}); use numbers, text, lists and tables") from None


def _evidence(text: str, at: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise SchemaError(f"{at}: evidence is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise SchemaError(f"{at}: evidence is {value!r}; expected a JSON object")
    return value


def _relation(text: str | None, at: str) -> Relation | None:
    try:
        return None if text is None else Relation(text)
    except ValueError:
        raise SchemaError(f"{at}: relation is {text!r}; expected one of {', '.join(Relation)}") from None


def _check_groups(rows: Sequence[GroupRow], where: str) -> None:
    seen: dict[str, int] = {}
    kept: dict[int, list[str]] = {}
    sizes: dict[int, int] = {}
    for i, row in enumerate(rows):
        if row.group < 0:
            raise SchemaError(f"{where}, row {i} {row.path!r}: group is {row.group}; numbers start at 0")
        if row.path in seen:
            raise SchemaError(f"{where}, row {i} {row.path!r}: is in group {seen[row.path]} already; name a path once")
        seen[row.path] = row.group
        sizes[row.group] = sizes.get(row.group, 0) + 1
        if row.keep:
            kept.setdefault(row.group, []).append(row.path)
    for i, row in enumerate(rows):
        keep = kept.get(row.group, [])
        if sizes[row.group] < 2:
            raise SchemaError(f"{where}, row {i} {row.path!r}: alone in group {row.group}; a group has two or more")
        if len(keep) != 1:
            names = " and ".join(map(repr, keep)) or "nothing"
            raise SchemaError(f"{where}, row {i} {row.path!r}: group {row.group} keeps {names}; keep exactly one")


def _check_vectors(paths: Sequence[str], rows: NDArray[np.float32], where: str) -> None:
    for i, (before, after) in enumerate(pairwise(paths), start=1):
        if not before < after:
            problem = "is there twice" if before == after else "is out of order"
            raise SchemaError(f"{where}, row {i} {after!r}: {problem}; write each path once, sorted")
    lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))
    wrong = ~(np.abs(lengths - 1.0) <= NORM_TOLERANCE)  # true for NaN
    if wrong.any():
        i = int(np.argmax(wrong))
        raise SchemaError(f"{where}, row {i} {paths[i]!r}: the vector's length is {lengths[i]:.4g}; L2-normalise it")
