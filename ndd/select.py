"""Which pairs to put before a person: the ones an answer teaches most, and a random share that measures.

Two draws from the same undecided candidates:

- `uncertain`: greedy MAP of a determinantal point process (Chen, Zhang & Zhou 2018, "Fast greedy MAP inference for
  determinantal point process", alg. 1). A pair's quality is the entropy of its calibrated score plus the disagreement
  between descriptor and verification; two pairs are alike if their pictures are. So ten crops of one picture against
  ten of another are one question, not a hundred. Nothing random: the inclusion probability is 1.
- `audit`: within each stratum of the score, a simple random sample without replacement. Each pair's inclusion
  probability is n / N of its stratum, known and positive for every candidate, so averages weighted by 1/p_draw are
  those of all candidates (Horvitz & Thompson 1952). Only these may measure.

Shapes: P candidate pairs, N pictures, D numbers of an embedding. Pure: no files, no clock; the same candidates in
whatever order, with the same seed, give the same choice.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ndd.errors import UsageError
from ndd.types import Draw, ImageId, pair_id

__all__ = ["STRATA", "Candidates", "Choice", "audit_sample", "select", "uncertainty", "urgency"]

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

STRATA = (0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98)
"""Scores that part the strata of the audit draw; a run adds its threshold, so that the accepted pairs are whole strata."""
_WIDTH = 0.05
"""σ² of the likeness of two questions: exp(−d² / 2σ²), d between the pairs' features. Questions about other pictures are
about 1.2 apart, about copies of the same ones .1 to .4. Wider (.25), later rounds ran out of open questions that count as
new and asked settled ones: 200 labels taught less than 100."""
_NOVEL = 0.05
"""Least share of a question that the chosen ones do not cover already."""
_NOISE = 0.3
"""Noise of an answer given before, in variances of its question: the same question is .3 / 1.3 as new as it was, a quarter."""
_REMEMBERED = 1000
"""Most questions asked before that are looked at. They come by pair_id, a hash, so those left out are left out at random."""
_DISAGREEMENT = 0.5
"""Weight of |P(duplicate | all evidence) − P(duplicate | descriptor)| beside the entropy, which is 1 at even odds."""
_POOL = 4000
"""Most pairs the greedy draw looks at, those of the greatest quality."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Candidates:
    """Pairs one could ask about.

    pictures: the id of each of the N pictures. left, right: (P,) rows of `pictures`. score: (P,) P(duplicate | evidence).
    descriptor: (P,) P(duplicate | descriptor alone); None where it is not known. vectors: (N, D) embeddings; None where
    they are not at hand: then two questions are alike if they share a picture.
    """

    pictures: Sequence[ImageId]
    left: Rows
    right: Rows
    score: Floats
    descriptor: Floats | None = None
    vectors: NDArray[np.floating] | None = None

    def __len__(self) -> int:
        return len(self.score)

    def pair_ids(self) -> list[str]:
        """The identity of each pair."""
        rows = zip(self.left.tolist(), self.right.tolist(), strict=True)
        return [pair_id(self.pictures[a], self.pictures[b]) for a, b in rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A pair to ask about. row: of the candidates; p_draw: its inclusion probability; urgency: its place in the order."""

    row: int
    pair_id: str
    draw: Draw
    p_draw: float
    urgency: float


def select(
    candidates: Candidates,
    *,
    count: int,
    audit_share: float = 0.2,
    seed: int = 0,
    strata: Sequence[float] = STRATA,
    exclude: Collection[str] = frozenset(),
) -> list[Choice]:
    """Up to `count` pairs, most urgent first; audit draws lie among the others at random places.

    exclude: pair_ids that are decided or queued; questions like those count as less new. Identical pictures and pairs that
    come twice are no questions. Fewer than `count` are chosen where all that is left repeats a chosen question. Raises
    UsageError.
    """
    if not 0.0 <= audit_share <= 1.0:
        raise UsageError(f"audit share is {audit_share}; give a share in 0…1")
    names = candidates.pair_ids()
    first: dict[str, int] = {}
    for row, name in enumerate(names):
        if candidates.left[row] != candidates.right[row]:
            first.setdefault(name, row)
    # In the order of their names, so that the order in which they were found does not matter.
    open_, asked = (
        np.array([first[name] for name in sorted(first) if (name in exclude) is before], np.int64)
        for before in (False, True)
    )
    audits = min(math.ceil(max(count, 0) * audit_share), len(open_))
    drawn = audit_sample(candidates.score[open_], count=audits, seed=seed, strata=strata)
    chosen = [(int(open_[at]), Draw.AUDIT, p) for at, p in drawn]
    rest = np.setdiff1d(np.arange(len(open_)), [at for at, _ in drawn])
    wanted = max(count, 0) - len(chosen)
    chosen += [(row, Draw.UNCERTAIN, 1.0) for row in _uncertain(candidates, open_[rest], asked, wanted)]
    choices = [
        Choice(
            row=row,
            pair_id=names[row],
            draw=draw,
            p_draw=p,
            urgency=urgency(float(candidates.score[row]), draw=draw, pair_id=names[row]),
        )
        for row, draw, p in chosen
    ]
    return sorted(choices, key=lambda choice: (-choice.urgency, choice.pair_id))


def audit_sample(score: Floats, *, count: int, seed: int, strata: Sequence[float] = STRATA) -> list[tuple[int, float]]:
    """`count` of the pairs with these scores (P,), as (position, inclusion probability); stratified, otherwise at random.

    Each stratum gives an equal number, or all it has. Where there are fewer draws than strata, neighbouring strata are
    joined until each can give one: no candidate's probability is 0 unless `count` is.
    """
    if count <= 0 or not len(score):
        return []
    stratum = np.searchsorted(np.asarray(sorted(set(strata)), np.float64), score, side="right")
    members = _joined([np.flatnonzero(stratum == at) for at in np.unique(stratum)], count)
    shares = _shares([len(rows) for rows in members], count)
    random = np.random.default_rng(seed)
    drawn = [
        (int(at), share / len(rows))
        for rows, share in zip(members, shares, strict=True)
        for at in random.choice(rows, size=share, replace=False)
    ]
    return sorted(drawn)


def uncertainty(score: Floats) -> Floats:
    """(P,) entropy of the scores in bits: 1 at even odds, 0 where the answer is certain."""
    p = np.clip(np.asarray(score, np.float64), 1e-12, 1 - 1e-12)
    return np.asarray(-(p * np.log2(p) + (1 - p) * np.log2(1 - p)))


def urgency(score: float, *, draw: Draw, pair_id: str) -> float:
    """In [0, 1]: the greater, the sooner a person sees the pair.

    The entropy of the score. An audit draw's is a number made from its identity: were the certain ones shown last, a
    reviewer who stops early would leave a sample that is no longer random.
    """
    if draw is Draw.AUDIT:
        return int.from_bytes(hashlib.sha256(f"urgency {pair_id}".encode()).digest()[:4], "big") / 2**32
    return float(uncertainty(np.array([score]))[0])


def _uncertain(candidates: Candidates, rows: Rows, asked: Rows, count: int) -> list[int]:
    """Greedy MAP of the process with kernel quality · likeness · quality over `rows`, given that `asked` were put before."""
    score = candidates.score[rows]
    quality = uncertainty(score)
    if candidates.descriptor is not None:
        quality = quality + _DISAGREEMENT * np.abs(score - candidates.descriptor[rows])
    pool = np.sort(np.argsort(-quality, kind="stable")[: max(_POOL, 4 * count)])
    rows, quality = rows[pool], quality[pool]
    count = min(count, len(rows))
    if count <= 0:
        return []
    before = asked[-_REMEMBERED:]
    news = _News(_likeness(candidates, np.concatenate([rows, before])), len(rows) + len(before), len(before) + count)
    for at in range(len(rows), len(rows) + len(before)):
        # As an observation with noise: an answer settles much of its like, and the score that it taught says how much.
        news.observe(at, noise=_NOISE)
    chosen: list[int] = []
    while len(chosen) < count:
        left = news.novelty[: len(rows)]
        gain = np.where(left > _NOVEL, quality**2 * left, 0.0)
        best = int(gain.argmax())
        if gain[best] <= 1e-12:
            break
        news.observe(best, noise=0.0)
        chosen.append(int(rows[best]))
    return chosen


class _News:
    """How much of each question those observed leave open: the variance that a Gaussian process keeps, (Q,) in [0, 1].

    An incremental Cholesky factorisation, a row for each observation (Chen et al., eq. 11 to 13).
    """

    def __init__(self, likeness: Callable[[int], Floats], questions: int, most: int) -> None:
        self.novelty = np.ones(questions)
        self._likeness = likeness
        self._basis = np.zeros((most, questions))
        self._observed = 0

    def observe(self, at: int, *, noise: float) -> None:
        """The question at this position has been put; noise: variance of what was learnt."""
        known = self._basis[: self._observed]
        row = (self._likeness(at) - known[:, at] @ known) / math.sqrt(self.novelty[at] + noise)
        self._basis[self._observed] = row
        self._observed += 1
        self.novelty = self.novelty - row**2
        if noise == 0.0:
            self.novelty[at] = 0.0


def _likeness(candidates: Candidates, rows: Rows) -> Callable[[int], Floats]:
    """How alike the question at a position of `rows` is to all of them, in [0, 1]."""
    left, right = candidates.left[rows], candidates.right[rows]
    if candidates.vectors is None:
        return lambda at: np.asarray(
            sum(0.5 * ((left == end).astype(np.float64) + (right == end)) for end in (left[at], right[at]))
        )
    a, b = (candidates.vectors[side].astype(np.float32) for side in (left, right))
    # The same for both orders of a pair.
    features = np.hstack([a + b, np.abs(a - b)]) / 2
    squares = np.einsum("pd,pd->p", features, features)

    def like(at: int) -> Floats:
        gaps = np.maximum(squares + squares[at] - 2 * features @ features[at], 0.0)
        return np.asarray(np.exp(-gaps / (2 * _WIDTH)), np.float64)

    return like


def _joined(members: Sequence[Rows], count: int) -> list[Rows]:
    """At most `count` strata: the smallest neighbours joined."""
    joined = list(members)
    while len(joined) > count:
        at = min(range(len(joined) - 1), key=lambda i: len(joined[i]) + len(joined[i + 1]))
        joined[at : at + 2] = [np.concatenate(joined[at : at + 2])]
    return joined


def _shares(sizes: Sequence[int], count: int) -> list[int]:
    """How many of each stratum: as equal as their sizes allow, the odd ones to the largest."""
    shares = [0] * len(sizes)
    left = min(count, sum(sizes))
    while left:
        room = [at for at, size in enumerate(sizes) if shares[at] < size]
        room.sort(key=lambda at: (shares[at], -sizes[at]))
        each = max(left // len(room), 1)
        for at in room[:left]:
            given = min(each, sizes[at] - shares[at], left)
            shares[at] += given
            left -= given
    return shares
