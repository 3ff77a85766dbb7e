"""Moving an index to another embedding: every kept picture is embedded anew, beside the old index, which serves meanwhile."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from ndd.detector import Detector
from ndd.errors import DecodeError, StoreError
from ndd.files import fsync_directory
from ndd.index.store import Entry, IndexStore
from ndd.known import vector_of
from serve.vault import Vault

__all__ = ["Migration"]

_log = logging.getLogger("ndd.serve")
_AT_ONCE = 16


class Migration:
    """One move: `copy` as often as one likes, then `finish` while nobody writes."""

    def __init__(self, old: IndexStore, detector: Detector, vault: Vault) -> None:
        """Raises StoreError if the new index cannot be made beside the old one."""
        self._old, self._detector, self._vault = old, detector, vault
        model = detector.model
        self._root = old.root.with_name(f"{old.root.name}.next-{model.embedding_digest[:12]}")
        shutil.rmtree(self._root, ignore_errors=True)  # of a move that was interrupted
        self._new = IndexStore.create(self._root, embedding_digest=model.embedding_digest, dim=detector.embedder.dim)

    def copy(self) -> int:
        """Bring the new index in line with the old one; how many pictures had to be embedded. Raises StoreError if the
        bytes of a picture are not kept, or cannot be read any more."""
        self._old.refresh()
        ids = self._old.ids()
        self._new.remove(sorted(set(self._new.ids()) - set(ids)))
        missing = [id for id in ids if self._image(self._new, id) != self._image(self._old, id)]
        for start in range(0, len(missing), _AT_ONCE):
            self._embed(missing[start : start + _AT_ONCE])
        return len(missing)

    def finish(self) -> Path:
        """Put the new index in the old one's place; where the old one lies now."""
        self._new.snapshot()
        self._new.close()
        old = self._old.root
        aside = old.with_name(f"{old.name}.{self._old.embedding_digest[:12]}")
        shutil.rmtree(aside, ignore_errors=True)
        try:
            os.rename(old, aside)
            os.rename(self._root, old)
            fsync_directory(old.parent)
        except OSError as error:
            raise StoreError(f"{old}: the new index cannot take its place ({error.strerror})") from error
        return aside

    def give_up(self) -> None:
        """Leave everything as it was."""
        self._new.close()
        shutil.rmtree(self._root, ignore_errors=True)

    def _embed(self, ids: Sequence[str]) -> None:
        entries, contents = [], []
        for id in ids:
            entry = self._old.get(id)
            if entry is None:  # removed meanwhile; the next round sees to it
                continue
            content = self._vault.get(vector_of(_packed(entry))[0])
            if content is None:
                raise StoreError(f"{id!r}: its bytes were not kept; add the pictures to a new index instead")
            entries.append(entry)
            contents.append(content)
        looked = self._detector.look_many(contents)
        added = []
        for entry, known in zip(entries, looked, strict=True):
            if isinstance(known, DecodeError):
                raise StoreError(f"{entry.id!r}: cannot be read any more ({known.reason})")
            added.append(Entry(id=entry.id, picture=known, metadata=entry.metadata))
        self._new.add(added, replace=True)

    @staticmethod
    def _image(store: IndexStore, id: str) -> tuple[str, str] | None:
        entry = store.get(id)
        return None if entry is None else (vector_of(_packed(entry))[0], repr(sorted(entry.metadata.items())))


def _packed(entry: Entry) -> bytes:
    return entry.picture if isinstance(entry.picture, bytes) else entry.picture.pack()
