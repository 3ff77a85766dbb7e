"""People's standing decisions, looked up by picture; the log is read again when it has grown."""

from __future__ import annotations

import os
import threading

from ndd.data.decisions import DecisionStore
from ndd.types import Decision, ImageId

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

    def word(self, a: ImageId, b: ImageId) -> Decision | None:
        """The decision that stands about two pictures."""
        return next((d for d in self._read().get(a, ()) if b in (d.left_id, d.right_id) and a != b), None)

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
