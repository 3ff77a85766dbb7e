"""A durable index of pictures on disk: add, remove, look up, and find the nearest.

    with IndexStore.create("index", embedding_digest=detector.model.embedding_digest, dim=256) as store:
        store.add([Entry(id="a.jpg", picture=detector.look("a.jpg"))])
        detector.search(store, detector.look("b.png"), k=5)

What was added or removed is on disk when the call returns: `ndd.index.log` says what a crash can do. Any number of processes
may read and write one index; writers exclude each other by a lock that ends with its process, and each first takes in what the
others wrote. Readers see it after `refresh`. `docs/adr/0004-the-index-store.md` says why it is built like this.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ndd.errors import DigestMismatch, InputError, StoreError, StoreFull
from ndd.files import locked, make_directory, try_lock
from ndd.index import upkeep
from ndd.index.base import Half
from ndd.index.log import HEADER, Log, Torn
from ndd.index.manifest import MANIFEST, Manifest, read_manifest, write_manifest
from ndd.index.plan import Added, Entry, Hit, Plan
from ndd.index.records import Drop, Put
from ndd.index.upkeep import Settings
from ndd.index.view import View, log_path, open_view
from ndd.known import KnownPicture
from ndd.types import ImageId

__all__ = ["LOCK", "Added", "Entry", "Hit", "IndexStore", "Settings"]

_logger = logging.getLogger(__name__)
LOCK = "lock"
"""File whose lock a writer holds."""


class IndexStore:
    """One index, open. Its methods may be called from any thread; searches go on while pictures are added."""

    def __init__(self, root: Path, *, read_only: bool, settings: Settings) -> None:
        """Use `create` or `open`."""
        self.root, self.read_only, self.settings = root, read_only, settings
        self._mutex = threading.RLock()
        self._repaired: list[Torn] = []
        self._alone = False
        self._untidy = True  # whoever wrote last may have been killed
        self._patience = 1.0  # grows while there is no room for a snapshot
        self._view: View | None = open_view(root, writable=not read_only)

    @classmethod
    def create(
        cls, root: str | os.PathLike[str], *, embedding_digest: str, dim: int, settings: Settings | None = None
    ) -> Self:
        """Make an empty index for vectors of one model. Raises StoreError if something is there already."""
        place = Path(os.path.abspath(root))
        make_directory(place)
        with _locked(place, create=True):
            # A creation that was stopped half way left a lock and an empty log: those are no obstacle.
            foreign = sorted(p.name for p in place.iterdir() if p.name != LOCK and not p.match("log-*.ndd"))
            if foreign:
                word = "there is an index already; open it" if MANIFEST in foreign else f"not empty ({foreign[0]})"
                raise StoreError(f"{place}: {word}, or name a new directory")
            log_path(place, 1).unlink(missing_ok=True)
            Log.create(log_path(place, 1))
            write_manifest(
                place, Manifest(embedding_digest=embedding_digest, dim=dim, epoch=0, serial=1, logs=(1,), floor=1)
            )
        return cls(place, read_only=False, settings=settings or Settings())

    @classmethod
    def open(
        cls,
        root: str | os.PathLike[str],
        *,
        embedding_digest: str | None = None,
        read_only: bool = False,
        settings: Settings | None = None,
    ) -> Self:
        """Open an index. embedding_digest: of the model that made the vectors it will be asked for.

        Raises StoreError if there is none or it is damaged, DigestMismatch if its vectors are another model's.
        """
        store = cls(Path(os.path.abspath(root)), read_only=read_only, settings=settings or Settings())
        if embedding_digest is not None:
            store.must_be_of(embedding_digest)
        if not read_only:
            with _locked(store.root, wait=False) as free:
                if free:  # else whoever is writing sees to it
                    store._prepare()
        return store

    def must_be_of(self, embedding_digest: str) -> None:
        """Raise DigestMismatch unless the vectors are this model's."""
        if embedding_digest != self.embedding_digest:
            raise DigestMismatch(
                f"{self.root}: holds vectors of the model {self.embedding_digest[:12]}…, asked with "
                f"{embedding_digest[:12]}…; use that model (--model; if it is the same, set "
                "NDD_RUNTIME as where the index was made), or add the pictures to a new index"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the files. Nothing is pending: every write was durable when it returned."""
        with self._mutex:
            self._view = None

    @property
    def embedding_digest(self) -> str:
        """The model whose vectors these are."""
        return self._open.manifest.embedding_digest

    @property
    def dim(self) -> int:
        """Numbers per vector."""
        return self._open.manifest.dim

    def __len__(self) -> int:
        return self._open.table.living

    def __contains__(self, id: str) -> bool:
        return self._open.place(id) is not None

    def ids(self) -> list[str]:
        """The ids of all pictures, in the order they were added."""
        view = self._open
        with view.sharing.reading():
            return [view.table.id(int(row)) for row in np.flatnonzero(view.table.column("alive"))]

    def add(self, entries: Iterable[Entry], *, replace: bool = False) -> list[Added]:
        """Keep pictures; durable when this returns, with one write to the disk. The same picture under the same id changes
        nothing (nor its metadata).

        Raises ConflictError for another picture under an id that is taken (replace=True takes its place, metadata too, also
        of the same picture), SchemaError for what cannot be stored: then none is added. Raises StoreFull or StoreError if
        the disk refuses; of more than `settings.call_bytes` the first parts may be there: add them all again.
        """
        with self._writing() as view:
            plan = Plan(view, replace=replace)
            for entry in entries:
                plan.take(entry)
            for records in upkeep.parts(plan.records, self.settings.call_bytes):
                self._commit(records)
            self._keep_up()
        return plan.results

    def remove(self, ids: Iterable[str]) -> list[bool]:
        """Forget pictures; durable when this returns. For each id, whether it was there. Raises StoreFull, StoreError."""
        with self._writing() as view:
            drops: dict[str, Drop] = {}
            found = []
            for id in ids:
                place = view.place(id)
                found.append(place is not None and id not in drops)
                if place is not None:
                    drops[id] = Drop(place[3])
            self._commit(list(drops.values()))
            self._keep_up()
        return found

    def get(self, id: str) -> Entry | None:
        """The picture, packed, and its metadata; None if there is none. Raises StoreError if its record is damaged."""
        view = self._open
        place = view.place(id)
        if place is None:
            return None
        put = view.record(place)[1]
        return Entry(id=put.id, picture=put.picture, metadata=upkeep.metadata_of(put))

    def known(self, id: str) -> KnownPicture:
        """The picture, to be compared. Raises InputError if there is none, StoreError if its record is damaged."""
        entry = self.get(id)
        if entry is None:
            raise InputError(f"{id!r}: no such picture in {self.root}; `ndd index info` says what is there")
        assert isinstance(entry.picture, bytes)
        return KnownPicture.unpack(entry.picture)

    def query(self, vectors_QD: Half, *, k: int) -> list[list[Hit]]:
        """The k nearest of each (Q, D) float16 query, nearest first, equals by age. ValueError for another shape."""
        view = self._open
        if vectors_QD.dtype != np.float16 or vectors_QD.ndim != 2 or vectors_QD.shape[1] != view.manifest.dim:
            wanted = f"(Q, {view.manifest.dim}) float16"
            raise ValueError(f"queries are {wanted}, got {vectors_QD.shape} {vectors_QD.dtype}")
        return [[Hit(id=id, distance=d) for id, d in line] for line in view.nearest(vectors_QD, k=k)]

    def near_hashes(self, hashes_F32: NDArray[np.uint8], *, bits: int, k: int) -> list[str]:
        """At most k pictures whose perceptual hash is within `bits` of one of these forms, nearest first."""
        return self._open.near_hashes(hashes_F32, bits=bits, k=k)

    def with_image(self, image: ImageId) -> list[str]:
        """The ids under which a picture with exactly these bytes is kept, oldest first."""
        view = self._open
        with view.sharing.reading():
            return [view.table.id(int(row)) for row in view.table.with_image(image)]

    def refresh(self) -> bool:
        """Take in what other processes wrote; whether there was anything. Costs microseconds if there was not."""
        view = self._open
        # While another thread here has the lock nobody else can have written: a compaction keeps no search waiting.
        if self._alone or (view.is_sound() and view.is_current()):
            return False
        with self._mutex:
            self._catch_up()
        return True

    def snapshot(self) -> None:
        """Write what is known now so that the next opening is quick. Happens by itself as the log grows. Raises StoreFull."""
        with self._writing() as view:
            self._view = upkeep.checkpoint(view, self.settings)

    def compact(self) -> None:
        """Give back the room of removed pictures and learn the vectors anew. Searches go on, writers wait. Raises StoreFull.

        Needs room for a second copy of what is kept.
        """
        with self._writing() as view:
            self._view = upkeep.compact(view, self.settings)

    @contextlib.contextmanager
    def sealed(self) -> Iterator[tuple[Manifest, dict[int, str]]]:
        """For the block, writers wait; given are the manifest and, by number, the salts of the logs that will never change
        again: they hold everything that was written so far."""
        with self._writing() as view:
            if view.logs[view.log].size > HEADER:
                upkeep.rotate(view)
            *done, _ = view.manifest.logs
            yield view.manifest, {serial: view.logs[serial].salt.hex() for serial in done}

    def info(self) -> dict[str, Any]:
        """What there is, as JSON values."""
        with self._mutex:
            view = self._open
            return {
                "path": str(self.root),
                "embedding_digest": self.embedding_digest,
                "dim": self.dim,
                "images": len(self),
                "removed": len(view.table) - len(self),
                "next_number": view.next_number,
                "bytes": {"log": upkeep.log_bytes(view), "snapshot": view.snapshot_bytes},
                "unsaved_bytes": upkeep.tail_bytes(view),
                "search": view.proposer.info(),
                "repaired": [f"{t.path.name}: {t.size} bytes cut off at {t.offset}" for t in self._repaired],
            }

    def check(self) -> int:
        """Read every picture and its checksums; how many there are. Raises StoreError, naming file and offset of damage."""
        view = self._open
        with view.sharing.reading():
            places = [view.place_of(int(row)) for row in np.flatnonzero(view.table.column("alive"))]
        for place in places:
            view.record(place)
        return len(places)

    @property
    def _open(self) -> View:
        view = self._view
        if view is None:
            raise StoreError(f"{self.root}: this index was closed; open it again")
        return view

    @contextlib.contextmanager
    def _writing(self) -> Iterator[View]:
        """Have the index for oneself, knowing all that others wrote."""
        if self.read_only:
            raise StoreError(f"{self.root}: opened for reading only; open it without read_only")
        with self._mutex, _locked(self.root):
            view = self._prepare()
            self._untidy = self._alone = True
            try:
                yield view
            finally:
                self._alone = False
            self._untidy = False

    def _prepare(self) -> View:
        """Know all that others wrote, and put away what a crash left. The lock is held."""
        self._catch_up()
        view = self._open
        torn = view.logs[view.log].cut(view.offset)
        if torn is not None:
            self._repaired.append(torn)
            _logger.warning("%s: %d bytes at %d, cut short by a crash, moved aside", torn.path, torn.size, torn.offset)
        if self._untidy:
            upkeep.tidy(self.root)
            self._untidy = False
        return view

    def _catch_up(self) -> None:
        view = self._open
        if not view.is_sound():
            self._view = open_view(self.root, writable=not self.read_only)
            return
        if view.is_current():
            return
        manifest, descriptor = read_manifest(self.root)
        if manifest.epoch != view.manifest.epoch:
            os.close(descriptor)
            self._view = open_view(self.root, writable=not self.read_only)
            return
        try:
            view.adopt(manifest, descriptor)
        except FileNotFoundError:  # compacted since
            self._view = open_view(self.root, writable=not self.read_only)
            return
        view.follow()

    def _commit(self, records: Sequence[Put | Drop]) -> None:
        """Write records with one sync and take them in."""
        if not records:
            return
        view = self._open
        if view.offset > self.settings.log_bytes:
            upkeep.rotate(view)
        upkeep.append(view, records, self.settings)

    def _keep_up(self) -> None:
        """Snapshot or compact if it is time. A full disk does not spoil the write that was just done."""
        view = self._open
        try:
            if upkeep.is_wasteful(view, self.settings):
                self._view = upkeep.compact(view, self.settings)
            elif upkeep.tail_bytes(view) > self._patience * upkeep.tail_limit(view, self.settings):
                self._view = upkeep.checkpoint(view, self.settings)
            self._patience = 1.0
        except StoreFull as error:
            self._patience *= 1.5
            _logger.warning("%s: no room to tidy up (%s); all pictures are safe", self.root, error)


@contextlib.contextmanager
def _locked(root: Path, *, create: bool = False, wait: bool = True) -> Iterator[bool]:
    """Hold the index's lock between processes; without waiting for it, whether it is held."""
    try:
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        descriptor = os.open(root / LOCK, flags, 0o644)
    except OSError as error:
        raise StoreError(f"{root}: cannot be written ({error.strerror}); check its rights") from error
    try:
        if not wait:
            yield try_lock(descriptor, exclusive=True)
            return
        with locked(descriptor, exclusive=True):
            yield True
    finally:
        os.close(descriptor)
