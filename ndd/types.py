"""The nouns of near-duplicate detection, as frozen records. No torch, no I/O."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, NewType

__all__ = [
    "Decision",
    "Draw",
    "Failure",
    "ImageId",
    "Match",
    "Pair",
    "Relation",
    "Verdict",
    "image_id",
    "pair_id",
]

ImageId = NewType("ImageId", str)
"""sha256 of the file's bytes, 64 lower-case hexadecimal digits."""


def image_id(content: bytes) -> ImageId:
    """Identity of a picture file: the sha256 of its bytes."""
    return ImageId(hashlib.sha256(content).hexdigest())


def pair_id(a: ImageId, b: ImageId) -> str:
    """Identity of an unordered pair: sha256 of the two ids, ascending, joined by a newline."""
    low, high = sorted((a, b))
    return hashlib.sha256(f"{low}\n{high}".encode()).hexdigest()


class Relation(StrEnum):
    """What two pictures are to each other, from strict to loose.

    `exact`: the same bytes. `reencoded`: the same picture in another encoding or size. `edited`: cropped, rotated,
    mirrored, overlaid, recoloured. `scene`: the same object or scene from another viewpoint.
    """

    EXACT = "exact"
    REENCODED = "reencoded"
    EDITED = "edited"
    SCENE = "scene"

    @property
    def looseness(self) -> int:
        """0 for `exact` up to 3 for `scene`."""
        return list(Relation).index(self)

    def within(self, loosest: Relation) -> bool:
        """True if a run that accepts up to `loosest` counts this relation as a duplicate."""
        return self.looseness <= loosest.looseness


class Verdict(StrEnum):
    """A person's answer about a pair; `withdrawn` takes an earlier answer back."""

    DUPLICATE = "duplicate"
    DISTINCT = "distinct"
    UNSURE = "unsure"
    WITHDRAWN = "withdrawn"


class Draw(StrEnum):
    """Why a pair was put before a person. Only `audit` draws may set thresholds or report quality."""

    UNCERTAIN = "uncertain"
    AUDIT = "audit"
    MANUAL = "manual"


@dataclass(frozen=True, slots=True, order=True)
class Pair:
    """Two paths, `left` < `right` (POSIX paths below the scanned root)."""

    left: str
    right: str

    def __post_init__(self) -> None:
        if not self.left < self.right:
            raise ValueError(f"a pair wants left < right, got {self.left!r} and {self.right!r}; use Pair.of")

    @classmethod
    def of(cls, a: str, b: str) -> Pair:
        """The pair of two different paths in canonical order."""
        return cls(min(a, b), max(a, b))


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """What the detector says of two pictures.

    score: P(duplicate | evidence), in [0, 1]. distance: 1 − cosine of the embeddings, in [0, 2].
    relation: what the two are to each other if they are duplicates; None where the evidence shows nothing shared.
    evidence: plain JSON values: keypoint inliers, overlap, transform, mirrored …
    """

    score: float
    distance: float
    duplicate: bool
    relation: Relation | None
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A picture that could not be used: where it lies, which stage gave up, and why."""

    path: str
    stage: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A person's word about a pair.

    p_draw: probability with which the sampler included this pair (1 for `manual`); audit estimates weigh by 1/p_draw.
    supersedes: decision_id of the answer this one replaces or withdraws, or None.
    """

    left_id: ImageId
    right_id: ImageId
    verdict: Verdict
    relation: Relation | None
    reviewer: str
    time: datetime
    embedding_digest: str
    scorer_digest: str
    draw: Draw = Draw.MANUAL
    p_draw: float = 1.0
    source: str = "cli"
    supersedes: str | None = None

    def __post_init__(self) -> None:
        if self.left_id >= self.right_id:
            raise ValueError("a decision wants left_id < right_id: two different pictures in ascending order")
        if not 0.0 < self.p_draw <= 1.0:
            raise ValueError(f"p_draw is an inclusion probability in (0, 1], got {self.p_draw!r}")
        if self.time.tzinfo is None:
            raise ValueError("a decision's time carries a time zone, e.g. datetime.now(timezone.utc)")

    @property
    def pair_id(self) -> str:
        """Identity of the unordered pair."""
        return pair_id(self.left_id, self.right_id)

    @property
    def decision_id(self) -> str:
        """Identity of this record: the same answer recorded twice has the same id."""
        time = self.time.astimezone(UTC).isoformat()  # the same moment told in another zone is the same answer
        key = "\n".join((self.pair_id, self.verdict, self.relation or "", self.reviewer, time, self.source))
        return hashlib.sha256(key.encode()).hexdigest()[:32]
