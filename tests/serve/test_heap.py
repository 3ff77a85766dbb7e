"""Memory that was freed goes back to the system."""

from __future__ import annotations

import platform
import subprocess
import sys
import threading

import pytest

from serve import heap

_GROWN = """
import ctypes, re, sys
from serve.heap import trimmer

def held():
    said = open("/proc/self/smaps_rollup").read()
    return int(re.search(r"^Private_Dirty: +(\\d+)", said, re.MULTILINE)[1])

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
blocks = [libc.malloc(65_536) for _ in range(640)]
for block in blocks:
    ctypes.memset(block, 1, 65_536)
for block in blocks[:-1]:  # the last one keeps the heap from shrinking by itself
    libc.free(block)
before = held()
trimmer()()
print(before - held())
"""


def test_free_memory_below_a_block_in_use_goes_back() -> None:
    if platform.libc_ver()[0] != "glibc":
        assert heap.trimmer() is None, "nothing is called that is not there"
        return
    said = subprocess.run([sys.executable, "-c", _GROWN], capture_output=True, text=True, check=True).stdout
    assert int(said) > 30 * 1024, "KiB, of the 40 MiB that were freed"


def test_one_thread_trims_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    trimmed = threading.Semaphore(0)
    monkeypatch.setattr(heap, "_started", threading.Lock())
    monkeypatch.setattr(heap, "_ended", ended := threading.Event())
    monkeypatch.setattr(heap, "trimmer", lambda: lambda: trimmed.release() or True)
    before = threading.active_count()
    try:
        heap.keep_trimmed(seconds=0.01)
        heap.keep_trimmed(seconds=0.01)
        assert threading.active_count() == before + 1
        for _ in range(3):
            assert trimmed.acquire(timeout=10)
    finally:
        ended.set()


def test_without_glibc_nothing_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap, "_started", threading.Lock())
    monkeypatch.setattr(heap, "trimmer", lambda: None)
    before = threading.active_count()
    heap.keep_trimmed()
    assert threading.active_count() == before
