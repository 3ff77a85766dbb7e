"""People's standing decisions, looked up by picture; the log is read again when it has grown."""

from __future__ import annotations

import os
import threading

from ndd.data.decisions import DecisionStore
from ndd.types import Decision, ImageId, Relation, Verdict

__all__ = ["Rulings"]


class Rulings:
    """What people have said, whoever wrote it down: this server, `ndd decide`, a labelling tool."""

    def __init__(self, store: DecisionStore) -> None:
        self.store = store
        self._stamp: tuple[int, int] | None = None
        self._by_picture: dict[ImageId, list[Decision]] = {}
        self._mutex = threading.Lock()

    def concern(self, id: ImageId) -> bool:
        """True if anybody has a standing word on a pair with this picture."""
        return id in self._read()

    def duplicates_of(self, id: ImageId, *, loosest: Relation) -> list[ImageId]:
        """The pictures that a person called duplicates of this one, in a relation that counts."""
        return [
            decision.right_id if decision.left_id == id else decision.left_id
            for decision in self._read().get(id, ())
            if decision.verdict is Verdict.DUPLICATE
            and (decision.relation is None or decision.relation.within(loosest))
        ]

    def _read(self) -> dict[ImageId, list[Decision]]:
        """Standing decisions by picture."""
        try:
            status = os.stat(self.store.path)
        except FileNotFoundError:
            return {}
        stamp = (status.st_ino, status.st_size)
        with self._mutex:
            if stamp != self._stamp:
                by_picture: dict[ImageId, list[Decision]] = {}
                for decision in self.store.current().values():
                    by_picture.setdefault(decision.left_id, []).append(decision)
                    by_picture.setdefault(decision.right_id, []).append(decision)
                self._by_picture, self._stamp = by_picture, stamp
            return self._by_picture
