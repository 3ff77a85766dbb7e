"""Uncertain pairs seen online go to the queue of pairs that wait for a person.

Whether a pair is drawn follows from its id, not from a dice: the same pair, seen a thousand times, is asked once or never,
and the share drawn is still `rate`, which goes with it as `p_draw`.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime

from ndd.data.decisions import DecisionStore
from ndd.data.queue import QueuedPair, QueueStore
from ndd.detector import Detector
from ndd.errors import NddError
from ndd.home import home
from ndd.known import KnownPicture
from ndd.types import Draw, Match, pair_id
from serve.metrics import Numbers
from serve.settings import Settings
from serve.vault import Vault

__all__ = ["Reviewer", "drawn"]

_log = logging.getLogger("ndd.serve")
_WAITING = 256
"""Pairs that wait to be written; more are passed over: a person cannot answer that fast anyway."""

Seen = tuple[KnownPicture, bytes | None]
"""A picture, and its bytes where a request brought them."""


class Reviewer:
    """Writes pairs down behind the requests that saw them."""

    def __init__(self, settings: Settings, decisions: DecisionStore, vault: Vault, numbers: Numbers) -> None:
        self._review = settings.review
        self._enabled = settings.review.rate > 0 and settings.keep_pictures
        self._queue = QueueStore(home().queue, decisions=decisions)
        self._vault = vault
        self._numbers = numbers
        self._known: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def offer(self, detector: Detector, left: Seen, right: Seen, match: Match) -> None:
        """Queue the pair if it is uncertain and drawn; returns at once."""
        review = self._review
        if not self._enabled or not review.low <= match.score < review.high or left[0].id == right[0].id:
            return
        key = pair_id(left[0].id, right[0].id)
        if key in self._known or not drawn(key, rate=review.rate):
            return
        if len(self._tasks) >= _WAITING:
            self._numbers.event("review_passed_over")
            return
        if len(self._known) >= 100_000:
            self._known.clear()  # the queue itself knows too, at the price of a look into it
        self._known.add(key)
        low, high = sorted((left, right), key=lambda seen: seen[0].id)
        task = asyncio.create_task(asyncio.to_thread(self._put, detector, low, high, match))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Finish what waits."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _put(self, detector: Detector, low: Seen, high: Seen, match: Match) -> None:
        try:
            uris = []
            for known, content in (low, high):
                path = self._vault.path(known.id) if content is None else self._vault.put(content)
                if not path.exists():  # an index that was filled without keeping the pictures
                    self._numbers.event("review_without_picture")
                    return
                uris.append(str(path))
            pair = QueuedPair(
                left_id=low[0].id,
                right_id=high[0].id,
                left_uri=uris[0],
                right_uri=uris[1],
                score=match.score,
                evidence=dict(match.evidence),
                draw=Draw.UNCERTAIN,
                p_draw=self._review.rate,
                embedding_digest=detector.model.embedding_digest,
                scorer_digest=detector.model.scorer_digest,
                source="serve",
                enqueued=datetime.now(UTC),
            )
            if self._queue.put([pair]):
                self._numbers.event("queued")
        except (NddError, OSError) as error:  # nobody waits for this; the answer has been given
            self._known.discard(pair_id(low[0].id, high[0].id))  # seen again, it may be drawn again
            self._numbers.event("review_failed")
            _log.warning("review", extra={"fields": {"reason": type(error).__name__}})


def drawn(key: str, *, rate: float) -> bool:
    """True for a share `rate` of all pair ids, always the same ones."""
    return int(key[:13], 16) < rate * 16**13
