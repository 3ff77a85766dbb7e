"""Files that are either whole or absent: atomic writes, durable directories, advisory locks, digests.

`rename` within a directory is atomic on POSIX, but neither the bytes nor the new name survive a power cut until the
file and its directory have been fsynced (Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014): both are.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ndd.errors import StoreError

__all__ = ["TEMPORARY", "atomic_path", "digest_of", "fsync_directory", "locked", "make_directory", "try_lock"]

TEMPORARY = ".ndd-*.tmp*"
"""Glob of the names that an interrupted `atomic_path` can leave behind."""


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside `path`; when the block ends well, what was written there becomes `path`.

    The temporary name keeps the suffix (some writers choose their format by it). Another process sees the old file or
    the new one, never a part. When the block raises, `path` is as before and the temporary file is gone.
    Raises StoreError where the file or its name cannot be made durable (an OSError of the block included); whatever
    else the block raises passes through.
    """
    target = Path(path)
    temporary = target.with_name(f".ndd-{secrets.token_hex(8)}.tmp{target.suffix}")
    try:
        yield temporary
        _fsync(temporary)
        os.replace(temporary, target)
        fsync_directory(target.parent)
    except OSError as error:
        reason = error.strerror or str(error).splitlines()[0]
        raise StoreError(f"{target}: cannot be written ({reason}); check the directory and the space left") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def fsync_directory(directory: str | os.PathLike[str]) -> None:
    """Make the names in `directory` durable."""
    _fsync(directory)


def make_directory(directory: Path) -> None:
    """Create `directory` with its parents, durably; one that is there already is fine. Raises StoreError."""
    missing = [d for d in (directory, *directory.parents) if not d.exists()]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for made in missing:
            fsync_directory(made.parent)
    except OSError as error:
        raise StoreError(f"{directory}: cannot be used as a directory ({error.strerror}); name another") from error


def try_lock(descriptor: int, *, exclusive: bool) -> bool:
    """Take a `flock` on an open file without waiting; False if another open file holds it.

    The lock ends with the descriptor, hence with the process however it dies: no stale lock is ever left.
    """
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def locked(descriptor: int, *, exclusive: bool) -> Iterator[None]:
    """Hold a `flock` on an open file for the block, waiting for it as long as it takes."""
    fcntl.flock(descriptor, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
    try:
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def _fsync(path: str | os.PathLike[str]) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_DIGESTS: dict[tuple[tuple[str, int, int, int, int], ...], str] = {}
_DIGESTING = threading.Lock()
_SETTLED = 2 * 10**9
"""Nanoseconds. A file that was written later than so long ago may be written again and keep its time of change."""


def digest_of(*paths: str | os.PathLike[str]) -> str:
    """sha256 (hex) of the contents of files, one after another. Remembered for files that have not changed since: the
    weights of a model are asked for by each of a command's steps. Raises OSError."""
    with _DIGESTING:  # whoever comes second waits, and does not compute the same
        before = _states(paths)
        known = _DIGESTS.get(before)
        if known is not None:
            return known
        begun, whole = time.time_ns(), hashlib.sha256()
        for path in paths:
            with open(path, "rb") as file:
                while block := file.read(2**20):
                    whole.update(block)
        found = whole.hexdigest()
        if before == _states(paths) and all(begun - changed > _SETTLED for *_, changed in before):
            _DIGESTS[before] = found
        return found


def _states(paths: tuple[str | os.PathLike[str], ...]) -> tuple[tuple[str, int, int, int, int], ...]:
    """Path, device, inode, size and time of change of each."""
    found = []
    for path in paths:
        state = os.stat(path)
        changed = max(state.st_mtime_ns, state.st_ctime_ns)  # the one can be set at will, the other cannot
        found.append((os.path.abspath(path), state.st_dev, state.st_ino, state.st_size, changed))
    return tuple(found)
