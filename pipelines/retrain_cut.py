"""Which pictures a retraining learns from, and which the models are compared on. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from ndd.data.manifest import ManifestRow, Split, assign_splits, join_groups
from ndd.types import Decision, Draw, ImageId, Verdict

__all__ = ["comparable", "cut", "trainable"]


def cut(rows: Sequence[ManifestRow], decisions: Iterable[Decision], *, photos: int) -> list[ManifestRow]:
    """`rows` with their split, in which pictures of teaching decisions are trained on as far as enough others are held out.

    Left to chance, a fifth held out would silence a third of all answers: they teach only where both pictures are trained
    on. Groups move whole, those of the oldest decisions first, until min(2 · photos, half) of the held ones are left.
    decisions: all that were ever recorded; one that was taken back has taught meanwhile, so its pictures stay.
    """
    given = list(rows) if any(row.split for row in rows) else assign_splits(rows)
    group_of = {row.id: _group(row) for row in given}
    held = {_group(row) for row in given if row.split is Split.TEST}
    room = len(held) - min(2 * photos, len(held) // 2)
    moved: set[str] = set()
    for decision in sorted(decisions, key=lambda d: (d.time, d.decision_id)):
        ends = [group_of[id] for id in (decision.left_id, decision.right_id) if id in group_of]
        wanted = held.intersection(ends) - moved
        if decision.draw is Draw.AUDIT or len(ends) < 2 or not wanted:
            continue
        if len(moved | wanted) > room:
            break
        moved |= wanted
    return [replace(row, split=Split.TRAIN) if _group(row) in moved else row for row in given]


def trainable(rows: Iterable[ManifestRow]) -> set[ImageId]:
    """Pictures that may be trained on."""
    return {row.id for row in rows if row.split is Split.TRAIN}


def comparable(rows: Sequence[ManifestRow], decisions: Iterable[Decision]) -> list[ManifestRow]:
    """Held-out rows that no chain of decided duplicates ties to a picture that is trained on."""
    place = {row.id: at for at, row in enumerate(rows)}
    first: dict[str, int] = {}
    links = [(first.setdefault(_group(row), at), at) for at, row in enumerate(rows)]
    links += [
        (place[d.left_id], place[d.right_id])
        for d in decisions
        if d.verdict is Verdict.DUPLICATE and d.left_id in place and d.right_id in place
    ]
    tied = join_groups([str(at) for at in range(len(rows))], links)
    trained = {tied[at] for at, row in enumerate(rows) if row.split is Split.TRAIN}
    return [row for at, row in enumerate(rows) if row.split is Split.TEST and tied[at] not in trained]


def _group(row: ManifestRow) -> str:
    return row.group or row.id
