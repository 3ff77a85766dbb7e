"""What the server can do, without HTTP: compare, query, keep an index, record decisions."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

from ndd.data.decisions import DecisionStore, obeyed
from ndd.detector import Detector
from ndd.errors import DecodeError, DigestMismatch, NddError
from ndd.home import home
from ndd.known import KnownPicture
from ndd.types import Decision, ImageId, Match, Relation, Verdict
from serve.engine import Engine, digests_of
from serve.errors import ApiError, from_exception
from serve.gate import Gate
from serve.metrics import Numbers
from serve.migrate import Migration
from serve.models import Models
from serve.review import Reviewer
from serve.rulings import Rulings
from serve.schemas import DecisionFields
from serve.searching import answer, by_picture, by_vector, fitting, known_of
from serve.settings import Settings
from serve.shelf import Shelf, Stored
from serve.vault import Vault

__all__ = ["Service"]

T = TypeVar("T")
_log = logging.getLogger("ndd.serve")
_LAST_FEW = 8
"""Pictures that may be left to embed when an index moves and writers begin to wait."""
_BESIDE = 8
"""Pairs that the challenger scores at once; more are passed over, so that it never holds up the champion."""


class Service:
    """One replica's work. Methods raise ApiError."""

    def __init__(self, settings: Settings, *, replica: str | None = None) -> None:
        """replica: its name among those that serve together."""
        self.settings = settings
        self.numbers = Numbers(replica=replica)
        self.models = Models(settings, self.numbers)
        self.rulings = Rulings(DecisionStore(home().decisions))
        self.vault = Vault(settings.index_path.with_name(settings.index_path.name + ".pictures"))
        self.reviewer = Reviewer(settings, self.rulings.store, self.vault, self.numbers)
        self.shelf: Shelf | None = None
        self._index_problem: str | None = None
        self._writes = Gate()
        self._beside: set[asyncio.Task[None]] = set()
        try:
            self.shelf = self._opened(self.models.engine)
        except DigestMismatch:
            self._index_problem = "the index was made by a model with another embedding; serve that model, or migrate"
        self.numbers.gauge(
            "pictures_waiting", "Pictures that no thread has taken yet", lambda: self.models.engine.waiting
        )
        self.numbers.gauge(
            "index_pictures", "Pictures in the index", lambda: 0 if self.shelf is None else len(self.shelf)
        )

    def check(self) -> None:
        """Raises if this replica cannot work."""
        self.models.engine.check()

    async def start(self) -> None:
        """Called once in the event loop, before the first request."""
        await self.models.start(self._adopting)

    async def stop(self) -> None:
        """Called once, after the last one."""
        await self.models.stop()
        await self.reviewer.stop()
        if self.shelf is not None:
            await asyncio.to_thread(self.shelf.close)

    async def compare(self, a: bytes, b: bytes) -> dict[str, Any]:
        """The body of `ndd compare --json`: a person's word on the two is obeyed."""
        with self.models.lease() as engine:
            left, right = await self._look(engine, {"a": a, "b": b})
            match = await engine.match(left, right)
            self.numbers.score(match.score)
            self.reviewer.offer(engine.detector, (left, a), (right, b), match)
            self._canary(a, b, engine.detector, match)
            word = await self._run(engine, lambda: self.rulings.word(left.id, right.id))
            return engine.detector.answer(obeyed(match, word, relation=engine.detector.config.relation))

    async def query(self, image: bytes, *, k: int) -> dict[str, Any]:
        """The likeliest duplicates of a picture among those in the index."""
        self._bounded(k)
        with self.models.lease() as engine:
            shelf = self._shelf()
            (known,) = await self._look(engine, {"image": image})
            work = lambda: by_picture(engine, shelf.read(), known, k=k, rulings=self.rulings)  # noqa: E731
            hits = await self._run(engine, work)
            for hit in hits:
                self.numbers.score(hit.match.score)
                self.reviewer.offer(engine.detector, (known, image), (hit.known, None), hit.match)
            return answer(engine.detector, hits)

    async def query_vector(self, vector: Sequence[float], digest: str | None, *, k: int) -> dict[str, Any]:
        """The same for an embedding that the caller has: only distances can be judged then."""
        self._bounded(k)
        with self.models.lease() as engine:
            shelf, detector = self._shelf(), engine.detector
            half = fitting(vector, digest, detector)
            return answer(detector, await self._run(engine, lambda: by_vector(detector, shelf.read(), half, k=k)))

    async def add(self, image: bytes, *, id: str, metadata: Mapping[str, Any], replace: bool) -> dict[str, Any]:
        """Put a picture into the index; on disk when this returns."""
        async with self._writes.passing():
            return await self._add(image, id=id, metadata=metadata, replace=replace)

    async def _add(self, image: bytes, *, id: str, metadata: Mapping[str, Any], replace: bool) -> dict[str, Any]:
        most = self.settings.limits.metadata_bytes
        if len(json.dumps(metadata)) > most:
            raise ApiError(413, "too_large", f"metadata: may have {most} bytes as JSON")
        with self.models.lease() as engine:
            shelf = self._shelf()
            (known,) = await self._look(engine, {"image": image})
            packed = await engine.run(known.pack)
            try:
                if self.settings.keep_pictures:
                    await engine.run(lambda: self.vault.put(image))
                added = await shelf.add(Stored(id=id, picture=packed, metadata=metadata, replace=replace))
            except (NddError, OSError) as error:
                raise from_exception(error) from error
            return {
                "id": id,
                "image_id": known.id,
                "status": added.outcome,
                "digests": engine.digests,
            }

    async def get(self, id: str) -> dict[str, Any]:
        """What is kept of a picture."""
        known, metadata = await asyncio.to_thread(self._entry, id)
        return {"id": id, "image_id": known.id, "metadata": dict(metadata)}

    async def picture(self, id: str) -> bytes:
        """The bytes of a picture that was added."""
        known, _ = await asyncio.to_thread(self._entry, id)
        content = await asyncio.to_thread(self.vault.get, known.id)
        if content is None:
            raise ApiError(404, "not_kept", "the bytes of this picture are not kept here")
        return content

    async def remove(self, id: str) -> dict[str, Any]:
        """Take a picture out of the index; its bytes go too."""
        try:
            async with self._writes.passing():
                removed = await self._shelf().remove(id)
        except (NddError, OSError) as error:
            raise from_exception(error) from error
        return {"id": id, "removed": removed}

    async def decide(self, said: DecisionFields) -> dict[str, Any]:
        """Record a person's word; on disk when this returns, and obeyed by the next query."""
        left, right = await asyncio.to_thread(self._two, said)
        model = self.models.engine.detector.model
        decision = Decision(
            left_id=left,
            right_id=right,
            verdict=Verdict(said.verdict),
            relation=None if said.relation is None else Relation(said.relation),
            reviewer=said.reviewer,
            time=said.time or datetime.now(UTC),
            embedding_digest=model.embedding_digest,
            scorer_digest=model.scorer_digest,
            source="serve",
        )
        try:
            recorded = await asyncio.to_thread(self.rulings.store.append, decision)
        except (NddError, OSError) as error:
            raise from_exception(error, name="decision") from error
        return {
            "decision_id": decision.decision_id,
            "pair_id": decision.pair_id,
            "left_id": left,
            "right_id": right,
            "verdict": decision.verdict,
            "recorded": recorded,
        }

    def embedding(self) -> tuple[str, int]:
        """Digest and dimension of the vectors that are understood now."""
        detector = self.models.engine.detector
        return detector.model.embedding_digest, detector.embedder.dim

    def said(self) -> dict[str, Any]:
        """What answers here: the model, the index, what was refused."""
        with self.models.lease() as engine:
            detector = engine.detector
            model, challenger = detector.model, self.models.challenger
            runtime = "torch" if model.runtime is None else f"{model.runtime.engine} {model.runtime.precision}"
            index = {"error": self._index_problem} if self.shelf is None else self.shelf.info()
            return {
                "digests": engine.digests,
                "architecture": str(model.card.get("architecture", model.config.backbone)),
                "runtime": runtime,
                "relation": detector.config.relation,
                "threshold": detector.config.precision,
                "index": index,
                "challenger": None
                if challenger is None
                else {"digests": challenger.digests, "share": self.settings.canary},
                "refused": self.models.refused,
                "fetches_urls": self.settings.urls.enabled,
            }

    async def _look(self, engine: Engine, pictures: dict[str, bytes]) -> list[KnownPicture]:
        found = []
        for name, known in zip(pictures, await engine.look(list(pictures.values())), strict=True):
            if isinstance(known, DecodeError):
                raise from_exception(known, name=name)
            found.append(known)
        return found

    async def _run(self, engine: Engine, work: Callable[[], T]) -> T:
        try:
            return await engine.run(work)
        except (NddError, OSError) as error:
            raise from_exception(error) from error

    def _bounded(self, k: int) -> None:
        if k > self.settings.limits.k:
            raise ApiError(422, "bad_field", f"k: at most {self.settings.limits.k} matches are given")

    def _shelf(self) -> Shelf:
        if self.shelf is None:
            raise ApiError(409, "other_embedding", self._index_problem or "there is no index")
        return self.shelf

    def _entry(self, id: str) -> tuple[KnownPicture, Mapping[str, Any]]:
        try:
            entry = self._shelf().read().get(id)
        except (NddError, OSError) as error:
            raise from_exception(error) from error
        if entry is None:
            raise ApiError(404, "unknown_id", "no picture of this id is in the index")
        return known_of(entry.picture), entry.metadata

    def _two(self, said: DecisionFields) -> tuple[ImageId, ImageId]:
        ids = []
        for content, key in ((said.left_id, said.left), (said.right_id, said.right)):
            if (content is None) == (key is None):
                raise ApiError(422, "bad_field", "name each picture once: left_id or left, right_id or right")
            ids.append(ImageId(content) if content is not None else self._entry(key or "")[0].id)
        if ids[0] == ids[1]:
            raise ApiError(422, "same_picture", "both sides are the same picture; a decision is about two")
        return min(ids), max(ids)

    def _canary(self, a: bytes, b: bytes, detector: Detector, match: Match) -> None:
        """Let the challenger score the pair too, after the answer and beside everything else."""
        challenger = self.models.challenger
        if challenger is None or random.random() >= self.settings.canary:
            return
        if len(self._beside) >= _BESIDE:
            self.numbers.event("canary_passed_over")
            return
        task = asyncio.create_task(self._score_too(challenger, a, b, detector, match))
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)

    async def _score_too(self, challenger: Engine, a: bytes, b: bytes, detector: Detector, match: Match) -> None:
        with challenger.held():
            left, right = await challenger.look([a, b])
            if isinstance(left, DecodeError) or isinstance(right, DecodeError):
                return
            other = await challenger.match(left, right)
            self.numbers.canary(match.score, other.score)
            fields = {
                "left_id": left.id,
                "right_id": right.id,
                "champion": {"score": match.score, "duplicate": match.duplicate, **digests_of(detector)},
                "challenger": {"score": other.score, "duplicate": other.duplicate, **challenger.digests},
            }
            _log.info("canary", extra={"fields": fields})

    def _opened(self, engine: Engine) -> Shelf:
        digest, dim = engine.detector.model.embedding_digest, engine.detector.embedder.dim
        return Shelf(self.settings.index_path, embedding_digest=digest, dim=dim)

    @asynccontextmanager
    async def _adopting(self, fresh: Engine) -> AsyncIterator[str | None]:
        """Get the index ready for a promoted model; says why it cannot be. Engine and index change in one step: nothing
        is awaited between the end of the block and the new index."""
        shelf, digest = self.shelf, fresh.detector.model.embedding_digest
        if shelf is not None and digest == self.models.engine.detector.model.embedding_digest:
            yield None
        elif shelf is None:
            try:
                opened = await asyncio.to_thread(self._opened, fresh)
            except (NddError, OSError) as error:
                yield f"the index cannot be opened with it ({type(error).__name__})"
                return
            yield None
            self.shelf, self._index_problem = opened, None
        elif self.settings.new_embedding == "refuse" and len(shelf):
            yield "its vectors mean something else than those of the index; start with new_embedding=migrate"
        else:
            async with self._moving(shelf, fresh) as why:
                yield why

    @asynccontextmanager
    async def _moving(self, shelf: Shelf, fresh: Engine) -> AsyncIterator[str | None]:
        """Take the index along to another embedding; writers wait only while the last few pictures go."""
        migration: Migration | None = None
        try:
            migration = await asyncio.to_thread(Migration, shelf.read(), fresh.detector, self.vault)
            while await asyncio.to_thread(migration.copy) > _LAST_FEW:
                pass
        except (NddError, OSError) as error:
            yield await _given_up(migration, error)
            return
        async with self._writes.closed():
            try:
                await asyncio.to_thread(migration.copy)
                shelf.retire()
                await asyncio.to_thread(migration.finish)
                opened = await asyncio.to_thread(self._opened, fresh)
            except (NddError, OSError) as error:
                yield await _given_up(migration, error)
                return
            yield None
            self.shelf = opened
            self.numbers.event("migrated")


async def _given_up(migration: Migration | None, error: Exception) -> str:
    if migration is not None:
        await asyncio.to_thread(migration.give_up)
    return f"the index cannot be moved to its embedding ({type(error).__name__})"
