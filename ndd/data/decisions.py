"""People's decisions about pairs: an append-only, crash-safe store, with CSV and Parquet in and out.

The store is one checksummed CSV log (`ndd.data.journal` says why and what a crash can do). A decision names pictures by
content, so it survives renames, re-scans, re-indexing and retraining. Nothing is ever changed in place: an answer is
replaced by a newer one and taken back by a `withdrawn` one.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path

from ndd.data.decision_rows import COLUMNS, cells_of, from_values, read_decisions, write_decisions
from ndd.data.journal import Damage, Journal, Row
from ndd.types import Decision, ImageId, Match, Relation, Verdict

__all__ = ["DecisionStore", "confirms", "obeyed", "settle", "words"]


class DecisionStore:
    """Decisions below `root` (usually `home().decisions`), in `root/decisions.csv`. Creates nothing before an append.

    Any number of processes may append and read at the same time.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self._journal = Journal(Path(root) / "decisions.csv", columns=COLUMNS)
        self._parsed: dict[Row, Decision] = {}  # a line never changes, so it is parsed once

    @property
    def path(self) -> Path:
        """The log."""
        return self._journal.path

    def append(self, decision: Decision) -> bool:
        """Record one decision; durable when this returns. False if it was there already (same decision_id).

        Raises SchemaError for an id that is no sha256 or text that does not fit on a line, StoreError.
        """
        return self.extend([decision]) == 1

    def extend(self, decisions: Iterable[Decision]) -> int:
        """Record many with one write; how many were new. All of them are checked before the first is written."""
        rows: dict[str, list[str]] = {}
        for i, decision in enumerate(decisions):
            cells = cells_of(decision, where=f"decision {i}")
            rows.setdefault(cells[0], cells)
        with self._journal.writing() as log:
            known = {row.cells[0] for row in log.rows}
            new = [cells for key, cells in rows.items() if key not in known]
            log.append(new)
        return len(new)

    def load(self) -> list[Decision]:
        """Every decision ever recorded, oldest record first. Damaged lines are passed over, logged and in `damage()`.

        Raises StoreError if the file is no decision log, SchemaError for a line that this version cannot understand.
        """
        return [self._parse(row) for row in self._journal.read()]

    def damage(self) -> list[Damage]:
        """Lines that `load` passed over."""
        return self._journal.damage()

    def current(self) -> dict[str, Decision]:
        """pair_id → the decision that stands; see `settle`."""
        return settle(self.load())

    def word(self, a: ImageId, b: ImageId) -> Decision | None:
        """The decision that stands about two pictures, in either order; None where nobody has a word."""
        two = {a, b}
        return next(iter(settle(d for d in self.load() if {d.left_id, d.right_id} == two).values()), None)

    def must_links(
        self, ids: Iterable[ImageId] | None = None, *, relation: Relation = Relation.EDITED
    ) -> list[tuple[ImageId, ImageId]]:
        """Pairs of pictures a person called duplicates, for grouping; ascending, each pair as (left_id, right_id).

        ids: only pairs of which both pictures are among these; None for all. relation: the loosest relation that the
        run counts as a duplicate: an answer that names a looser one (`scene`, say) does not link.
        """
        return self._links(ids, lambda d: confirms(d, relation))

    def cannot_links(
        self, ids: Iterable[ImageId] | None = None, *, relation: Relation = Relation.EDITED
    ) -> list[tuple[ImageId, ImageId]]:
        """Pairs a person called distinct, or duplicates only in a looser relation than the run counts; as above.

        `unsure` links in neither way.
        """
        return self._links(
            ids,
            lambda d: d.verdict in (Verdict.DUPLICATE, Verdict.DISTINCT) and not confirms(d, relation),
        )

    def export(self, path: str | os.PathLike[str]) -> int:
        """Write every decision to a `.csv` or `.parquet` file, by time; how many. Raises UsageError, StoreError."""
        decisions = sorted(self.load(), key=_age)
        write_decisions(path, decisions)
        return len(decisions)

    def import_from(self, path: str | os.PathLike[str]) -> int:
        """Record the decisions of a `.csv` or `.parquet` file; how many were new. One bad row and nothing is recorded.

        Raises UsageError, InputError, SchemaError naming the line or row and the column, StoreError.
        """
        return self.extend(read_decisions(path))

    def _parse(self, row: Row) -> Decision:
        if row not in self._parsed:
            values = dict(zip(COLUMNS, row.cells, strict=True))
            self._parsed[row] = from_values(values, where=f"{self.path}, line {row.line}")
        return self._parsed[row]

    def _links(
        self, ids: Iterable[ImageId] | None, wanted: Callable[[Decision], bool]
    ) -> list[tuple[ImageId, ImageId]]:
        among = None if ids is None else frozenset(ids)
        return sorted(
            (d.left_id, d.right_id)
            for d in self.current().values()
            if wanted(d) and (among is None or (d.left_id in among and d.right_id in among))
        )


def obeyed(match: Match, word: Decision | None, *, relation: Relation) -> Match:
    """The match under a person's word on the pair: `duplicate` is what they said, and `evidence["decision"]` says so.

    relation: the loosest that counts as a duplicate; one that they called looser is distinct. Score, distance and the
    rest stay as measured. Nobody's word, and `unsure`, change nothing.
    """
    if word is None or word.verdict not in (Verdict.DUPLICATE, Verdict.DISTINCT):
        return match
    same = confirms(word, relation)
    evidence = {**match.evidence, "decision": str(Verdict.DUPLICATE if same else Verdict.DISTINCT)}
    return dataclasses.replace(match, duplicate=same, evidence=evidence)


def settle(decisions: Iterable[Decision]) -> dict[str, Decision]:
    """pair_id → the decision that stands, whatever the order of `decisions` (each decision_id once).

    Of the reviewers' words (see `words`) the newest stands; equal times are told apart by decision_id. A pair on which
    nobody has a word is absent.
    """
    return {pair: max(said, key=_age) for pair, said in words(decisions).items()}


def words(decisions: Iterable[Decision]) -> dict[str, list[Decision]]:
    """pair_id → each reviewer's word on the pair, oldest first, whatever the order of `decisions` (each decision_id once).

    A reviewer's word is their newest answer; an answer that another one on the same pair `supersedes` is void, and a
    reviewer whose newest answer is `withdrawn` or void has no word (an older one does not come back). A pair on which
    nobody has a word is absent.
    """
    by_pair: dict[tuple[ImageId, ImageId], list[Decision]] = {}
    for decision in decisions:
        by_pair.setdefault((decision.left_id, decision.right_id), []).append(decision)
    standing = (_words(answers) for answers in by_pair.values())
    return dict(sorted((said[0].pair_id, said) for said in standing if said))


def _words(answers: list[Decision]) -> list[Decision]:
    """Each reviewer's word among all answers on one pair."""
    superseded_by: dict[str, set[str]] = {}
    for answer in answers:
        if answer.supersedes is not None:
            superseded_by.setdefault(answer.supersedes, set()).add(answer.reviewer)
    aged = {_age(answer): answer for answer in answers}
    newest: dict[str, tuple[datetime, str]] = {}
    for age in sorted(aged):
        # A reviewer's own correction wins over what it corrects even where a clock was set back in between.
        if aged[age].reviewer not in superseded_by.get(age[1], ()):
            newest[aged[age].reviewer] = age
    said = [a for a in newest.values() if aged[a].verdict is not Verdict.WITHDRAWN and a[1] not in superseded_by]
    return [aged[age] for age in sorted(said)]


def _age(decision: Decision) -> tuple[datetime, str]:
    return (decision.time, decision.decision_id)


def confirms(decision: Decision, loosest: Relation) -> bool:
    """Does it call the two duplicates, in a relation that counts (`loosest` is the loosest that does)?"""
    counts = decision.relation is None or decision.relation.within(loosest)
    return decision.verdict is Verdict.DUPLICATE and counts
