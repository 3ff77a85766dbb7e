"""What goes into an index and comes out of it, and what adding it means to what is there already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ndd.errors import ConflictError, SchemaError
from ndd.index.records import Drop, Put, checked_id, checked_metadata
from ndd.index.view import View
from ndd.known import KnownPicture, vector_of
from ndd.types import ImageId

__all__ = ["Added", "Entry", "Hit", "Plan"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A picture to keep. id: the caller's key. picture: known, or packed. metadata: JSON values, kept as they are."""

    id: str
    picture: KnownPicture | bytes
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """What became of an entry. outcome: `added`, `replaced`, or `unchanged` (the same picture was there)."""

    id: str
    outcome: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A picture near a query. distance: 1 − cosine, exact."""

    id: str
    distance: float


class Plan:
    """What an `add` is going to write, and what it will say of each entry."""

    def __init__(self, view: View, *, replace: bool) -> None:
        self._view, self._replace = view, replace
        self._number = view.next_number
        self._pending: dict[str, tuple[int, ImageId]] = {}
        self.records: list[Put | Drop] = []
        self.results: list[Added] = []

    def take(self, entry: Entry) -> None:
        """Decide about one entry. Raises ConflictError, SchemaError."""
        id, metadata = checked_id(entry.id), checked_metadata(entry.metadata, id=entry.id)
        packed = entry.picture.pack() if isinstance(entry.picture, KnownPicture) else entry.picture
        image, vector, _, _ = vector_of(packed)
        if len(vector) != self._view.manifest.dim:
            raise SchemaError(
                f"{id!r}: {len(vector)} numbers, this index keeps {self._view.manifest.dim}; use its model"
            )
        old = self._pending.get(id) or self._stored(id)
        if old is not None:
            if old[1] == image and not self._replace:
                self.results.append(Added(id=id, outcome="unchanged"))
                return
            if not self._replace:
                raise ConflictError(f"{id!r}: another picture is kept under this id; replace it, or choose another id")
            self.records.append(Drop(old[0]))
        self.records.append(Put(self._number, id, metadata, packed))
        self._pending[id] = (self._number, image)
        self.results.append(Added(id=id, outcome="added" if old is None else "replaced"))
        self._number += 1

    def _stored(self, id: str) -> tuple[int, ImageId] | None:
        row = self._view.table.row(id)
        if row is None:
            return None
        column = self._view.table.column
        return int(column("number")[row]), ImageId(column("image")[row].tobytes().hex())
