"""People's standing decisions, looked up by pair; the log is read again when it has grown."""

from __future__ import annotations

import os
import threading

from ndd.data.decisions import DecisionStore
from ndd.types import Decision, ImageId, Relation, Verdict, pair_id

__all__ = ["Rulings"]


class Rulings:
    """What people have said, whoever wrote it down: this server, `ndd decide`, a labelling tool."""

    def __init__(self, store: DecisionStore) -> None:
        self.store = store
        self._stamp: tuple[int, int] | None = None
        self._current: dict[str, Decision] = {}
        self._mutex = threading.Lock()

    def on(self, a: ImageId, b: ImageId, *, loosest: Relation) -> Verdict | None:
        """The standing word on two pictures. Duplicates only in a looser relation than counts here are distinct."""
        decision = self._read().get(pair_id(a, b)) if a != b else None
        if decision is None:
            return None
        looser = decision.relation is not None and not decision.relation.within(loosest)
        return Verdict.DISTINCT if decision.verdict is Verdict.DUPLICATE and looser else decision.verdict

    def _read(self) -> dict[str, Decision]:
        try:
            status = os.stat(self.store.path)
        except FileNotFoundError:
            return {}
        stamp = (status.st_ino, status.st_size)
        with self._mutex:
            if stamp != self._stamp:
                self._current, self._stamp = self.store.current(), stamp
            return self._current
