"""The index of a replica: reads from many threads, writes in groups with one `fsync` for all that wait.

Any number of replicas may share one index (`ndd.index.store`): each takes in what the others wrote before it reads, which
costs microseconds if there is nothing, so that whoever was told that a write is done sees it from any of them.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ndd.errors import NddError, StoreError
from ndd.index.manifest import MANIFEST
from ndd.index.store import Added, Entry, IndexStore

__all__ = ["Shelf", "Stored"]

_GROUP = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A picture to be put in. picture: packed."""

    id: str
    picture: bytes
    metadata: Mapping[str, Any]
    replace: bool


@dataclass(slots=True)
class _Write:
    what: Stored | str  # an id: to be removed
    done: Future[Any] = field(default_factory=Future)


class Shelf:
    """An open index and the thread that writes to it."""

    def __init__(self, root: Path, *, embedding_digest: str, dim: int) -> None:
        """Open the index at `root`; make it where there is none. Raises DigestMismatch for one of another embedding."""
        self.root = root
        self._store = _opened(root, embedding_digest=embedding_digest, dim=dim)
        self._following = True
        self._writes: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write_for_ever, name="ndd-write", daemon=True)
        self._writer.start()

    def __len__(self) -> int:
        return len(self._store)

    def read(self) -> IndexStore:
        """The index with all that was acknowledged by now, whoever wrote it; to be searched from any thread."""
        if self._following:
            self._store.refresh()
        return self._store

    async def add(self, picture: Stored) -> Added:
        """Put a picture in; durable when this returns. Raises ConflictError, StoreError."""
        added: Added = await self._submit(picture)
        return added

    async def remove(self, id: str) -> bool:
        """Take a picture out; False if there is none of that name. Durable when this returns."""
        return bool(await self._submit(id))

    def info(self) -> dict[str, Any]:
        """What the index says of itself, but not where it lies."""
        return {name: value for name, value in self._store.info().items() if name not in ("path", "repaired")}

    def retire(self) -> None:
        """Another index takes the place of this one: what is being read may be read on, as it was."""
        self._following = False
        self._writes.put(None)

    def close(self) -> None:
        """Finish what waits and let go."""
        self._writes.put(None)
        self._writer.join(timeout=30)
        self._store.close()

    async def _submit(self, what: Stored | str) -> Any:
        write = _Write(what)
        self._writes.put(write)
        return await asyncio.wrap_future(write.done)

    def _write_for_ever(self) -> None:
        while True:
            first = self._writes.get()
            if first is None:
                return
            group, last = self._take(first)
            for same in _runs(group):
                self._do(same)
            if last:
                return

    def _take(self, first: _Write) -> tuple[list[_Write], bool]:
        group = [first]
        while len(group) < _GROUP:
            try:
                write = self._writes.get_nowait()
            except queue.Empty:
                break
            if write is None:
                return group, True
            group.append(write)
        return group, False

    def _do(self, writes: Sequence[_Write]) -> None:
        wanted = [write for write in writes if write.done.set_running_or_notify_cancel()]
        if not wanted:
            return
        try:
            results = self._apply([write.what for write in wanted])
        except NddError as error:
            if len(wanted) > 1:  # one of them is at fault: each by itself
                for write in wanted:
                    _settle(write, lambda write=write: self._apply([write.what])[0])  # type: ignore[misc]
                return
            wanted[0].done.set_exception(error)
            return
        except BaseException as error:
            for write in wanted:
                write.done.set_exception(error)
            return
        for write, result in zip(wanted, results, strict=True):
            write.done.set_result(result)

    def _apply(self, group: Sequence[Stored | str]) -> list[Any]:
        first = group[0]
        if isinstance(first, str):
            return list(self._store.remove([str(id) for id in group]))
        pictures = [picture for picture in group if isinstance(picture, Stored)]
        entries = [Entry(id=one.id, picture=one.picture, metadata=one.metadata) for one in pictures]
        return list(self._store.add(entries, replace=first.replace))


def _opened(root: Path, *, embedding_digest: str, dim: int) -> IndexStore:
    if not (root / MANIFEST).is_file():
        try:
            return IndexStore.create(root, embedding_digest=embedding_digest, dim=dim)
        except StoreError:  # another replica may have made it meanwhile
            if not (root / MANIFEST).is_file():
                raise
    return IndexStore.open(root, embedding_digest=embedding_digest)


def _settle(write: _Write, work: Callable[[], Any]) -> None:
    try:
        write.done.set_result(work())
    except BaseException as error:
        write.done.set_exception(error)


def _runs(group: Sequence[_Write]) -> list[list[_Write]]:
    """Neighbours that one call can do, in order; an id at most once in each."""
    runs: list[list[_Write]] = []
    kind, seen = None, set[str]()
    for write in group:
        what = write.what
        id, now = (what, None) if isinstance(what, str) else (what.id, what.replace)
        if not runs or now != kind or id in seen:
            runs.append([])
            kind, seen = now, set()
        runs[-1].append(write)
        seen.add(id)
    return runs
