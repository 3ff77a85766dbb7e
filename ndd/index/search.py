"""Which kept pictures may be this one: near vectors, near perceptual hashes, equal bytes, a person's word; each verified."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ndd.config import FindConfig
from ndd.data.decisions import DecisionStore, confirms, obeyed, settle
from ndd.index.store import IndexStore
from ndd.known import KnownPicture
from ndd.stages.match import QUALITY
from ndd.types import Decision, Match, Relation, pair_id

if TYPE_CHECKING:
    from ndd.detector import Detector

__all__ = ["Compare", "answer", "candidates", "search"]

Compare = Callable[[KnownPicture, Sequence[KnownPicture]], Sequence[Match]]
"""What a picture is to each of several others, in their order."""

_PLACES = {"duplicate": 0, None: 1, "distinct": 2}
"""By what a person said: confirmed ones first, ruled out ones last."""


def search(
    store: IndexStore,
    picture: KnownPicture,
    compare: Compare,
    *,
    config: FindConfig,
    k: int,
    decisions: DecisionStore | None = None,
) -> list[tuple[str, Match]]:
    """At most k candidates with their matches, likeliest first. See `ndd.detector.Detector.search`."""
    said: Mapping[str, Decision] = {}
    if decisions is not None:
        said = settle(d for d in decisions.load() if picture.id in (d.left_id, d.right_id))
    ids = [*candidates(store, picture, config=config, k=k), *_confirmed(store, picture, said, config.relation)]
    entries = {id: store.get(id) for id in dict.fromkeys(ids)}
    others = {id: _known(entry.picture) for id, entry in entries.items() if entry is not None}  # None: removed since
    ranked = []
    for (id, other), bare in zip(others.items(), compare(picture, list(others.values())), strict=True):
        word = said.get(pair_id(picture.id, other.id)) if other.id != picture.id else None
        match = obeyed(bare, word, relation=config.relation)
        ranked.append((_PLACES[match.evidence.get("decision")], -match.score, match.distance, id, match))
    ranked.sort(key=lambda item: item[:4])
    return [(id, match) for *_, id, match in ranked[: max(k, 0)]]


def candidates(store: IndexStore, picture: KnownPicture, *, config: FindConfig, k: int) -> list[str]:
    """Ids of pictures worth a closer look: at most k by equal bytes, k by vector and k by perceptual hash."""
    if k <= 0:
        return []
    found = store.with_image(picture.id)[:k]
    found += [hit.id for hit in store.query(picture.vector, k=k)[0] if hit.distance <= config.max_distance]
    if picture.facts["quality"] >= QUALITY:
        found += store.near_hashes(picture.hashes, bits=config.hash_bits, k=k)
    return list(dict.fromkeys(found))


def _known(stored: KnownPicture | bytes) -> KnownPicture:
    return stored if isinstance(stored, KnownPicture) else KnownPicture.unpack(stored)


def _confirmed(store: IndexStore, picture: KnownPicture, said: Mapping[str, Decision], loosest: Relation) -> list[str]:
    """Ids of what a person called its duplicates: however far apart this model's vectors put them, they are looked at."""
    words = (word for word in said.values() if confirms(word, loosest))
    others = (word.right_id if word.left_id == picture.id else word.left_id for word in words)
    return [id for other in others for id in store.with_image(other)]


def answer(detector: Detector, found: Sequence[tuple[str, Match]]) -> dict[str, Any]:
    """What `search` found as plain JSON values: the body of `ndd index query --json` and of `/v1/query`."""
    matches = []
    for id, match in found:
        said = detector.answer(match)
        matches.append({"id": id, **{n: said[n] for n in ("score", "distance", "duplicate", "relation", "evidence")}})
    digests = {"embedding": detector.model.embedding_digest, "scorer": detector.model.scorer_digest}
    return {"matches": matches, "threshold": detector.config.precision, "digests": digests}
