"""The last step: evidence → scores → threshold → groups → which copy to keep → tables and report.

Shapes: P candidate pairs, rows of the album, left < right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median_high

import numpy as np
from numpy.typing import NDArray

from ndd.groups import Link, completions, group
from ndd.stages.album import Album
from ndd.stages.match import merge, pair_distances, pair_hash_bits
from ndd.stages.task import SearchTask
from ndd.stages.verify import evidence_values, from_text
from ndd.stages.work import decided_rows
from ndd.tables import PairRow
from ndd.types import Failure, Relation
from ndd.verify.geometry import GeometricEvidence
from ndd.verify.score import PairEvidence, Scorer, estimate_prior, least_score, relation_of, threshold_for_precision

__all__ = ["Verdicts", "completing", "judge", "parts"]

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Verdicts:
    """What a search concludes. Rows are numbered as in the album.

    pairs: every candidate with a score of at least the floor, and the exact copies. groups: of two or more paths, sorted.
    failures: pictures that could be read once and not any more. duplicates: how many pairs are accepted.
    """

    pairs: list[PairRow]
    groups: list[tuple[str, ...]]
    failures: list[Failure]
    threshold: float
    prior: float
    duplicates: int


@dataclass(frozen=True, slots=True, eq=False)
class _Candidates:
    left: Rows
    right: Rows
    evidence: Sequence[PairEvidence]
    scores: NDArray[np.float64]


def completing(task: SearchTask, album: Album) -> Rows:
    """(P, 2) pairs worth comparing beyond the candidates, sorted: they tell whether two linked groups are really one.

    A search that looks at k neighbours cannot see all pairs of a larger group (see `ndd.groups.completions`). At most as
    many as there are candidates: a scorer that accepts everything would ask for all pairs of the album.
    """
    return _Judge(task, album).completing()


def judge(task: SearchTask, album: Album) -> Verdicts:
    """Score the candidates of a search and group the pictures. The same files in `task` give the same verdicts."""
    return _Judge(task, album).verdicts()


class _Judge:
    def __init__(self, task: SearchTask, album: Album) -> None:
        self.task, self.album, self.config = task, album, task.config
        self.paths, self.ids = album.texts("path"), album.texts("id")
        self.must, self.cannot = (
            {(int(a), int(b)) for a, b in decided_rows(album, pairs, sided=task.sided)}
            for pairs in (task.must, task.cannot)
        )
        self.copies = sorted(album.copies())
        self.scorer = Scorer(task.calibration)

    def verdicts(self) -> Verdicts:
        found, prior, threshold = self._scored()
        rows = self._rows(found, threshold)
        accepted = [row for row in rows if row.duplicate]
        exact = [self._exact(left, right) for left, right in self.copies]
        return Verdicts(
            pairs=rows + exact,
            groups=self._groups(accepted),
            failures=self._failures(),
            threshold=threshold,
            prior=prior,
            duplicates=len(accepted) + len(exact),
        )

    def _scored(self) -> tuple[_Candidates, float, float]:
        """The candidates with their scores under the prior that those speak for, that prior, and the threshold."""
        table = self.task.read_candidates()
        left, right = (table.column(name).to_numpy() for name in ("left", "right"))
        evidence = self._evidence(left, right, self._known(left, right))
        odds = self.scorer.log_odds(evidence)
        prior = estimate_prior(self.scorer.under(odds), prior=self.scorer.prior)
        scores = self.scorer.with_prior(prior).under(odds)
        asked, wanted = self.config.threshold, self.config.precision
        threshold = max(threshold_for_precision(scores, wanted), least_score(wanted)) if asked is None else asked
        return _Candidates(left, right, evidence, scores), prior, threshold

    def _rows(self, found: _Candidates, threshold: float) -> list[PairRow]:
        """Of the pairs that are duplicates, or score as much as is to be kept. Most pairs are neither, and have no row."""
        worth = found.scores >= min(self.config.floor, threshold)
        if self.must:
            pairs = zip(found.left.tolist(), found.right.tolist(), strict=True)
            worth |= np.fromiter((pair in self.must for pair in pairs), np.bool_, len(worth))
        rows = (self._row(found, int(at), threshold) for at in np.flatnonzero(worth))
        return [row for row in rows if row.duplicate or row.score >= self.config.floor]

    def _failures(self) -> list[Failure]:
        """Pictures that could be read while they were embedded and not any more, each once."""
        paths = dict(zip(self.ids, self.paths, strict=True))
        stores = (self.task.voter_store(), self.task.keypoint_store())
        found = {failure.path: failure for store in stores for failure in store.failures(paths)}
        return [found[path] for path in sorted(found)]

    def completing(self) -> Rows:
        found, _, threshold = self._scored()
        accepted = [row for row in self._rows(found, threshold) if row.duplicate]
        paths, links = self._links(accepted)
        asked = completions(paths, links, must=self._named(self.must), cannot=self._named(self.cannot))
        at = {path: row for row, path in enumerate(self.paths)}
        table, sides = self.task.read_candidates(), self.album.numbers("side")
        known = set(zip(*(table.column(name).to_pylist() for name in ("left", "right")), strict=True))
        pairs = [(at[a], at[b]) for a, b in asked]
        extra = [
            (a, b)
            for a, b in pairs
            if (a, b) not in known and self.ids[a] != self.ids[b] and (not self.task.sided or sides[a] != sides[b])
        ]
        return merge(np.asarray(extra[: max(1000, len(known))], np.int64).reshape(-1, 2))

    def _known(self, left: Rows, right: Rows) -> list[GeometricEvidence | None]:
        """What verification wrote; None for a pair that needed none or whose pictures are gone."""
        texts: dict[tuple[str, str], str] = {}
        for table in self.task.evidence_store():
            columns = (table.column(name).to_pylist() for name in table.column_names)
            texts.update({(a, b): text for a, b, text in zip(*columns, strict=True)})
        found = (texts.get((self.ids[a], self.ids[b])) for a, b in zip(left, right, strict=True))
        return [None if text is None else from_text(text) for text in found]

    def _evidence(self, left: Rows, right: Rows, geometry: Sequence[GeometricEvidence | None]) -> list[PairEvidence]:
        distance = pair_distances(self.album.vectors, left, right)
        bits, upright = pair_hash_bits(self.album.hashes, left, right)
        flat, hubness = (self.album.table.column(name).to_numpy() for name in ("flat", "hubness"))
        return [
            PairEvidence(
                distance=float(distance[at]),
                hash_bits=int(bits[at]),
                geometry=geometry[at],
                flat=bool(flat[left[at]] or flat[right[at]]),
                upright=bool(upright[at]),
                hubness=float(hubness[left[at]] + hubness[right[at]]) / 2,
            )
            for at in range(len(left))
        ]

    def _row(self, found: _Candidates, at: int, threshold: float) -> PairRow:
        left, right = int(found.left[at]), int(found.right[at])
        evidence, score = found.evidence[at], float(found.scores[at])
        relation = relation_of(evidence)
        duplicate = score >= threshold and relation is not None and relation.within(self.config.relation)
        said = self._said(left, right)
        return PairRow(
            left=self.paths[left],
            right=self.paths[right],
            score=score,
            duplicate=duplicate if said is None else said,
            relation=relation,
            distance=evidence.distance,
            evidence=evidence_values(evidence)
            | ({} if said is None else {"decision": "duplicate" if said else "distinct"}),
        )

    def _said(self, left: int, right: int) -> bool | None:
        """A person's word about the pair."""
        if (left, right) in self.cannot:
            return False
        return True if (left, right) in self.must else None

    def _exact(self, left: int, right: int) -> PairRow:
        return PairRow(
            left=self.paths[left],
            right=self.paths[right],
            score=1.0,
            duplicate=True,
            relation=Relation.EXACT,
            distance=0.0,
            evidence={"sha256": self.ids[left]},
        )

    def _links(self, accepted: Sequence[PairRow]) -> tuple[list[str], list[Link]]:
        """The paths that take part, and what links them."""
        links = [Link(row.left, row.right, row.score) for row in accepted]
        links += [Link(self.paths[a], self.paths[b], 1.0, exact=True) for a, b in self.copies]
        named = {path for link in links for path in (link.left, link.right)}
        named |= {self.paths[row] for pair in self.must | self.cannot for row in pair}
        return sorted(named), links

    def _named(self, pairs: set[tuple[int, int]]) -> list[tuple[str, str]]:
        return [(self.paths[a], self.paths[b]) for a, b in sorted(pairs)]

    def _groups(self, accepted: Sequence[PairRow]) -> list[tuple[str, ...]]:
        paths, links = self._links(accepted)
        return group(paths, links, must=self._named(self.must), cannot=self._named(self.cannot))


def parts(pairs: Sequence[PairRow]) -> dict[str, float]:
    """path → share of a fuller picture that this one shows, for pictures that are a part of others (crops).

    Every accepted pair is a vote about both of its pictures: what share of the other one it shows where it lies wholly
    within it, and 1 otherwise. The upper median counts. A crop lies within nearly every other copy; an original lies
    within a copy with a border just as a crop would, but within that one alone. (Two pictures have one vote: between an
    original and a bordered copy the border wins.) Shares are of contrast, not of area, so plain borders count little.
    """
    votes: dict[str, list[float]] = {}
    for row in pairs:
        if not row.duplicate:
            continue
        for small, full, path in (("left", "right", row.left), ("right", "left", row.right)):
            votes.setdefault(path, []).append(_share(row, small, full))
    found = {path: median_high(shares) for path, shares in votes.items()}
    return {path: share for path, share in found.items() if share < 1.0}


def _share(row: PairRow, small: str, full: str) -> float:
    if row.evidence.get("transform") is None:
        return 1.0  # told by bytes or hash: neither is a part of the other
    inside, shown = row.evidence[f"overlap_{small}"], row.evidence[f"explained_{small}"]
    if inside < 0.9 or shown < 0.5:
        return 1.0
    share = row.evidence[f"explained_{full}"] / shown
    return float(share) if 0.0 < share < 1.0 else 1.0
