"""What an index does to its own files: appending, a new log, snapshots, compaction, removing what nothing names any more.

The caller holds the index's lock. Order makes it safe to be killed anywhere: new files first, durable; then the manifest that
names them; then the old ones go.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ndd.files import TEMPORARY
from ndd.index.ann import Limits, Proposer
from ndd.index.log import FRAME, HEADER, Log
from ndd.index.manifest import SnapshotName, read_manifest, write_manifest
from ndd.index.records import Drop, Put
from ndd.index.snapshot import write_snapshot
from ndd.index.view import View, log_path, open_view

__all__ = [
    "Settings",
    "append",
    "checkpoint",
    "compact",
    "is_wasteful",
    "log_bytes",
    "metadata_of",
    "parts",
    "rotate",
    "tail_bytes",
    "tail_limit",
    "tidy",
]

_KINDS = ("exact", "scalar", "ivf")
_OWN = re.compile(r"(log|snapshot)-(\d{8})(\.ndd)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Sizes, for tests and odd machines."""

    limits: Limits = field(default_factory=Limits)
    log_bytes: int = 256 * 2**20
    """A log that is larger is followed by a new one."""
    frame_bytes: int = 8 * 2**20
    """About as much goes under one checksum."""
    call_bytes: int = 64 * 2**20
    """About as much is written and synced at once."""
    tail_bytes: int = 64 * 2**20
    """Log beyond the snapshot that may have to be read at opening; a quarter of the snapshot, if that is more."""
    waste: float = 0.5
    """Share of the logs that removed pictures may take …"""
    waste_bytes: int = 64 * 2**20
    """… if it is more than this."""


def parts(records: Sequence[Put | Drop], limit: int) -> Iterator[list[Put | Drop]]:
    """The records in order, cut where they exceed `limit` bytes; what replaces a picture stays with what drops it."""
    part: list[Put | Drop] = []
    size = 0
    for record in records:
        if size > limit and not (part and isinstance(part[-1], Drop)):
            yield part
            part, size = [], 0
        part.append(record)
        size += len(record.picture) if isinstance(record, Put) else 0
    if part:
        yield part


def append(view: View, records: Sequence[Put | Drop], settings: Settings) -> None:
    """Write records to the log, all or none, and take them in."""
    payloads = [b"".join(r.encode() for r in part) for part in parts(records, settings.frame_bytes)]
    start = view.offset
    view.logs[view.log].append(payloads, at=start)
    for at, payload in view.logs[view.log].placed(payloads, start):
        view.apply(payload, at)


def rotate(view: View) -> None:
    """Go on in a new log."""
    serial = view.manifest.serial + 1
    Log.create(log_path(view.root, serial))
    logs = (*view.manifest.logs, serial)
    write_manifest(view.root, dataclasses.replace(view.manifest, serial=serial, logs=logs))
    view.adopt(*read_manifest(view.root))
    view.follow()


def checkpoint(view: View, settings: Settings) -> View:
    """Write a snapshot; the view to go on with. Learns the vectors anew where their number has outgrown what was learnt."""
    rebuild = _has_outgrown(view, settings)
    keep = np.flatnonzero(view.table.column("alive")) if rebuild else None
    arrays = view.table.arrays(keep)
    proposer = Proposer.trained(arrays["vector"], limits=settings.limits) if rebuild else view.proposer
    serial = view.manifest.serial + 1
    name = f"snapshot-{serial:08d}"
    size = write_snapshot(view.root / name, arrays, proposer)
    said = SnapshotName(name=name, log=view.log, offset=view.offset, next_number=view.next_number)
    manifest = dataclasses.replace(view.manifest, serial=serial, snapshot=said, epoch=view.manifest.epoch + rebuild)
    write_manifest(view.root, manifest)
    tidy(view.root)
    if rebuild or view.table.fresh > len(view.table) // 2:  # what is in memory goes to where it can be mapped from
        return open_view(view.root, writable=True)
    view.adopt(*read_manifest(view.root))
    view.snapshot_bytes = size
    return view


def compact(view: View, settings: Settings) -> View:
    """Write what is alive to new logs, learn its vectors anew, and drop the old files; the view to go on with."""
    keep = np.flatnonzero(view.table.column("alive"))
    try:
        writer = _Rewriter(view.root, view.manifest.serial)
        places = [writer.put(view.record(view.place_of(int(row)))[0], settings) for row in keep]
        writer.flush()
        writer.next_log()
        arrays = view.table.arrays(keep)
        if places:
            columns = np.array(places, np.int64).T
            arrays |= {"log": columns[0].astype("<i4"), "offset": columns[1], "length": columns[2].astype("<i4")}
        proposer = Proposer.trained(arrays["vector"], limits=settings.limits)
        name = f"snapshot-{writer.serial + 1:08d}"
        write_snapshot(view.root / name, arrays, proposer)
        said = SnapshotName(name=name, log=writer.serial, offset=HEADER, next_number=view.next_number)
        manifest = dataclasses.replace(
            view.manifest,
            epoch=view.manifest.epoch + 1,
            serial=writer.serial + 1,
            logs=tuple(writer.serials),
            floor=view.next_number,
            snapshot=said,
        )
        write_manifest(view.root, manifest)
    except BaseException:
        tidy(view.root)
        raise
    tidy(view.root)
    return open_view(view.root, writable=True)


class _Rewriter:
    """Copies records to new logs, frame by frame."""

    def __init__(self, root: Path, serial: int) -> None:
        self._root, self.serial, self.serials = root, serial, list[int]()
        self._pending: list[bytes] = []
        self._size = 0
        self.next_log()

    def next_log(self) -> None:
        self.serial += 1
        self.serials.append(self.serial)
        self._log, self._end = Log.create(log_path(self._root, self.serial)), HEADER

    def put(self, record: bytes, settings: Settings) -> tuple[int, int, int]:
        """Copy a record; where it will lie: log, offset, length."""
        if self._size + len(record) > settings.frame_bytes and self._pending:
            self.flush()
            if self._end > settings.log_bytes:
                self.next_log()
        place = (self.serial, self._end + FRAME + self._size, len(record))
        self._pending.append(record)
        self._size += len(record)
        return place

    def flush(self) -> None:
        if self._pending:
            self._end = self._log.append([b"".join(self._pending)], at=self._end)
            self._pending, self._size = [], 0


def tidy(root: Path) -> None:
    """Remove files of the index that its manifest does not name: those of another epoch, and what a crash left."""
    # The manifest on disk decides: a write of it that failed may have replaced it all the same.
    manifest, descriptor = read_manifest(root)
    os.close(descriptor)
    snapshot = manifest.snapshot.name if manifest.snapshot is not None else ""
    for path in root.iterdir():
        own = _OWN.fullmatch(path.name)
        if own is None:
            if path.match(TEMPORARY):
                path.unlink(missing_ok=True)
        elif own[1] == "log" and int(own[2]) not in manifest.logs:
            path.unlink(missing_ok=True)
        elif own[1] == "snapshot" and path.name != snapshot:
            shutil.rmtree(path, ignore_errors=True)


def log_bytes(view: View) -> int:
    """Size of all logs."""
    return sum(log.size for log in view.logs.values())


def tail_bytes(view: View) -> int:
    """Log beyond the snapshot."""
    said = view.manifest.snapshot
    if said is None:
        return log_bytes(view)
    return sum(view.logs[serial].size for serial in view.manifest.logs if serial >= said.log) - said.offset


def tail_limit(view: View, settings: Settings) -> int:
    """Log beyond the snapshot from which the next one is due."""
    return max(settings.tail_bytes, view.snapshot_bytes // 4)


def is_wasteful(view: View, settings: Settings) -> bool:
    """True where most of the logs is removed pictures."""
    total = log_bytes(view)
    wasted = total - view.table.living_bytes
    return wasted > settings.waste_bytes and wasted > settings.waste * total


def metadata_of(put: Put) -> dict[str, Any]:
    """The metadata of a record."""
    values: dict[str, Any] = json.loads(put.metadata)
    return values


def _has_outgrown(view: View, settings: Settings) -> bool:
    table, proposer = view.table, view.proposer
    wanted = settings.limits.kind(table.living)
    # Twice as many: vectors that did not suit the wanted kind are not tried again at each snapshot.
    if _KINDS.index(wanted) > _KINDS.index(proposer.kind) and table.living > 2 * proposer.trained_on:
        return True
    return proposer.kind != "exact" and (table.living > 4 * proposer.trained_on or 2 * table.living < len(table))
