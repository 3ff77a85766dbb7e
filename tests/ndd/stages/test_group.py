"""Which pictures are parts of others, from the evidence of their pairs."""

from __future__ import annotations

from typing import Any

from ndd.stages.group import parts
from ndd.tables import PairRow
from ndd.types import Pair, Relation

IDENTITY = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]


def row(a: str, b: str, *, a_within_b: float | None = None, duplicate: bool = True) -> PairRow:
    """A pair in which `a` lies wholly within `b` and shows that share of it; None: told by the hash alone."""
    pair = Pair.of(a, b)
    evidence: dict[str, Any] = {"transform": None}
    if a_within_b is not None:
        small, full = ("left", "right") if pair.left == a else ("right", "left")
        evidence = {
            "transform": IDENTITY,
            f"overlap_{small}": 1.0,
            f"explained_{small}": 1.0,
            f"overlap_{full}": a_within_b,
            f"explained_{full}": a_within_b,
        }
    return PairRow(
        left=pair.left,
        right=pair.right,
        score=0.999,
        duplicate=duplicate,
        relation=Relation.EDITED,
        distance=0.1,
        evidence=evidence,
    )


def test_a_crop_is_a_part_of_its_original() -> None:
    assert parts([row("crop", "original", a_within_b=0.6)]) == {"crop": 0.6}


def test_a_bordered_copy_does_not_make_its_original_a_part() -> None:
    pairs = [
        row("original", "bordered", a_within_b=0.85),
        row("original", "resaved"),
        row("crop", "original", a_within_b=0.6),
        row("crop", "bordered", a_within_b=0.5),
        row("crop", "resaved", a_within_b=0.6),
        row("resaved", "bordered", a_within_b=0.85),
    ]
    assert parts(pairs) == {"crop": 0.6}


def test_what_is_no_duplicate_has_no_vote() -> None:
    assert parts([row("a", "b", a_within_b=0.4, duplicate=False)]) == {}
