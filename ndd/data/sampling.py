"""Pairs and triplets that chance would seldom draw: hard negatives of the current model, and what people decided.

Shapes: P pictures searched, D numbers of an embedding, K neighbours kept of each, E examples.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ndd.config import Config, check
from ndd.index.flat import FlatIndex
from ndd.types import Decision, Draw, ImageId, Relation, Verdict

__all__ = ["DecidedPairs", "HardNegatives", "SamplingConfig", "decided_pairs", "mine"]

Indexes = NDArray[np.int64]

_SPARE = 16
"""Neighbours asked for beyond those wanted, to make up for the ones that may not be used."""


@dataclass(frozen=True, kw_only=True)
class SamplingConfig(Config):
    """What is drawn otherwise than by chance. Off by default."""

    hard: float = 0.0
    """Share of the strangers that are hard ones: near by the current model's vectors (contrastive and triplet loss)."""
    neighbours: int = 10
    """A hard one is drawn from so many of the nearest."""
    first: int = 1
    """Epoch, counted from 0, from which hard ones are used: the neighbours of an untrained network mean nothing."""
    every: int = 1
    """Epochs after which they are looked for again."""
    ceiling: float = 0.98
    """Neighbours of a greater cosine similarity are taken for duplicates that nobody labelled, and left out."""
    pool: int = 20_000
    """At most so many pictures, drawn anew each time, are searched: neither time nor memory grows with the collection."""
    decisions: float = 0.0
    """Share of the examples that are pairs people decided on, duplicates and strangers in equal parts where there are both."""

    def __post_init__(self) -> None:
        for name in ("hard", "decisions"):
            check(0 <= getattr(self, name) <= 1, f"sampling.{name} must lie in 0…1, got {getattr(self, name)}")
        for name in ("neighbours", "every"):
            check(getattr(self, name) >= 1, f"sampling.{name} must be at least 1, got {getattr(self, name)}")
        check(self.first >= 0, f"sampling.first must not be negative, got {self.first}")
        check(-1 < self.ceiling <= 1, f"sampling.ceiling must lie in -1…1, got {self.ceiling}")
        check(self.pool >= 2, f"sampling.pool must be at least 2, got {self.pool}")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HardNegatives:
    """rows: (P,) row numbers of pictures, ascending. neighbours: (P, K) row numbers, the nearest first, then −1."""

    rows: Indexes
    neighbours: Indexes

    def draw(self, rng: np.random.Generator, pictures_E: Indexes) -> Indexes:
        """(E,) a near stranger of each picture, −1 where none is known."""
        luck = rng.random(len(pictures_E))
        place = np.minimum(np.searchsorted(self.rows, pictures_E), len(self.rows) - 1)
        known = self.rows[place] == pictures_E
        count = (self.neighbours[place] >= 0).sum(axis=1) * known
        chosen = self.neighbours[place, np.minimum((luck * count).astype(np.int64), self.neighbours.shape[1] - 1)]
        return np.where(count > 0, chosen, -1)


def mine(
    vectors_PD: NDArray[np.floating],
    rows_P: Indexes,
    *,
    neighbours: int,
    ceiling: float = 1.0,
    duplicates: Collection[tuple[int, int]] = (),
) -> HardNegatives:
    """The nearest other pictures of each, by exact search.

    vectors: of unit length. rows: their pictures' row numbers, ascending. duplicates: pairs of row numbers (either order)
    that are known to be no strangers.
    """
    index = FlatIndex(vectors_PD.shape[1])
    half = np.ascontiguousarray(vectors_PD, np.float16)
    index.add(half)
    found = index.search(half, k=min(neighbours + 1 + _SPARE, len(half)))
    usable = (found.rows != np.arange(len(half))[:, None]) & (found.distances >= 1.0 - ceiling)
    place = {int(row): at for at, row in enumerate(rows_P)}
    for a, b in duplicates:
        for one, other in ((a, b), (b, a)):
            if one in place and other in place:
                usable[place[one]] &= found.rows[place[one]] != place[other]
    # Usable ones to the front, still by distance.
    order = np.argsort(~usable, axis=1, kind="stable")[:, :neighbours]
    kept = np.take_along_axis(np.where(usable, rows_P[found.rows], -1), order, axis=1)
    return HardNegatives(rows=rows_P, neighbours=kept)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DecidedPairs:
    """What people said of the pictures of a run, as row numbers. duplicates, distinct: (N, 2)."""

    duplicates: Indexes
    distinct: Indexes

    def __len__(self) -> int:
        return len(self.duplicates) + len(self.distinct)

    def among(self, rows: Indexes) -> DecidedPairs:
        """Only the pairs of which both pictures are among `rows`: what lies across a split would leak through it."""
        return DecidedPairs(
            duplicates=self.duplicates[np.isin(self.duplicates, rows).all(axis=1)],
            distinct=self.distinct[np.isin(self.distinct, rows).all(axis=1)],
        )

    def draw(self, rng: np.random.Generator, label: int) -> tuple[int, int] | None:
        """A pair of this label (0 = duplicate, 1 = not), in either order; None if there is none."""
        pairs = self.distinct if label else self.duplicates
        if len(pairs) == 0:
            return None
        a, b = pairs[rng.integers(len(pairs))]
        return (int(a), int(b)) if rng.random() < 0.5 else (int(b), int(a))


def decided_pairs(
    decisions: Iterable[Decision], row_of: Mapping[ImageId, int], *, relation: Relation = Relation.EDITED
) -> DecidedPairs:
    """Standing decisions (see `ndd.data.decisions.settle`) as pairs of rows; those on other pictures are passed over.

    Left out: `unsure`; duplicates in a looser relation than `relation`, which are neither what is searched nor strangers;
    the `audit` draw, which alone sets thresholds and reports quality and must not have been learnt.
    """
    pairs: dict[Verdict, list[tuple[int, int]]] = {Verdict.DUPLICATE: [], Verdict.DISTINCT: []}
    for decision in decisions:
        left, right = row_of.get(decision.left_id), row_of.get(decision.right_id)
        loose = decision.relation is not None and not decision.relation.within(relation)
        said = decision.verdict in pairs and not (decision.verdict is Verdict.DUPLICATE and loose)
        if said and decision.draw is not Draw.AUDIT and left is not None and right is not None:
            pairs[decision.verdict].append((min(left, right), max(left, right)))
    found = {verdict: np.array(sorted(set(p)), np.int64).reshape(-1, 2) for verdict, p in pairs.items()}
    return DecidedPairs(duplicates=found[Verdict.DUPLICATE], distinct=found[Verdict.DISTINCT])
