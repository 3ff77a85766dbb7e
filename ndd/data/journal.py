"""An append-only table of text in one CSV file, safe against crashes and shared by processes.

Why a checksummed CSV log and not a Parquet file per answer: an append is one `write` and one `fsync` whatever the size
of the store, there is nothing to compact, and any tool can read the file. Parquet would need a file per answer (slow to
list) or rewriting (nothing append-only about it).

    header line, then one line per row:   cell,cell,…,check        check = CRC-32 of the line before it, 8 hex digits

- An append is acknowledged only after `fsync`; its lines are whole, or they do not count.
- A line cut short by a crash has no line feed: it was never acknowledged. Readers pass over it and report it; the next
  append moves it to `NAME.damaged` and goes on after the last whole line.
- A damaged line in the middle is passed over and reported each time; the lines after it are unharmed.
- Writers exclude each other by `flock`, readers share it; the file is never replaced, so it is its own lock.
"""

from __future__ import annotations

import csv
import io
import logging
import os
import threading
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ndd.errors import StoreError
from ndd.files import fsync_directory, locked, make_directory

__all__ = ["Damage", "Journal", "Row", "Writer"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Damage:
    """A line that cannot be trusted: its number in the file (the header is line 1) and what is wrong with it."""

    path: Path
    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class Row:
    """One whole row and its line in the file."""

    line: int
    cells: tuple[str, ...]


class Writer:
    """What a writer sees while it has the file for itself: every row so far, and `append`."""

    def __init__(self, journal: Journal, descriptor: int) -> None:
        self._journal = journal
        self._descriptor = descriptor

    @property
    def rows(self) -> Sequence[Row]:
        """All whole rows, oldest first."""
        return self._journal._rows

    def append(self, rows: Sequence[Sequence[str]]) -> None:
        """Add rows; durable when this returns. Raises StoreError, and then none of them is added."""
        self._journal._append(self._descriptor, rows)


class Journal:
    """The log at `path` with these `columns`. Nothing is opened or created before the first use.

    Rows are kept in memory and only new bytes are read again, so an append costs the same at any size.
    """

    def __init__(self, path: Path, *, columns: Sequence[str]) -> None:
        self.path = path
        self.columns = tuple(columns)
        self._header = (",".join([*columns, "check"]) + "\n").encode()
        self._mutex = threading.Lock()
        self._directory_durable = False
        self._forget(identity=None)

    def read(self) -> list[Row]:
        """All whole rows, oldest first; no file means no rows. Raises StoreError if the file is something else."""
        with self._reading():
            return list(self._rows)

    def damage(self) -> list[Damage]:
        """Lines that `read` passes over, a torn last line included."""
        with self._reading():
            torn = f"cut short after {len(self._tail)} bytes: an append did not finish"
            tail = [Damage(self.path, self._lines + 1, torn)] if self._tail else []
            return self._damage + tail

    @contextmanager
    def writing(self) -> Iterator[Writer]:
        """Have the file for oneself. Not re-entrant: use the writer's `rows` inside, not `read`."""
        with self._mutex:
            make_directory(self.path.parent)
            with self._open(os.O_RDWR | os.O_CREAT) as descriptor, locked(descriptor, exclusive=True):
                self._refresh(descriptor)
                yield Writer(self, descriptor)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with self._mutex:
            if not self.path.exists():
                self._forget(identity=None)
                yield
                return
            with self._open(os.O_RDONLY) as descriptor, locked(descriptor, exclusive=False):
                self._refresh(descriptor)
                yield

    @contextmanager
    def _open(self, flags: int) -> Iterator[int]:
        try:
            descriptor = os.open(self.path, flags | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be opened ({error.strerror}); check its rights") from error
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _forget(self, *, identity: tuple[int, int] | None) -> None:
        self._identity = identity
        self._rows: list[Row] = []
        self._damage: list[Damage] = []
        self._lines = 0
        self._offset = 0  # after the last line feed that was read
        self._tail = b""

    def _refresh(self, descriptor: int) -> None:
        """Read what was added since the last time."""
        status = os.fstat(descriptor)
        if (status.st_dev, status.st_ino) != self._identity or status.st_size < self._offset:
            self._forget(identity=(status.st_dev, status.st_ino))
        fresh = _read_from(descriptor, self._offset)
        whole, self._tail = fresh[: fresh.rfind(b"\n") + 1], fresh[fresh.rfind(b"\n") + 1 :]
        for line in whole.split(b"\n")[:-1]:
            self._take(line + b"\n")
        self._offset += len(whole)
        if not self._lines and self._tail.strip(b"\0") and not self._header.startswith(self._tail):
            raise self._foreign()

    def _take(self, line: bytes) -> None:
        self._lines += 1
        if self._lines == 1:
            if line != self._header:
                raise self._foreign()
            return
        row = _decode(line[:-1], self._lines, len(self.columns))
        if row is not None:
            self._rows.append(row)
        else:
            self._damage.append(Damage(self.path, self._lines, "the checksum does not fit: the line was changed"))
            _log.warning("%s, line %d: damaged and passed over; the lines after it count", self.path, self._lines)

    def _append(self, descriptor: int, rows: Sequence[Sequence[str]]) -> None:
        data = b"".join(self._encode(row) for row in rows)
        if not data:
            return
        if self._tail:
            self._set_tail_aside(descriptor)
        if not self._lines:
            data = self._header + data
        try:
            _write_all(descriptor, data, self._offset)
            os.fsync(descriptor)
            if not self._directory_durable:  # also by a process that did not create the file: the creator may have died
                fsync_directory(self.path.parent)
                self._directory_durable = True
        except BaseException as error:
            os.ftruncate(descriptor, self._offset)
            if isinstance(error, OSError):
                raise StoreError(f"{self.path}: cannot be written ({error.strerror}); nothing was added") from error
            raise
        self._refresh(descriptor)

    def _set_tail_aside(self, descriptor: int) -> None:
        aside = self.path.with_name(self.path.name + ".damaged")
        with aside.open("ab") as file:
            file.write(self._tail + b"\n")
            file.flush()
            os.fsync(file.fileno())
        os.ftruncate(descriptor, self._offset)
        _log.warning(
            "%s, line %d: cut short by a crash, moved to %s; earlier lines are whole", self.path, self._lines + 1, aside
        )
        self._tail = b""

    def _encode(self, cells: Sequence[str]) -> bytes:
        if len(cells) != len(self.columns) or any(c in cell for cell in cells for c in "\n\r\0"):
            raise StoreError(f"{self.path}: {cells!r} is no row of {', '.join(self.columns)} on one line")
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="").writerow(cells)
        payload = buffer.getvalue().encode()
        return payload + b",%08x\n" % zlib.crc32(payload)

    def _foreign(self) -> StoreError:
        self._forget(identity=None)
        return StoreError(f"{self.path}: not a log of ndd with columns {', '.join(self.columns)}; move it away")


def _decode(line: bytes, number: int, width: int) -> Row | None:
    payload, _, check = line.rpartition(b",")
    if check != b"%08x" % zlib.crc32(payload):
        return None
    try:
        (cells,) = csv.reader([payload.decode()], strict=True)
    except (UnicodeDecodeError, csv.Error, ValueError):
        return None
    return Row(number, tuple(cells)) if len(cells) == width else None


def _read_from(descriptor: int, offset: int) -> bytes:
    parts = []
    while part := os.pread(descriptor, 1 << 22, offset):
        parts.append(part)
        offset += len(part)
    return b"".join(parts)


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written
