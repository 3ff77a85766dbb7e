"""Parquet with a contract: checked on the way in and on the way out, atomic, the same bytes for the same rows."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ndd.errors import InputError, SchemaError
from ndd.files import atomic_path

__all__ = ["column", "first_true", "read_schema", "read_table", "write_table"]


def column(values: Sequence[Any], kind: Any, *, name: str, where: str) -> Any:
    """`values` as an Arrow array of `kind`. Raises SchemaError naming `where`, the column and its first bad row."""
    try:
        return pa.array(values, kind)
    except (pa.ArrowException, UnicodeEncodeError, ValueError, TypeError, OverflowError):
        for row, value in enumerate(values):
            try:
                pa.array([value], kind)
            except (pa.ArrowException, UnicodeEncodeError, ValueError, TypeError, OverflowError) as error:
                reason = "text that is not UTF-8" if isinstance(error, UnicodeEncodeError) else f"not {kind}"
                raise SchemaError(f"{where}, row {row}, column {name!r}: {value!r} is {reason}") from None
        raise


def first_true(mask: Any) -> int | None:
    """Index of the first true value of a boolean array (a null counts as false), or None."""
    index = pc.index(mask, pa.scalar(True)).as_py()
    return None if index < 0 else int(index)


def write_table(path: str | os.PathLike[str], table: Any) -> Path:
    """Write atomically. The same rows give the same bytes under one version of pyarrow: no time, no host, no chunking.

    Raises SchemaError for a null in a required column, StoreError where the file cannot be written.
    """
    _no_nulls(table, table.schema, where=str(path))
    with atomic_path(path) as temporary:
        pq.write_table(
            table.combine_chunks(),
            temporary,
            version="2.6",
            compression="zstd",
            row_group_size=1 << 17,
            data_page_version="1.0",
        )
    return Path(path)


def read_table(path: str | os.PathLike[str], schema: Any) -> Any:
    """The table at `path` with exactly the columns of `schema`, in its order; a missing or unknown one is an error.

    Text, integer and float columns of another width (as other writers make them) are cast where no value changes kind.
    Raises InputError if there is no such file, SchemaError naming the file, the column and, for a null, the row
    (rows are counted from 0).
    """
    table = _open(path, lambda: pq.read_table(path, partitioning=None))
    for name in schema.names:
        if name not in table.column_names:
            raise SchemaError(f"{path}: column {name!r} is missing; expected {', '.join(schema.names)}")
    for name in table.column_names:
        if table.column_names.count(name) > 1 or name not in schema.names:
            raise SchemaError(f"{path}: unexpected column {name!r}; expected {', '.join(schema.names)}")
    arrays = [_cast(table.column(field.name), field, where=str(path)) for field in schema]
    result = pa.Table.from_arrays(arrays, schema=schema.with_metadata(table.schema.metadata))
    _no_nulls(result, schema, where=str(path))
    return result


def read_schema(path: str | os.PathLike[str]) -> Any:
    """The columns and types of the file at `path`, without reading its rows. Raises InputError, SchemaError."""
    return _open(path, lambda: pq.read_schema(path))


def _open(path: str | os.PathLike[str], read: Callable[[], Any]) -> Any:
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file; name a Parquet file")
    try:
        return read()
    except (pa.ArrowException, OSError) as error:
        detail = str(error).splitlines()[0]
        raise SchemaError(f"{path}: not a readable Parquet file ({detail}); write it anew") from error


def _cast(values: Any, field: Any, *, where: str) -> Any:
    have, want = values.type, field.type
    if have == want:
        return values
    if pa.types.is_dictionary(have):
        have = have.value_type
    kinds = (_is_text, pa.types.is_integer, pa.types.is_floating, pa.types.is_timestamp, pa.types.is_null)
    zoneless = pa.types.is_timestamp(have) and pa.types.is_timestamp(want) and (have.tz is None) != (want.tz is None)
    if not zoneless and any(kind(have) and (kind(want) or pa.types.is_null(have)) for kind in kinds):
        try:
            return values.cast(want, safe=not pa.types.is_floating(want))
        except pa.ArrowException as error:
            raise SchemaError(f"{where}: column {field.name!r} does not fit {want} ({error})") from error
    raise SchemaError(f"{where}: column {field.name!r} is {values.type}; expected {want}")


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _no_nulls(table: Any, schema: Any, *, where: str) -> None:
    for field in schema:
        values = table.column(field.name)
        if not field.nullable and values.null_count:
            raise SchemaError(f"{where}, row {first_true(pc.is_null(values))}, column {field.name!r}: no value")
