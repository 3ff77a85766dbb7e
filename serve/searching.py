"""Looking a picture up in the index, and what people have said about what is found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndd.detector import Detector
from ndd.index.store import IndexStore
from ndd.known import KnownPicture
from ndd.types import Match
from ndd.verify.score import PairEvidence, relation_of
from serve.engine import Engine, digests_of
from serve.errors import ApiError
from serve.rulings import Rulings

__all__ = ["Hit", "answer", "by_picture", "by_vector", "fitting", "known_of"]

_UNKNOWN_BITS = 128
"""Hash distance of unrelated pictures: what is assumed of a vector whose picture nobody has shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A picture of the index and what it is to the one asked about. A person's word is in the match already."""

    id: str
    known: KnownPicture
    metadata: Mapping[str, Any]
    match: Match


def by_picture(engine: Engine, store: IndexStore, known: KnownPicture, *, k: int, rulings: Rulings) -> list[Hit]:
    """The `k` likeliest duplicates: those a person confirmed first, near or not, those a person ruled out last."""
    decisions = rulings.store if rulings.concern(known.id) else None  # reading them all costs more than the search
    found = engine.detector.search(store, known, k=k, decisions=decisions, compare=engine.compare)
    return list(_hits(store, found))


def _hits(store: IndexStore, found: Sequence[tuple[str, Match]]) -> Iterator[Hit]:
    for id, match in found:
        entry = store.get(id)
        if entry is not None:  # else it was removed meanwhile
            yield Hit(id=id, known=known_of(entry.picture), metadata=entry.metadata, match=match)


def by_vector(detector: Detector, store: IndexStore, vector_1D: NDArray[np.float16], *, k: int) -> list[Hit]:
    """The `k` nearest, scored by their distance alone."""
    hits = []
    for near in store.query(vector_1D, k=k)[0]:
        entry = store.get(near.id)
        if entry is None:
            continue
        evidence = PairEvidence(distance=float(near.distance), hash_bits=_UNKNOWN_BITS)
        score, relation = float(detector.scorer.score([evidence])[0]), relation_of(evidence)
        within = relation is not None and relation.within(detector.config.relation)
        match = Match(
            score=score,
            distance=evidence.distance,
            duplicate=within and score >= detector.config.precision,
            relation=relation,
            evidence={},
        )
        hits.append(Hit(id=near.id, known=known_of(entry.picture), metadata=entry.metadata, match=match))
    return hits


def fitting(vector: Sequence[float], digest: str | None, detector: Detector) -> NDArray[np.float16]:
    """(1, D) float16, if the vector is one of this model's. Raises ApiError."""
    if digest is None:
        raise ApiError(422, "bad_field", "embedding_digest: say which model made the vector (/v1/model names ours)")
    if digest != detector.model.embedding_digest:
        raise ApiError(409, "other_embedding", "embedding_digest: the vector was made by another model than the index")
    dim = detector.embedder.dim
    with np.errstate(over="ignore"):
        half = np.asarray([vector], np.float16)
    if half.shape[1] != dim:
        raise ApiError(422, "bad_field", f"vector: {half.shape[1]} numbers, this model's have {dim}")
    if not np.isfinite(half).all():
        raise ApiError(422, "bad_field", "vector: a number is not finite in half precision")
    return half


def answer(detector: Detector, hits: Sequence[Hit]) -> dict[str, Any]:
    """The body of /v1/query."""
    best = hits[0] if hits else None
    return {
        "duplicate": best is not None and best.match.duplicate,
        "score": None if best is None else best.match.score,
        "relation": None if best is None else best.match.relation,
        "matches": [_match(hit) for hit in hits],
        "threshold": detector.config.precision,
        "digests": digests_of(detector),
    }


def known_of(picture: KnownPicture | bytes) -> KnownPicture:
    """A stored picture, unpacked if need be."""
    return KnownPicture.unpack(picture) if isinstance(picture, bytes) else picture


def _match(hit: Hit) -> dict[str, Any]:
    return {
        "id": hit.id,
        "image_id": hit.known.id,
        "score": hit.match.score,
        "duplicate": hit.match.duplicate,
        "relation": hit.match.relation,
        "distance": hit.match.distance,
        "evidence": dict(hit.match.evidence),
        "metadata": dict(hit.metadata),
        "decided": hit.match.evidence.get("decision"),
    }
