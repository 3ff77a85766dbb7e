"""Memory that was needed for a moment goes back to the system.

glibc keeps what is freed for the next request, and two threads that decode large pictures at the same time leave a heap
that no single one needs again. Over days a server's memory creeps up to the worst moments it ever had: steps of some MiB,
minutes apart (docs/LOG.md). Trimmed now and then, it is what is in use and a little more.
"""

from __future__ import annotations

import ctypes
import gc
import threading
from collections.abc import Callable

__all__ = ["keep_trimmed", "trimmer"]

_EVERY_SECONDS = 20.0
_started = threading.Lock()
_ended = threading.Event()


def trimmer() -> Callable[[], bool] | None:
    """Gives free memory of all heaps of this process back, and says whether there was any; None without glibc."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return None
    trim.argtypes, trim.restype = [ctypes.c_size_t], ctypes.c_int
    return lambda: bool(trim(0))


def keep_trimmed(seconds: float = _EVERY_SECONDS) -> None:
    """Collect garbage and trim every so many seconds while the process lives; called again, it does nothing."""
    trim = trimmer()
    if trim is None or not _started.acquire(blocking=False):
        return

    def run() -> None:
        while not _ended.wait(seconds):
            gc.collect()  # what refers to itself holds decoded pictures until Python looks, which it does ever more rarely
            trim()  # without Python's lock; a heap is locked only while its own free pages are given back

    threading.Thread(target=run, name="ndd-trim", daemon=True).start()
