"""Pairs waiting for a person: a durable queue that never asks the same thing twice.

A log of events (`put`, `taken`, `released`, `answered`) in one checksummed file, replayed to the state of now; crash
safety and sharing between processes are those of `ndd.data.journal`. Which pairs to ask about, and in which order, is
for the sampler to say; the queue keeps that order.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ndd.data.decision_rows import one_line, sha256_id
from ndd.data.decisions import DecisionStore
from ndd.data.journal import Damage, Journal, Row, Writer
from ndd.data.uris import text_to_uri, uri_to_text
from ndd.errors import SchemaError
from ndd.types import Draw, ImageId, pair_id

__all__ = ["QueueStore", "QueuedPair"]

_EVENT = ("event", "time", "pair_id", "by", "until")
_PAIR = (
    *("left_id", "right_id", "left_uri", "right_uri", "score", "evidence", "draw", "p_draw"),
    *("embedding_digest", "scorer_digest", "source"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedPair:
    """A pair to be put before a person.

    left_id < right_id; left_uri and right_uri: where a copy of each picture lies. score: P(duplicate | evidence).
    p_draw: probability with which the sampler included the pair; it goes into the decision unchanged.
    """

    left_id: ImageId
    right_id: ImageId
    left_uri: str
    right_uri: str
    score: float
    draw: Draw
    p_draw: float
    embedding_digest: str
    scorer_digest: str
    source: str
    enqueued: datetime
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        where = f"queued pair {self.left_uri!r} – {self.right_uri!r}"
        if not self.left_id < self.right_id:
            raise SchemaError(f"{where}: left_id is not below right_id; give two different pictures in id order")
        if not (math.isfinite(self.score) and 0.0 <= self.score <= 1.0):
            raise SchemaError(f"{where}: score is {self.score}; a probability lies in 0…1")
        if not 0.0 < self.p_draw <= 1.0:
            raise SchemaError(f"{where}: p_draw is {self.p_draw}; an inclusion probability lies in (0, 1]")
        if self.enqueued.tzinfo is None:
            raise SchemaError(f"{where}: enqueued has no time zone; use datetime.now(UTC)")

    @property
    def pair_id(self) -> str:
        """Identity of the unordered pair."""
        return pair_id(self.left_id, self.right_id)


@dataclass(slots=True)
class _Waiting:
    pair: QueuedPair
    taken: bool = False
    until: datetime | None = None  # of a lease; None: until answered or released

    def free(self, now: datetime) -> bool:
        return not self.taken or (self.until is not None and self.until <= now)


class QueueStore:
    """The queue below `root` (usually `home().queue`), in `root/queue.csv`. Creates nothing before the first `put`.

    decisions: where answers go; a pair with a standing decision is neither put nor shown nor given out. One whose
    decision is withdrawn can be put again. Any number of processes may use the queue at the same time.
    """

    def __init__(self, root: str | os.PathLike[str], *, decisions: DecisionStore) -> None:
        self._journal = Journal(Path(root) / "queue.csv", columns=(*_EVENT, *_PAIR))
        self._decisions = decisions

    @property
    def path(self) -> Path:
        """The log."""
        return self._journal.path

    def put(self, pairs: Iterable[QueuedPair]) -> int:
        """Add pairs in the order given; how many were new. Those already waiting or decided are passed over.

        Durable when this returns. Raises SchemaError for a pair that cannot be stored, and then adds none; StoreError.
        """
        rows: dict[str, list[str]] = {}
        for pair in pairs:
            rows.setdefault(pair.pair_id, _event("put", pair.enqueued, pair.pair_id) + _cells(pair))
        decided = self._decisions.current()
        with self._journal.writing() as log:
            waiting = self._replay(log.rows)
            new = [row for key, row in rows.items() if key not in waiting and key not in decided]
            log.append(new)
        return len(new)

    def waiting(self) -> list[QueuedPair]:
        """Pairs without an answer, taken ones included, oldest first."""
        decided = self._decisions.current()
        return [w.pair for key, w in self._replay(self._journal.read()).items() if key not in decided]

    def asked(self) -> dict[str, QueuedPair]:
        """pair_id → every pair that was ever put, as it was put last, answered ones included; oldest first."""
        found: dict[str, QueuedPair] = {}
        for row in self._journal.read():
            values = dict(zip((*_EVENT, *_PAIR), row.cells, strict=True))
            if values["event"] == "put":
                found[values["pair_id"]] = _pair(values, where=f"{self.path}, line {row.line}")
        return found

    def take(
        self, limit: int, *, by: str, lease: timedelta | None = None, now: datetime | None = None
    ) -> list[QueuedPair]:
        """Give out up to `limit` pairs to `by`, oldest first; nobody else gets them until the lease ends.

        lease: None means until `answered` or `release`. now: for replays; None is the clock. Durable when this returns:
        whoever is killed before it returns has taken nothing, or holds pairs that the end of the lease frees.
        """
        moment = now or datetime.now(UTC)
        until = None if lease is None else moment + lease
        decided = self._decisions.current()
        with self._journal.writing() as log:
            waiting = self._replay(log.rows)
            free = [w.pair for key, w in waiting.items() if key not in decided and w.free(moment)][: max(limit, 0)]
            log.append([_event("taken", moment, p.pair_id, by=by, until=until) + _nothing() for p in free])
        return free

    def release(self, pair_ids: Iterable[str]) -> int:
        """Give taken pairs back before their lease ends; how many of them were taken."""
        with self._journal.writing() as log:
            return self._mark(log, "released", pair_ids, {k for k, w in self._replay(log.rows).items() if w.taken})

    def answered(self, pair_ids: Iterable[str]) -> int:
        """Take pairs off the queue, after their decisions are stored; how many of them were waiting."""
        with self._journal.writing() as log:
            return self._mark(log, "answered", pair_ids, self._replay(log.rows).keys())

    def damage(self) -> list[Damage]:
        """Lines that cannot be trusted and were passed over."""
        return self._journal.damage()

    def _mark(self, log: Writer, event: str, pair_ids: Iterable[str], among: Iterable[str]) -> int:
        known = frozenset(among)
        keys = [key for key in dict.fromkeys(pair_ids) if key in known]
        log.append([_event(event, datetime.now(UTC), key) + _nothing() for key in keys])
        return len(keys)

    def _replay(self, rows: Sequence[Row]) -> dict[str, _Waiting]:
        """pair_id → what waits, in the order it was put."""
        state: dict[str, _Waiting] = {}
        for row in rows:
            values = dict(zip((*_EVENT, *_PAIR), row.cells, strict=True))
            event, key = values["event"], values["pair_id"]
            if event == "put":
                state[key] = _Waiting(_pair(values, where=f"{self.path}, line {row.line}"))
            elif event == "answered":
                state.pop(key, None)
            elif key in state:
                state[key].taken = event == "taken"
                state[key].until = datetime.fromisoformat(values["until"]) if values["until"] else None
        return state


def _event(event: str, time: datetime, key: str, *, by: str = "", until: datetime | None = None) -> list[str]:
    try:
        return [event, _iso(time), key, one_line(by), "" if until is None else _iso(until)]
    except ValueError as error:
        raise SchemaError(f"by: {error}; name who takes the pairs") from None


def _iso(time: datetime) -> str:
    return time.astimezone(UTC).isoformat()


def _nothing() -> list[str]:
    return [""] * len(_PAIR)


def _cells(pair: QueuedPair) -> list[str]:
    where = f"queued pair {pair.left_uri!r} – {pair.right_uri!r}"
    try:
        evidence = json.dumps(dict(pair.evidence), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return [
            *(sha256_id(pair.left_id), sha256_id(pair.right_id)),
            *(uri_to_text(pair.left_uri), uri_to_text(pair.right_uri)),
            *(repr(float(pair.score)), evidence, str(pair.draw), repr(float(pair.p_draw))),
            *(one_line(pair.embedding_digest), one_line(pair.scorer_digest), one_line(pair.source)),
        ]
    except (TypeError, ValueError) as error:
        raise SchemaError(f"{where}: cannot be stored ({error})") from None


def _pair(values: Mapping[str, str], *, where: str) -> QueuedPair:
    try:
        return QueuedPair(
            left_id=ImageId(values["left_id"]),
            right_id=ImageId(values["right_id"]),
            left_uri=text_to_uri(values["left_uri"]),
            right_uri=text_to_uri(values["right_uri"]),
            score=float(values["score"]),
            draw=Draw(values["draw"]),
            p_draw=float(values["p_draw"]),
            embedding_digest=values["embedding_digest"],
            scorer_digest=values["scorer_digest"],
            source=values["source"],
            enqueued=datetime.fromisoformat(values["time"]),
            evidence=json.loads(values["evidence"]),
        )
    except (ValueError, SchemaError) as error:
        raise SchemaError(f"{where}: {error}; it was written by another version") from None
