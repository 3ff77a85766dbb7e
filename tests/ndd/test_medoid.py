"""The copy in the middle: edits add up, so the source is nearest to all."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

from ndd.medoid import oddities
from ndd.tables import PairRow
from ndd.types import Relation

SIZE = (400, 300)
Matrix = np.ndarray[Any, np.dtype[np.float64]]


def about_the_middle(linear: list[list[float]]) -> Matrix:
    """A map of pixels that leaves the middle where it is, in units of the picture's sides."""
    scale, shift = np.diag([*SIZE, 1.0]), np.array([[1, 0, -SIZE[0] / 2], [0, 1, -SIZE[1] / 2], [0, 0, 1.0]])
    move = np.eye(3)
    move[:2, :2] = linear
    return np.asarray(np.linalg.inv(scale) @ np.linalg.inv(shift) @ move @ shift @ scale)


def turned(degrees: float) -> Matrix:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return about_the_middle([[c, -s], [s, c]])


COPIES: dict[str, tuple[Matrix, dict[str, float], str]] = {
    "turned": (turned(12), {"agreement": 0.95}, "turned"),
    "mirror": (about_the_middle([[-1, 0], [0, 1]]), {}, "mirrored"),
    "wide": (about_the_middle([[1.3, 0], [0, 1]]), {}, "stretched"),
    "dark": (np.eye(3), {"difference": 0.3}, "brightness or contrast changed"),
    "caption": (np.eye(3), {"agreement": 0.7}, "details changed"),
    "frame": (np.eye(3), {"overlap": 0.6}, "cut off or set in a frame"),
}


def pair(a: str, b: str) -> PairRow:
    """What verification would say of two of COPIES, or of one and the source: edits add up."""
    left, right = sorted((a, b))
    steps = {name: COPIES.get(name.rstrip("0123456789"), (np.eye(3), {}, "")) for name in (left, right)}
    transform = steps[right][0] @ np.linalg.inv(steps[left][0])
    changes = [step[1] for step in steps.values()]
    same = left.rstrip("0123456789") == right.rstrip("0123456789")
    evidence: dict[str, Any] = {
        "transform": transform.tolist(),
        "deformed": False,
        "difference": 0.01 + (0 if same else sum(change.get("difference", 0.0) for change in changes)),
        "agreement": 1.0 if same else math.prod(change.get("agreement", 0.99) for change in changes),
        "overlap_left": 1.0 if same else changes[0].get("overlap", 1.0),
        "overlap_right": 1.0 if same else changes[1].get("overlap", 1.0),
    }
    return PairRow(
        left=left, right=right, score=1.0, duplicate=True, relation=Relation.EDITED, distance=0.1, evidence=evidence
    )


def odd(*names: str) -> dict[str, tuple[float, str]]:
    pairs = [pair(a, b) for a, b in itertools.combinations(names, 2)]
    found = oddities(names, pairs, dict.fromkeys(names, SIZE))
    assert oddities(names[::-1], pairs[::-1], dict.fromkeys(names, SIZE)) == found, "in any order"
    return {name: (of.far, of.what) for name, of in found.items()}


@pytest.mark.parametrize("kinds", list(itertools.combinations(COPIES, 2)))
def test_the_source_is_nearest_to_all_its_copies(kinds: tuple[str, str]) -> None:
    found = odd("source", *kinds)
    assert min(found, key=lambda name: found[name][0]) == "source"


def test_what_sets_a_copy_apart_is_named() -> None:
    found = odd("source", *COPIES)
    assert min(found, key=lambda name: found[name][0]) == "source"
    assert {name: found[name][1] for name in COPIES} == {name: what for name, (_, _, what) in COPIES.items()}


def test_what_lies_between_two_copies_is_named_for_each() -> None:
    """A turned copy is turned whomever one asks; against it alone the others are turned too."""
    names = ["source", *COPIES]
    found = oddities(names, [pair(a, b) for a, b in itertools.combinations(names, 2)], dict.fromkeys(names, SIZE))
    for name, (_, _, what) in COPIES.items():
        assert found[name].against["source"] == found["source"].against[name] == what
    assert found["caption"].against["turned"] == found["turned"].against["caption"] == "turned"
    assert found["caption"].what == "details changed"


def test_a_copy_passed_on_many_times_counts_once() -> None:
    found = odd("source", "mirror", *(f"caption{n}" for n in range(9)))
    assert min(found, key=lambda name: found[name][0]) == "source"


@pytest.mark.parametrize("names", [("source", "mirror"), ("mirror1", "mirror2", "mirror3", "source")])
def test_with_fewer_than_three_different_copies_nothing_is_said(names: tuple[str, ...]) -> None:
    assert odd(*names) == {}


def test_pairs_settled_without_keypoints_are_the_same_picture() -> None:
    """An original whose copies are so near that nobody looked for keypoints is not a stranger to them."""
    settled = PairRow(
        left="resaved",
        right="source",
        score=1.0,
        duplicate=True,
        relation=Relation.REENCODED,
        distance=0.0,
        evidence={"hash_bits": 2, "upright": True},
    )
    names = ("resaved", "source", "mirror", "dark")
    pairs = [settled, *(pair(a, b) for a, b in itertools.combinations(("source", "mirror", "dark"), 2))]
    found = oddities(names, pairs, dict.fromkeys(names, SIZE))
    assert min(found, key=lambda name: found[name].far) == "source"
    assert found["source"].far < found["resaved"].far, "never compared with the other two, so no nearer to them"
