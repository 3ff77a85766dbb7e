"""Do two pictures show the same scene under one plane transform? Evidence from keypoints, plain and mirrored.

Match RootSIFT descriptors, fit one transform (see `fitting`), look again for matches that the transform predicts, and
compare the aligned pictures (see `appearance`). No shared state: the same two pictures give the same evidence in any
order of calls, on any number of threads, and `verify(b, a)` is `verify(a, b)` seen from the other side.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from ndd.verify.appearance import Appearance, compare
from ndd.verify.fitting import Matches, best_similarity, fit
from ndd.verify.guide import COSINE, Guide
from ndd.verify.keypoints import BANDWIDTH, DESCRIPTOR_NORM, Keypoints
from ndd.verify.whole import guess_turn

__all__ = ["Alike", "GeometricEvidence", "lie_alike", "rank", "verify"]

Matrix = npt.NDArray[np.float64]
Complex = npt.NDArray[np.complex64]
Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.intp]

_RATIO = 0.95
"""Lowe's ratio, lax: the geometry sorts the matches out, the ratio only drops the hopeless ones."""
_MAX_MATCHES = 160
_DECISIVE = 30
"""Inliers of an unbent plain attempt from which the mirrored one is not made."""
_BENDABLE = 8
"""Inliers from which leftovers of the plane transform are looked at …"""
_SETTLED = 0.85
"""… unless this much of the overlap agrees as it is."""
_GRID = 40
"""Points along a side when areas are measured."""
_WHOLE = 0.5
"""Least agreement of whole pictures in which no keypoints match."""
_ROWS = 4
_LEAST = 4
"""Fewer inliers than this are chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GeometricEvidence:
    """What verification found; plain JSON values, rounded so that repeated runs print the same.

    matches: tentative matches. inliers: keypoints that agree with the transform (each place once).
    inlier_ratio: inliers among the keypoints inside the overlap (of the picture that has fewer there).
    likeness: mean over the inliers of how much their descriptors are nearer than a match must be, 1 for equal ones: copies
    agree in the details, two photographs of one face do not.
    overlap_left, overlap_right: share of each picture's area that the other one covers.
    area_left, area_right: share of each picture's area inside the hull of the inliers.
    correlation, agreement, core, explained_left, explained_right, difference: see `appearance.Appearance`.
    mirrored: True if one picture had to be flipped. deformed: a smooth bend on top of the transform was needed.
    transform: 3 × 3 rows, [0, 1]² of left → [0, 1]² of right (the flip
    included), or None if no plausible transform was found; then all shares are 0.
    """

    inliers: int = 0
    matches: int = 0
    inlier_ratio: float = 0.0
    likeness: float = 0.0
    overlap_left: float = 0.0
    overlap_right: float = 0.0
    area_left: float = 0.0
    area_right: float = 0.0
    correlation: float = 0.0
    agreement: float = 0.0
    core: float = 0.0
    explained_left: float = 0.0
    explained_right: float = 0.0
    difference: float = 1.0
    mirrored: bool = False
    deformed: bool = False
    transform: tuple[tuple[float, float, float], ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        if self.transform is not None:
            values["transform"] = [list(row) for row in self.transform]
        return values


def verify(a: Keypoints, b: Keypoints, *, seed: int) -> GeometricEvidence:
    """Evidence that `a` and `b` are copies of one picture, `a` on the left; also tries `b` mirrored.

    seed: of the draws that refine a transform; derive it from the pair's id. Never raises for odd pictures.
    """
    if rank(a) > rank(b):
        return _seen_from_right(verify(b, a, seed=seed))
    if len(a) < _LEAST or len(b) < _LEAST:
        return _whole(a, b, matches=0)
    plain = _attempt(a, b, seed=seed)
    # Bent enough, the mirror image of something symmetric passes for it.
    if plain.inliers >= _DECISIVE and plain.agreement > 0.5 and not plain.deformed:
        return plain
    flipped = _attempt(a, b.mirrored(), seed=seed)
    if _strength(flipped) > _strength(plain):
        return _unflip(flipped)
    return plain if plain.transform is not None else _whole(a, b, matches=plain.matches)


def _whole(a: Keypoints, b: Keypoints, *, matches: int) -> GeometricEvidence:
    """Evidence without keypoints, where one picture as a whole looks like the other; else none."""
    guess = guess_turn(a, b)
    if guess is None:
        return GeometricEvidence(matches=matches)
    turn, mirrored = guess
    none = np.zeros(0, np.intp)
    found = np.diag([b.frame[0], b.frame[1], 1.0]) @ turn @ np.diag([1.0 / a.frame[0], 1.0 / a.frame[1], 1.0])
    seen = compare(a, b, found, matched=(none, none))
    if seen.agreement < _WHOLE:
        return GeometricEvidence(matches=matches)
    evidence = _evidence(a, b, found, none, none, seen, matches=matches, deformed=False)
    return dataclasses.replace(evidence, mirrored=mirrored)


def rank(keys: Keypoints) -> tuple[int, int, int, bytes, bytes]:
    """A total order on pictures that needs no names: which one plays `a` must not depend on the caller."""
    return len(keys), keys.width, keys.height, keys.descriptors[:4].tobytes(), keys.thumb.tobytes()


def _strength(evidence: GeometricEvidence) -> float:
    return evidence.inliers * (0.1 + max(evidence.agreement, 0.0))


def _attempt(a: Keypoints, b: Keypoints, *, seed: int) -> GeometricEvidence:
    left, right = _places(a), _places(b)
    cosine = _cosines(a, b)
    matches = _matches(a, b, left, right, cosine)
    width, height = a.frame
    corners = np.array([[0.0, 0.0], [width, 0.0], [width, height], [0.0, height]])
    found = fit(matches, corners=corners, seed=seed)
    if found is None:
        return GeometricEvidence(matches=len(matches))
    guide = Guide(a, b, left, right, cosine, found)
    rows, columns = guide.plane()
    if len(rows) < _LEAST:
        return GeometricEvidence(matches=len(matches))
    seen = compare(a, b, found, matched=(rows, columns))
    deformed = False
    if len(rows) >= _BENDABLE and seen.agreement < _SETTLED:
        bend, more_rows, more_columns = guide.bent(rows, columns)
        bent = compare(a, b, found, matched=(more_rows, more_columns), bend=bend)
        if len(more_rows) >= _LEAST and bent.agreement > seen.agreement:
            deformed, seen, rows, columns = True, bent, more_rows, more_columns
    evidence = _evidence(a, b, found, rows, columns, seen, matches=len(matches), deformed=deformed)
    near = (cosine[rows, columns].astype(np.float64) - COSINE) / (1.0 - COSINE)
    return dataclasses.replace(evidence, likeness=round(float(np.clip(near, 0.0, 1.0).mean()), 4))


class Alike(NamedTuple):
    """What lies alike in two pictures: the matches that agree with the best similarity from one to the other; 0 for none.

    places: how many different places of the first. likeness: mean cosine of their descriptors. worth: log(1 + Σ e^(−d²/50000))
    of their distances (the votes' measure, `ndd.stages.votes`). narrow, wide: how far they are spread in the picture where
    they lie closer together and in the other, standard deviation as a share of the longer side. disorder: standard deviation
    of the logarithm of how much each keypoint is larger in the second.
    """

    places: int = 0
    likeness: float = 0.0
    worth: float = 0.0
    narrow: float = 0.0
    wide: float = 0.0
    disorder: float = 0.0


def lie_alike(a: Keypoints, b: Keypoints, *, enough: int = 0) -> Alike:
    """What lies alike in `a` and `b`; at fewer places than `enough`, or in `a` and the mirrored `b` if that is more."""
    found = _agreement(a, b)
    if found is None or found.places < enough:
        mirrored = _agreement(a, b.mirrored()) if enough else None
        found = max((x for x in (found, mirrored) if x is not None), key=_size, default=None)
    if found is None:
        return Alike()
    narrow, wide = sorted(map(_spread, (found.left, found.right)))
    likeness, disorder = float(found.cosine.mean()), _spread(np.log(found.size))
    return Alike(found.places, likeness, found.worth, narrow, wide, disorder)


class _Agreement(NamedTuple):
    """The matches that agree with the best similarity. size: how much larger each keypoint is in the second picture."""

    places: int
    worth: float
    cosine: npt.NDArray[np.float64]
    left: Complex
    right: Complex
    size: npt.NDArray[np.float64]


def _agreement(a: Keypoints, b: Keypoints) -> _Agreement | None:
    """None where there is no match, or none of a size that an edit makes."""
    if len(a) < 2 or len(b) < 2:
        return None
    cosine = _cosines(a, b)
    rows, columns = _tentative(cosine)
    if not len(rows):
        return None
    matches = _paired(a, b, _places(a), _places(b), rows, columns)
    agreeing = best_similarity(matches)
    if not agreeing.any():
        return None
    near = cosine[rows[agreeing], columns[agreeing]].astype(np.float64)
    left, right = matches.left[agreeing], matches.right[agreeing]
    worth = float(np.log1p(np.exp((near - 1.0) * (2.0 * DESCRIPTOR_NORM**2 / BANDWIDTH)).sum()))
    size = np.abs(matches.zoom[agreeing]).astype(np.float64)
    return _Agreement(len(set(left.tolist())), worth, near, left, right, size)


def _size(found: _Agreement) -> tuple[int, float]:
    return found.places, found.worth


def _spread(values: npt.NDArray[Any]) -> float:
    """Standard deviation of numbers, also of complex ones."""
    off = np.asarray(values, np.complex128)
    off = off - off.mean()
    return float(np.sqrt(np.vdot(off, off).real / len(off)))


def _matches(a: Keypoints, b: Keypoints, left: Complex, right: Complex, cosine: Floats) -> Matches:
    return _paired(a, b, left, right, *_tentative(cosine))


def _paired(a: Keypoints, b: Keypoints, left: Complex, right: Complex, rows: Indices, columns: Indices) -> Matches:
    zoom = b.scales[columns] / a.scales[rows] * np.exp(1j * (b.angles[columns] - a.angles[rows]))
    return Matches(left=left[rows], right=right[columns], zoom=zoom.astype(np.complex64))


def _places(keys: Keypoints) -> Complex:
    """Keypoints as complex numbers in units of the longer side."""
    width, height = keys.frame
    return np.asarray(keys.points[:, 0] * width + 1j * (keys.points[:, 1] * height), np.complex64)


def _cosines(a: Keypoints, b: Keypoints) -> Floats:
    """(N, M) similarity of descriptors. Products of bytes are whole numbers below 2²⁴, so float32 adds them exactly:
    the result cannot depend on how a BLAS blocks or threads its sums.

    In slices of four rows, which a BLAS does itself: handed to its threads, a product this small costs five times the
    processor time, spent waiting, and beside other threads ten times the time.
    """
    slices = -(-len(a) // _ROWS)
    left = np.zeros((slices * _ROWS, a.descriptors.shape[1]), np.float32)
    left[: len(a)] = a.descriptors
    product = left.reshape(slices, _ROWS, -1) @ b.descriptors.astype(np.float32).T
    return np.asarray(product.reshape(slices * _ROWS, -1)[: len(a)] * np.float32(DESCRIPTOR_NORM**-2), np.float32)


def _tentative(cosine: Floats) -> tuple[Indices, Indices]:
    """Mutual nearest neighbours that pass the ratio test, the most distinctive first, at most `_MAX_MATCHES`."""
    nearest = cosine.argmax(axis=1)
    back = cosine.argmax(axis=0)
    rows = np.flatnonzero(back[nearest] == np.arange(len(nearest)))
    columns = nearest[rows]
    top = cosine[rows]
    first = top[np.arange(len(rows)), columns]
    top[np.arange(len(rows)), columns] = -1.0
    second = top.max(axis=1) if top.shape[1] > 1 else np.full(len(rows), -1.0)
    # Squared distances of unit vectors: 2 − 2 cos.
    ratio = (1.0 - first) / np.maximum(1.0 - second, 1e-6)
    order = np.argsort(ratio, kind="stable")[:_MAX_MATCHES]
    order = order[ratio[order] < _RATIO**2]
    return rows[order], columns[order]


def _evidence(
    a: Keypoints,
    b: Keypoints,
    found: Matrix,
    rows: Indices,
    columns: Indices,
    seen: Appearance,
    *,
    matches: int,
    deformed: bool,
) -> GeometricEvidence:
    shares = np.diag([1.0 / b.frame[0], 1.0 / b.frame[1], 1.0]) @ found @ np.diag([a.frame[0], a.frame[1], 1.0])
    shares = shares / shares[2, 2]
    back = np.linalg.inv(shares)
    overlap_left, overlap_right = _covered(shares), _covered(back)
    visible = min(_inside(shares, a.points.astype(np.float64)), _inside(back, b.points.astype(np.float64)))
    return GeometricEvidence(
        inliers=len(rows),
        matches=matches,
        inlier_ratio=round(min(1.0, len(rows) / max(visible, len(rows), 1)), 4),
        overlap_left=round(overlap_left, 4),
        overlap_right=round(overlap_right, 4),
        area_left=round(_hull(a.points[rows]), 4),
        area_right=round(_hull(b.points[columns]), 4),
        correlation=round(seen.correlation, 4),
        agreement=round(seen.agreement, 4),
        core=round(seen.core, 4),
        explained_left=round(seen.explained_left, 4),
        explained_right=round(seen.explained_right, 4),
        difference=round(seen.difference, 4),
        deformed=deformed,
        transform=_rounded(shares),
    )


def _rounded(transform: Matrix) -> tuple[tuple[float, float, float], ...]:
    return tuple((round(float(r[0]), 6), round(float(r[1]), 6), round(float(r[2]), 6)) for r in transform)


def _covered(back: Matrix) -> float:
    """Share of a picture's area that lies in the other one, on a grid of points; `back` maps this one into the other.

    Counting points instead of clipping polygons: OpenCV's intersection errs for corners that nearly coincide.
    """
    ticks = (np.arange(_GRID) + 0.5) / _GRID
    points = np.stack(np.meshgrid(ticks, ticks), axis=2).reshape(-1, 2)
    return _inside(back, points) / len(points)


def _inside(transform: Matrix, points: Matrix) -> int:
    """How many points land inside the other picture."""
    moved = _apply(transform, points)
    return int(((moved >= 0.0) & (moved <= 1.0)).all(axis=1).sum())


def _apply(transform: Matrix, points: Matrix) -> Matrix:
    depth = points @ transform[2, :2] + transform[2, 2]
    depth = np.where(np.abs(depth) < 1e-9, 1e-9, depth)
    return np.asarray((points @ transform[:2, :2].T + transform[:2, 2]) / depth[:, None], np.float64)


def _hull(points: Floats) -> float:
    return float(cv2.contourArea(cv2.convexHull(points.astype(np.float32)))) if len(points) >= 3 else 0.0


def _unflip(evidence: GeometricEvidence) -> GeometricEvidence:
    """The evidence with its transform into the flipped right picture turned into one into the right picture itself."""
    if evidence.transform is None:
        return dataclasses.replace(evidence, mirrored=False)
    flip = np.array([[-1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    return dataclasses.replace(evidence, mirrored=True, transform=_rounded(flip @ np.array(evidence.transform)))


def _seen_from_right(evidence: GeometricEvidence) -> GeometricEvidence:
    """The same evidence with left and right exchanged."""
    back = None
    if evidence.transform is not None:
        inverse = np.linalg.inv(np.array(evidence.transform))
        back = _rounded(inverse / inverse[2, 2])
    return dataclasses.replace(
        evidence,
        overlap_left=evidence.overlap_right,
        overlap_right=evidence.overlap_left,
        area_left=evidence.area_right,
        area_right=evidence.area_left,
        explained_left=evidence.explained_right,
        explained_right=evidence.explained_left,
        transform=back,
    )
