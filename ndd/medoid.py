"""Which copy of a group lies in the middle of the others: the one that all of them can have been made from.

Edits add up. An original differs from each copy by that copy's edit alone, two copies differ from one another by both
edits, so the copy with the least mean difference to the others, the medoid (Kaufman & Rousseeuw 1987), is the likeliest
source. Copies that hardly differ count once together: a picture passed on ten times is no more original for it. With
fewer than three different copies there is no middle, and nothing is said.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ndd.tables import PairRow

__all__ = ["Oddity", "oddities"]

_SAME = 0.06
"""Copies that differ by less count as one."""
_LEAST = 3
"""Different copies that make a middle."""
_WEIGHTS: Mapping[str, tuple[float, float]] = {
    "turned": (0.5, 0.5),
    "mirrored": (0.5, 0.5),
    "stretched": (2.0, 0.5),
    "bent": (0.3, 0.3),
    "brightness or contrast changed": (2.0, 1.0),
    "details changed": (0.6, 0.6),
    "cut off or set in a frame": (0.5, 1.0),
}
"""What may lie between two copies: its weight, and the most that it counts."""


_Near = Mapping[str, Mapping[str, float]]
"""Other copy → the weighted edits between."""


@dataclass(frozen=True, slots=True)
class Oddity:
    """How far a copy is from the others (0: like all of them), and what sets it apart most.

    what: of the others together. against: of each one that it was compared with, empty where the two hardly differ.
    """

    far: float
    what: str
    against: Mapping[str, str]


def oddities(
    members: Sequence[str], pairs: Iterable[PairRow], sizes: Mapping[str, tuple[int, int]]
) -> dict[str, Oddity]:
    """The oddity of each of a group's members; empty where fewer than three differ.

    pairs: accepted pairs with their evidence; those of other pictures are passed over. sizes: (width, height) in pixels.
    """
    near: dict[str, dict[str, dict[str, float]]] = {path: {} for path in members}
    for row in pairs:
        between = _between(row, sizes) if row.left in near and row.right in near else None
        if between is not None:
            near[row.left][row.right] = near[row.right][row.left] = between
    vote = {path: 1.0 / (1 + sum(_total(edits) < _SAME for edits in near[path].values())) for path in members}
    if sum(vote.values()) < _LEAST - 0.5:
        return {}
    # Who was never compared with a copy is taken to be as far from it as the others are.
    seen = {path: _mean((_total(edits), vote[other]) for other, edits in _unlike(near[path])) for path in members}
    usual = _mean((far, 1.0) for far in seen.values() if far is not None) or 0.0
    expected = {path: usual if far is None else far for path, far in seen.items()}
    everything = sum(vote.values()), sum(vote[path] * expected[path] for path in members)
    found = {}
    for path in members:
        weight, total = everything
        for other in (path, *near[path]):
            weight, total = weight - vote[other], total - vote[other] * expected[other]
        for other, edits in _unlike(near[path]):
            weight, total = weight + vote[other], total + vote[other] * _total(edits)
        worst = {name: sum(vote[other] * edits[name] for other, edits in _unlike(near[path])) for name in _WEIGHTS}
        found[path] = Oddity(
            far=round(total / max(weight, 1e-9), 6),
            what=_most(worst),
            against={other: _most(edits) if _total(edits) >= _SAME else "" for other, edits in near[path].items()},
        )
    return found


def _most(edits: Mapping[str, float]) -> str:
    return max(edits, key=edits.__getitem__)


def _unlike(near: _Near) -> list[tuple[str, Mapping[str, float]]]:
    return [(path, edits) for path, edits in near.items() if _total(edits) >= _SAME]


def _mean(values: Iterable[tuple[float, float]]) -> float | None:
    """Weighted mean of (value, weight); None of nothing."""
    known = list(values)
    return sum(value * weight for value, weight in known) / sum(weight for _, weight in known) if known else None


def _total(edits: Mapping[str, float]) -> float:
    return sum(edits.values())


def _between(row: PairRow, sizes: Mapping[str, tuple[int, int]]) -> dict[str, float] | None:
    """The weighted edits between two copies; None where the evidence does not say."""
    seen = row.evidence
    if "transform" not in seen:  # settled by hash and descriptor: the same picture encoded anew
        return dict.fromkeys(_WEIGHTS, 0.0)
    if seen["transform"] is None:
        return None
    turn, mirrored, stretch = _shape(seen["transform"], sizes[row.left], sizes[row.right])
    values = {
        "turned": float(turn > 2.5),
        "mirrored": float(mirrored),
        "stretched": stretch,
        "bent": float(seen["deformed"]),
        "brightness or contrast changed": seen["difference"],
        "details changed": 1.0 - seen["agreement"],
        "cut off or set in a frame": 2.0 - seen["overlap_left"] - seen["overlap_right"],
    }
    return {name: min(weight * max(values[name], 0.0), most) for name, (weight, most) in _WEIGHTS.items()}


def _shape(
    transform: Sequence[Sequence[float]], left: tuple[int, int], right: tuple[int, int]
) -> tuple[float, bool, float]:
    """Degrees turned in the middle, whether flipped, and by how much lengths are changed unevenly (logarithms)."""
    matrix = np.asarray(transform, np.float64)
    middle = np.diag(right) @ _jacobian(matrix, 0.5, 0.5) @ np.diag([1.0 / left[0], 1.0 / left[1]])
    mirrored = bool(np.linalg.det(middle) < 0)
    if mirrored:
        middle = middle @ np.diag([-1.0, 1.0])
    turn = abs(math.degrees(math.atan2(middle[1, 0] - middle[0, 1], middle[0, 0] + middle[1, 1])))
    longer, shorter = np.linalg.svd(middle, compute_uv=False).tolist()
    areas = [abs(float(np.linalg.det(_jacobian(matrix, x, y)))) for x in (0.0, 1.0) for y in (0.0, 1.0)]
    uneven = math.log(max(longer, 1e-9) / max(shorter, 1e-9)) + 0.5 * math.log(max(areas) / max(min(areas), 1e-9))
    return turn, mirrored, uneven


def _jacobian(
    matrix: np.ndarray[tuple[int, ...], np.dtype[np.float64]], x: float, y: float
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    moved = matrix @ (x, y, 1.0)
    depth = moved[2] if abs(moved[2]) > 1e-9 else 1e-9
    return np.asarray((matrix[:2, :2] - np.outer(moved[:2] / depth, matrix[2, :2])) / depth, np.float64)
