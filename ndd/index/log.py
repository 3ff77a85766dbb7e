"""One append-only file of checksummed frames: the write-ahead log, and the place where pictures stay.

    header   b"NDDLOG1\\n" · salt 8 bytes · CRC-32 of both
    frame    magic · payload's length · payload's CRC-32 · CRC-32 of these three, the frame's offset and the salt · payload

All numbers are little-endian u32. The salt (drawn for each file) and the offset make sure that nothing but a frame of this
file at its own place passes for one, whatever bytes users store (as in SQLite's write-ahead log).

- An append is acknowledged only after `fsync`. A frame counts as a whole or not at all.
- A frame cut short by a crash has no whole frame after it: it was never acknowledged. Readers pass over it; the next writer
  moves it to `NAME.damaged` and goes on after the last whole frame.
- A broken frame with a whole one after it is damage to what was acknowledged: StoreError, naming file and offset.
"""

from __future__ import annotations

import errno
import os
import secrets
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ndd.errors import StoreError, StoreFull
from ndd.files import fsync_directory, locked

__all__ = ["FRAME", "HEADER", "Log", "Torn", "cannot_write", "is_full"]

_MAGIC = b"NDDLOG1\n"
HEADER = len(_MAGIC) + 8 + 4
"""Bytes before the first frame."""
_FRAME = struct.Struct("<4sIII")
FRAME = _FRAME.size
"""Bytes before each payload."""
_MARK = b"NFRM"
_PLACE = struct.Struct("<Q8s")


@dataclass(frozen=True, slots=True)
class Torn:
    """What a crash left at the end of a log: where it begins and how many bytes it has."""

    path: Path
    offset: int
    size: int


class Log:
    """An open log. Reading needs no right to write; the descriptor is closed with the object. salt: 8 bytes, drawn for it."""

    def __init__(self, path: Path, *, writable: bool) -> None:
        """Open the log at `path`. Raises FileNotFoundError, and StoreError for another kind of file."""
        self.path = path
        self._fd = -1
        try:
            self._fd = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
            start = os.pread(self._fd, HEADER, 0)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StoreError(f"{path}: cannot be opened ({error.strerror}); check its rights") from error
        if len(start) < HEADER or start[:8] != _MAGIC or zlib.crc32(start[:-4]).to_bytes(4, "little") != start[-4:]:
            raise StoreError(f"{path}, offset 0: not a log of ndd's index, or a damaged one; restore it from a copy")
        self.salt = start[8:16]

    def __del__(self) -> None:
        # The last search that reads from a log may end after the store has gone on to another one.
        if self._fd >= 0:
            os.close(self._fd)

    @classmethod
    def create(cls, path: Path) -> Log:
        """A new, empty log, durable. Raises StoreError if it is there already, StoreFull."""
        start = _MAGIC + secrets.token_bytes(8)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            try:
                _write_all(fd, start + zlib.crc32(start).to_bytes(4, "little"), 0)
                os.fsync(fd)
            finally:
                os.close(fd)
            fsync_directory(path.parent)
        except OSError as error:
            raise cannot_write(path, error) from error
        return cls(path, writable=True)

    @property
    def size(self) -> int:
        """Bytes in the file now."""
        return os.fstat(self._fd).st_size

    def append(self, payloads: Sequence[bytes], *, at: int) -> int:
        """Write frames at offset `at`, the end of the last whole one; returns the new end. All are durable then, or none
        is there: raises StoreFull or StoreError."""
        frames = bytearray()
        for payload in payloads:
            frames += self._head(payload, at + len(frames)) + payload
        with locked(self._fd, exclusive=True):
            try:
                _write_all(self._fd, frames, at)
                os.fsync(self._fd)
            except BaseException as error:
                # Nobody has seen these bytes: readers wait for the lock.
                os.ftruncate(self._fd, at)
                if isinstance(error, OSError):
                    raise cannot_write(self.path, error) from error
                raise
        return at + len(frames)

    @staticmethod
    def placed(payloads: Sequence[bytes], at: int) -> Iterator[tuple[int, bytes]]:
        """(offset, payload) of payloads that `append` writes as frames from offset `at` on."""
        for payload in payloads:
            at += FRAME
            yield at, payload
            at += len(payload)

    def frames(self, start: int) -> Iterator[tuple[int, bytes]]:
        """(offset of the payload, payload) of each whole frame from the offset `start` on. Raises StoreError.

        Waits for an append in progress, so that what is seen is durable, or was written by a process that died.
        """
        with locked(self._fd, exclusive=False):
            end = self.size
        while start < end:
            payload = self._payload(start, end)
            if payload is None:
                self._torn(start, end)  # raises if it is damage
                return
            yield start + FRAME, payload
            start += FRAME + len(payload)

    def cut(self, end: int) -> Torn | None:
        """Move what lies after `end`, the last whole frame, to `NAME.damaged`; None if there is nothing."""
        size = self.size - end
        if size <= 0:
            return None
        aside = self.path.with_name(self.path.name + ".damaged")
        try:
            with aside.open("ab") as file:
                file.write(self.read(end, size))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            if not is_full(error):
                raise cannot_write(aside, error) from error
            # A copy for the curious is not worth refusing to work on a disk that has no room for it.
        with locked(self._fd, exclusive=True):
            os.ftruncate(self._fd, end)
            os.fsync(self._fd)
        return Torn(self.path, end, size)

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes at `offset`. Raises StoreError if the file ends before."""
        parts, at = [], offset
        while at < offset + size:
            try:
                part = os.pread(self._fd, offset + size - at, at)
            except OSError as error:
                raise StoreError(f"{self.path}, offset {at}: cannot be read ({error.strerror})") from error
            if not part:
                raise StoreError(f"{self.path}: ends at {at}, but {offset + size} bytes were stored; restore the file")
            parts.append(part)
            at += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _head(self, payload: bytes, offset: int) -> bytes:
        start = _MARK + len(payload).to_bytes(4, "little") + zlib.crc32(payload).to_bytes(4, "little")
        return start + zlib.crc32(start + _PLACE.pack(offset, self.salt)).to_bytes(4, "little")

    def _payload(self, offset: int, end: int) -> bytes | None:
        """The payload of the frame at `offset`; None if there is no whole frame."""
        if end - offset < FRAME:
            return None
        head = self.read(offset, FRAME)
        mark, length, check, _ = _FRAME.unpack(head)
        whole = zlib.crc32(head[:12] + _PLACE.pack(offset, self.salt)).to_bytes(4, "little") == head[12:]
        if mark != _MARK or not whole or offset + FRAME + length > end:
            return None
        payload = self.read(offset + FRAME, length)
        return payload if zlib.crc32(payload) == check else None

    def _torn(self, offset: int, end: int) -> None:
        """Raise if a whole frame follows: then this one was acknowledged, and has been damaged since."""
        rest = self.read(offset, end - offset)
        at = rest.find(_MARK, 1)
        while at >= 0:
            if self._payload(offset + at, end) is not None:
                raise StoreError(
                    f"{self.path}, offset {offset}: damaged, whole data goes on at {offset + at}; restore the file from a copy"
                )
            at = rest.find(_MARK, at + 1)


def is_full(error: OSError) -> bool:
    """True where there is no room: on the disk, in the quota, or for a file of this size."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def cannot_write(path: Path, error: OSError) -> StoreError:
    """The error of ndd that says so."""
    if is_full(error):
        return StoreFull(f"{path}: no room ({error.strerror}); nothing was added, free some space and try again")
    return StoreError(f"{path}: cannot be written ({error.strerror}); nothing was added, check its rights")


def _write_all(descriptor: int, data: bytes | bytearray, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
