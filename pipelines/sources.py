"""Pictures wherever they lie: files, object stores, tars (WebDataset), Parquet with their bytes in a column.

A root is a local folder or file, or a URL of anything pyarrow or fsspec can open (`s3://`, `gs://`, `file://` …). A `.tar`
or `.parquet` that is named, or lies below a URL, is opened; in a plain local folder only picture files are looked for.

Each picture has a uri of its own, which is all that a worker needs to read it:

    /photos/a.jpg                              a file of this machine
    s3://bucket/photos/a.jpg                   an object; percent-encoded
    s3://bucket/train-00.tar#offset=512&size=7312
    file:///data/part-0.parquet#row=17&column=image.bytes

Tars are read by offset, so nothing is unpacked; a compressed one has none and is refused. Of a Parquet file the row group
that holds the row is read and kept until another one is asked for.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qs, quote, unquote

from ndd.config import DecodeLimits
from ndd.data.scan import EXTENSIONS, encode_path, scan
from ndd.errors import DecodeError, InputError, SchemaError, UsageError
from ndd.images import read_file
from ndd.types import Failure

__all__ = ["Listed", "list_sources", "read_source"]

_BYTES = ("bytes", "image", "content", "picture", "jpg", "jpeg", "png", "webp", "data")
_NAMES = ("path", "file", "filename", "file_name", "__key__", "key", "url")


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Listed:
    """A picture that was found. size: bytes (those of the whole file for a row of Parquet). stamp: its file's time of
    change, ns. −1: unknown."""

    path: str
    uri: str
    size: int
    stamp: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """A file below a root. base: what its uri begins with."""

    fs: Any
    at: str
    base: str
    size: int
    stamp: int


def list_sources(roots: Sequence[str | os.PathLike[str]]) -> tuple[list[Listed], list[Failure]]:
    """The pictures below `roots` and what ought to be one and cannot be opened, each sorted by path.

    Paths are as `ndd.data.scan.scan` gives them: below the root, and with several roots prefixed by the root as typed. A
    picture in a tar or a Parquet file goes by the file's path and its own name therein.
    Raises UsageError for a root that is not there, InputError for a tar or Parquet file without pictures that can be read.
    """
    names = [os.fspath(root) for root in roots]
    plain = [root for root in names if not _opened(root)]
    found: list[Listed] = []
    failures: list[Failure] = []
    if plain or not roots:
        sources, failures = scan(plain)
        lone = encode_path(os.fsencode(plain[0])).rstrip("/") + "/" if len(plain) == 1 < len(roots) else ""
        failures = [Failure(path=lone + f.path, stage=f.stage, reason=f.reason) for f in failures]
        for source in sources:
            size, stamp = _stat(source.uri)
            found.append(Listed(path=lone + source.path, uri=source.uri, size=size, stamp=stamp))
    for root in names:
        if _opened(root):
            prefix = "" if len(roots) == 1 else encode_path(os.fsencode(root)).rstrip("/")
            for name, file in _below(root):
                found += _inside(file, "/".join(part for part in (prefix, name) if part))
    return _named_once(sorted(found)), failures


def read_source(uri: str, *, limits: DecodeLimits | None = None) -> bytes:
    """The bytes of a picture. Raises DecodeError (stage `open`): gone, not permitted, above `limits.max_bytes`."""
    if "://" not in uri:
        return read_file(uri, limits=limits)
    limits = limits or DecodeLimits()
    base, _, fragment = uri.partition("#")
    part = {name: values[0] for name, values in parse_qs(fragment).items()}
    try:
        content = _row_of(base, part["column"], int(part["row"])) if "row" in part else _range_of(base, part, limits)
    except (OSError, SchemaError, InputError) as error:
        raise DecodeError(str(error).partition("\n")[0][:200], stage="open") from None
    if content is None:
        raise DecodeError("the row holds no bytes", stage="open")
    if len(content) > limits.max_bytes:
        raise DecodeError(f"{len(content)} bytes, more than the limit of {limits.max_bytes}", stage="open")
    return content


def _opened(root: str) -> bool:
    """Is this root one that `ndd.data.scan` knows nothing of?"""
    return "://" in root or (root.lower().endswith((".tar", ".parquet")) and os.path.isfile(root))


def _stat(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _below(root: str) -> Iterator[tuple[str, _File]]:
    """The files of a root, by name ("" for a root that is a file)."""
    import pyarrow.fs as pafs

    url = root if "://" in root else "file://" + quote(os.path.abspath(root))
    fs, at, service = _place(url if "://" not in root else _quoted(root))
    info = fs.get_file_info(at)
    if info.type == pafs.FileType.NotFound:
        raise UsageError(f"{root}: there is no such file, folder or prefix")
    if info.type == pafs.FileType.File:
        alone = at.rpartition("/")[2] if not at.lower().endswith((".tar", ".parquet")) else ""
        yield alone, _file(fs, info, service)
        return
    for entry in sorted(fs.get_file_info(pafs.FileSelector(at, recursive=True)), key=lambda entry: entry.path):
        known = os.path.splitext(entry.path)[1].lower() in (*EXTENSIONS, ".tar", ".parquet")
        if entry.type == pafs.FileType.File and known:
            yield entry.path[len(at.rstrip("/")) + 1 :], _file(fs, entry, service)


def _file(fs: Any, info: Any, service: tuple[str, str, str]) -> _File:
    scheme, prefix, options = service
    below = info.path[len(prefix.rstrip("/")) :] if prefix else info.path
    host = prefix.strip("/") if scheme != "file" else ""
    base = f"{scheme}://{host}{quote('/' + below.lstrip('/'))}{options}"
    return _File(fs=fs, at=info.path, base=base, size=-1 if info.size is None else info.size, stamp=info.mtime_ns or -1)


def _quoted(url: str) -> str:
    """A URL as typed, percent-encoded; what follows a question mark are options of the file system."""
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    path, mark, options = path.partition("?")
    return f"{scheme}://{host}{slash}{quote(path)}{mark}{options}"


def _place(base: str) -> tuple[Any, str, tuple[str, str, str]]:
    """File system, path in it, and (scheme, prefix, options) of a percent-encoded URL."""
    scheme, _, rest = base.partition("://")
    rest, mark, options = rest.partition("?")
    host, _, path = rest.partition("/")
    fs, prefix = _service(scheme, host, options)
    inside = unquote(path)
    at = f"{prefix.rstrip('/')}/{inside}" if inside else prefix
    return fs, at.rstrip("/") or "/", (scheme, prefix, mark + options)


@lru_cache(maxsize=32)
def _service(scheme: str, host: str, options: str) -> tuple[Any, str]:
    """The file system behind a URL, and the path of the URL's host in it (its bucket)."""
    import pyarrow as pa
    import pyarrow.fs as pafs

    if scheme == "file":
        return pafs.LocalFileSystem(), ""
    url = f"{scheme}://{host}" + (f"?{options}" if options else "")
    try:
        fs, prefix = pafs.FileSystem.from_uri(url)
        return fs, prefix
    except (pa.ArrowException, ValueError, OSError, NotImplementedError) as arrow:
        from fsspec.core import url_to_fs  # type: ignore[import-untyped]

        try:
            fs, path = url_to_fs(f"{scheme}://{host}")
        except (ImportError, ValueError, OSError) as error:
            raise UsageError(f"{url}: neither pyarrow ({arrow}) nor fsspec ({error}) can open it") from None
        return pafs.PyFileSystem(pafs.FSSpecHandler(fs)), path


def _inside(file: _File, name: str) -> Iterator[Listed]:
    kind = os.path.splitext(file.at)[1].lower()
    if kind == ".tar":
        yield from _members(file, name)
    elif kind == ".parquet":
        yield from _rows(file, name)
    else:
        uri = unquote(file.base.removeprefix("file://")) if file.base.startswith("file://") else file.base
        yield Listed(path=_path(name), uri=uri, size=file.size, stamp=file.stamp)


def _members(file: _File, name: str) -> Iterator[Listed]:
    try:
        with file.fs.open_input_file(file.at) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
            for member in tar:
                if member.isreg() and os.path.splitext(member.name)[1].lower() in EXTENSIONS:
                    uri = f"{file.base}#offset={member.offset_data}&size={member.size}"
                    inside = "/".join(part for part in (name, member.name.removeprefix("./")) if part)
                    yield Listed(path=_path(inside), uri=uri, size=member.size, stamp=file.stamp)
    except (tarfile.TarError, OSError) as error:
        raise InputError(f"{unquote(file.base)}: not a whole, uncompressed tar ({error}); write it again") from None


def _rows(file: _File, name: str) -> Iterator[Listed]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with file.fs.open_input_file(file.at) as stream, pq.ParquetFile(stream) as table:
            column, named = _columns(table.schema_arrow, unquote(file.base))
            count = table.metadata.num_rows
            texts = table.read(columns=[named]).flatten() if named else None
            names = texts.column(0).to_pylist() if texts is not None else [None] * count
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{unquote(file.base)}: not a readable Parquet file ({error}); write it again") from None
    for row, text in enumerate(names):
        inside = "/".join(part for part in (name, text or f"row-{row:08}") if part)
        uri = f"{file.base}#row={row}&column={quote(column)}"
        yield Listed(path=_path(inside), uri=uri, size=file.size, stamp=file.stamp)


def _columns(schema: Any, where: str) -> tuple[str, str | None]:
    """The column with the pictures' bytes and the one with their names, as dotted paths. Raises InputError."""
    import pyarrow as pa

    kinds: dict[str, Any] = {}
    for field in schema:
        inner = list(field.type) if pa.types.is_struct(field.type) else []
        kinds |= {f"{field.name}.{f.name}": f.type for f in inner} if inner else {field.name: field.type}
    binary = [name for name, kind in kinds.items() if pa.types.is_binary(kind) or pa.types.is_large_binary(kind)]
    text = [name for name, kind in kinds.items() if pa.types.is_string(kind) or pa.types.is_large_string(kind)]
    known = [name for name in binary if name.rpartition(".")[2] in _BYTES]
    if len(known or binary) != 1:
        raise InputError(f"{where}: which column holds pictures? Binary ones: {', '.join(binary) or 'none'}; keep one")
    names = [name for wanted in _NAMES for name in text if name.rpartition(".")[2] == wanted]
    return (known or binary)[0], names[0] if names else None


def _range_of(base: str, part: dict[str, str], limits: DecodeLimits) -> bytes:
    fs, at, _ = _place(base)
    with fs.open_input_file(at) as stream:
        size = int(part["size"]) if "size" in part else int(stream.size())
        if size > limits.max_bytes:
            raise DecodeError(f"{size} bytes, more than the limit of {limits.max_bytes}", stage="open")
        stream.seek(int(part.get("offset", 0)))
        content: bytes = stream.read(size)
    if len(content) != size:
        raise DecodeError(f"{len(content)} bytes where {size} were listed: the file has changed", stage="open")
    return content


def _row_of(base: str, column: str, row: int) -> bytes | None:
    starts = _row_groups(base)
    group = max(at for at, start in enumerate(starts) if start <= row)
    values = _row_group(base, column, group)
    if row - starts[group] >= len(values):
        raise SchemaError(f"row {row}: the file has fewer rows than were listed")
    content: bytes | None = values[row - starts[group]].as_py()
    return content


@lru_cache(maxsize=64)
def _row_groups(base: str) -> tuple[int, ...]:
    """The first row of each row group."""
    import pyarrow.parquet as pq

    fs, at, _ = _place(base)
    with fs.open_input_file(at) as stream, pq.ParquetFile(stream) as table:
        sizes = [table.metadata.row_group(i).num_rows for i in range(table.num_row_groups)]
    return tuple(sum(sizes[:i]) for i in range(len(sizes)))


@lru_cache(maxsize=2)
def _row_group(base: str, column: str, group: int) -> Any:
    import pyarrow.parquet as pq

    fs, at, _ = _place(base)
    with fs.open_input_file(at) as stream, pq.ParquetFile(stream) as table:
        values = table.read_row_group(group, columns=[column])
    while any(str(field.type).startswith("struct") for field in values.schema):
        values = values.flatten()
    return values.column(0)


def _path(name: str) -> str:
    return encode_path(os.fsencode(name))


def _named_once(found: list[Listed]) -> list[Listed]:
    """Names are keys of every table: a second picture of the same name gets a number."""
    seen: dict[str, int] = {}
    result = []
    for listed in found:
        seen[listed.path] = times = seen.get(listed.path, 0) + 1
        path = listed.path if times == 1 else f"{listed.path}#{times}"
        result.append(Listed(path=path, uri=listed.uri, size=listed.size, stamp=listed.stamp))
    return sorted(result)
