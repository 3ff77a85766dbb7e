"""Copies of an index at a URL: a folder, or S3-compatible storage, where only what is new is sent.

Logs that are no longer written to never change, and their names there hold their salt: one that is there is not sent again.
`index.json` is replaced last, so that a copy is whole at any moment, also when sending is interrupted. Snapshots are not sent:
restoring makes a new one. URLs are those of Arrow: `s3://bucket/prefix?region=…&endpoint_override=host:port&scheme=http`, with
credentials from the environment, `gs://…`, `file:///…`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

from ndd.errors import StoreError, UsageError
from ndd.files import atomic_path, make_directory
from ndd.index.log import Log, cannot_write, is_full
from ndd.index.manifest import MANIFEST, Manifest, checksum, parse_manifest, write_manifest
from ndd.index.store import LOCK, IndexStore, Settings
from ndd.index.view import log_path

__all__ = ["backup", "restore"]

_HELD = ".held"
_BLOCK = 8 * 2**20


def backup(store: IndexStore, url: str) -> dict[str, Any]:
    """Bring the copy at `url` up to what the store holds now; how many pictures it holds, and the logs and bytes sent.

    Writers wait only while the logs are named, not while they are sent. Raises UsageError for a URL that cannot be used,
    StoreError if sending fails; the copy that was there is then still whole.
    """
    remote, prefix = _place(url)
    with store.sealed() as (manifest, logs):
        # Links keep a log that is compacted away while it is being sent.
        held = store.root / f"{_HELD}-{os.getpid()}"
        shutil.rmtree(held, ignore_errors=True)
        held.mkdir()
        names = {serial: f"log-{serial:08d}-{salt}.ndd" for serial, salt in logs.items()}
        for serial, name in names.items():
            os.link(log_path(store.root, serial), held / name)
        images = len(store)
    try:
        there = _listing(remote, prefix)
        new = [name for name in names.values() if there.get(name) != (held / name).stat().st_size]
        for name in new:
            _send(held / name, remote, f"{prefix}/{name}")
        sent = sum((held / name).stat().st_size for name in new)
        _put(remote, f"{prefix}/{MANIFEST}", _listed(manifest, names))
        for name in there.keys() - set(names.values()) - {MANIFEST}:
            if name.startswith("log-"):
                remote.delete_file(f"{prefix}/{name}")
    except OSError as error:
        raise StoreError(f"{url}: the copy could not be brought up to date ({_first(error)}); try again") from error
    finally:
        shutil.rmtree(held, ignore_errors=True)
    return {"images": images, "sent": len(new), "bytes": sent}


def restore(url: str, root: str | os.PathLike[str], *, settings: Settings | None = None) -> IndexStore:
    """Make the index at `root`, a new or empty directory, from the copy at `url`; every checksum is read. Raises UsageError,
    StoreError, StoreFull; then `root` holds no index."""
    remote, prefix = _place(url)
    place = Path(os.path.abspath(root))
    make_directory(place)
    if any(place.iterdir()):
        raise StoreError(f"{place}: not empty; name a new directory")
    try:
        _restore(remote, prefix, url, place)
        store = IndexStore.open(place, settings=settings)
        store.check()
        store.snapshot()
    except BaseException:
        for path in (place / MANIFEST, place / LOCK, *place.glob("log-*.ndd")):
            path.unlink(missing_ok=True)
        raise
    return store


def _restore(remote: Any, prefix: str, url: str, place: Path) -> None:
    try:
        listed = json.loads(_get(remote, f"{prefix}/{MANIFEST}"))
        if listed["check"] != checksum(listed):
            raise StoreError(f"{url}: the list of files is damaged; use another copy")
        for serial, name in listed["names"].items():
            _fetch(remote, f"{prefix}/{name}", log_path(place, int(serial)))
        (place / LOCK).touch()
        manifest = parse_manifest(place / MANIFEST, listed["manifest"])
        # A log of its own to go on with: copies of two indexes that went on from one must not be taken for each other.
        serial = manifest.serial + 1
        Log.create(log_path(place, serial))
        write_manifest(place, dataclasses.replace(manifest, serial=serial, logs=(*manifest.logs, serial)))
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, OSError) and is_full(error):
            raise cannot_write(place, error) from error
        raise StoreError(f"{url}: no copy of an index there that can be read ({_first(error)})") from error


def _listed(manifest: Manifest, names: dict[int, str]) -> bytes:
    values = dataclasses.asdict(dataclasses.replace(manifest, logs=tuple(names), snapshot=None))
    listed: dict[str, Any] = {"names": {str(serial): name for serial, name in names.items()}, "manifest": values}
    return json.dumps({**listed, "check": checksum(listed)}, sort_keys=True).encode()


def _place(url: str) -> tuple[Any, str]:
    from pyarrow import fs

    try:
        remote, prefix = fs.FileSystem.from_uri(url)
        if isinstance(remote, fs.LocalFileSystem):
            remote.create_dir(prefix)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{url}: not a place for copies ({_first(error)}); give s3://bucket/prefix or file:///folder"
        ) from error
    return remote, prefix.rstrip("/")


def _listing(remote: Any, prefix: str) -> dict[str, int]:
    """Name → size of the files there."""
    from pyarrow import fs

    found = remote.get_file_info(fs.FileSelector(prefix, allow_not_found=True))
    return {info.base_name: info.size for info in found if info.type == fs.FileType.File}


def _send(path: Path, remote: Any, key: str) -> None:
    with path.open("rb") as source, remote.open_output_stream(key) as sink:
        while part := source.read(_BLOCK):
            sink.write(part)


def _put(remote: Any, key: str, content: bytes) -> None:
    from pyarrow import fs

    # An object appears as a whole when it is closed; a file on disk needs a rename for that.
    if isinstance(remote, fs.LocalFileSystem):
        with atomic_path(key) as temporary:
            temporary.write_bytes(content)
        return
    with remote.open_output_stream(key) as sink:
        sink.write(content)


def _get(remote: Any, key: str) -> bytes:
    with remote.open_input_stream(key) as source:
        content: bytes = source.read()
    return content


def _fetch(remote: Any, key: str, path: Path) -> None:
    with remote.open_input_stream(key) as source, path.open("wb") as sink:
        while part := source.read(_BLOCK):
            sink.write(part)
        sink.flush()
        os.fsync(sink.fileno())


def _first(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
