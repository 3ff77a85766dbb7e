"""Fits one plane transform to tentative point matches: exhaustive similarities, then locally optimised RANSAC.

Coordinates are complex numbers x + iy in units of the picture's longer side, so a similarity is one multiplication and
one addition. A SIFT match fixes a whole similarity by itself (position, scale, orientation; Lowe 2004, section 7.4), so
every match is tried: nothing is left to chance for that family. Seeded draws only refine the winner towards an affine
map or a homography (LO-RANSAC: Chum, Matas & Kittler 2003).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Matches", "best_similarity", "fit", "transfer"]

Complex = npt.NDArray[np.complex64]
Matrix = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

_LOOSE = 0.045
"""Inlier radius of a single match's similarity, in longer sides: such a guess drifts far from its own point."""
_TIGHT = 0.016
"""Inlier radius of a fitted transform: 3 pixels of the 192 searched."""
_TURN = np.cos(np.deg2rad(35.0))
"""Least cosine between the turn of a match and the turn of its hypothesis."""
_ZOOM = 2.0
"""Largest ratio between the zoom of a match and that of its hypothesis."""
_DRAWS = 48
_SCALES = (0.1, 10.0)
_ANISOTROPY = 4.0
"""Largest ratio of stretch between two directions anywhere in the overlap."""
_FOLD = 6.0
"""Largest ratio of local area magnification between two places of the overlap."""


@dataclass(frozen=True, slots=True, eq=False)
class Matches:
    """K tentative matches: `left` and `right` positions, and `zoom` = scale ratio × e^(i turn), all complex64 (K,)."""

    left: Complex
    right: Complex
    zoom: Complex

    def __len__(self) -> int:
        return len(self.left)


def fit(matches: Matches, *, corners: Matrix, seed: int) -> Matrix | None:
    """The plausible 3 × 3 transform left → right that most matches agree with, or None.

    corners: (4, 2) corners of the left picture, for the plausibility check. seed: of the refinement's draws.
    """
    if len(matches) < 3:
        return None
    support = best_similarity(matches)
    if int(support.sum()) < 3:
        return None
    best, inliers = _refine_affine(matches, support, seed=seed)
    if best is None or not _plausible(best, corners):
        return None
    if int(inliers.sum()) >= 8:
        bent = _refine_homography(matches, best)
        if bent is not None and _plausible(bent, corners):
            gained = _inliers(bent, matches, _TIGHT)
            if gained.sum() > inliers.sum():
                best = bent
    return best


def transfer(transform: Matrix, points: Complex) -> Complex:
    """Points moved by a 3 × 3 transform; a point on the vanishing line lands far away instead of raising."""
    x, y = points.real.astype(np.float64), points.imag.astype(np.float64)
    h = transform
    depth = h[2, 0] * x + h[2, 1] * y + h[2, 2]
    depth = np.where(np.abs(depth) < 1e-9, 1e-9, depth)
    moved = (h[0, 0] * x + h[0, 1] * y + h[0, 2]) / depth + 1j * ((h[1, 0] * x + h[1, 1] * y + h[1, 2]) / depth)
    return np.asarray(moved, np.complex64)


def best_similarity(matches: Matches) -> Mask:
    """Matches that agree with the best single-match similarity (each distinct place counts once)."""
    zoom = matches.zoom
    size = np.abs(zoom)
    shift = matches.right - zoom * matches.left
    error = np.abs(zoom[:, None] * matches.left[None, :] + shift[:, None] - matches.right[None, :])
    near = error < _LOOSE * np.minimum(1.0, size)[:, None]
    turn = (zoom[:, None] * zoom.conj()[None, :]).real
    product = size[:, None] * size[None, :]
    ratio = size[:, None] / size[None, :]
    agree = near & (turn > _TURN * product) & (ratio < _ZOOM) & (ratio > 1.0 / _ZOOM)
    agree &= ((size > _SCALES[0]) & (size < _SCALES[1]))[:, None]
    # Keypoints with two orientations sit twice at one place: together they have one vote. In sixtieths, so that the
    # sums are whole numbers and cannot depend on the order of adding.
    twins = (matches.left[:, None] == matches.left[None, :]).sum(axis=1)
    votes = np.einsum("kj,j->k", agree.astype(np.float32), np.rint(60.0 / twins).astype(np.float32))
    return np.asarray(agree[int(np.argmax(votes))], np.bool_)


def _refine_affine(matches: Matches, support: Mask, *, seed: int) -> tuple[Matrix | None, Mask]:
    """Affine maps through drawn triples of the support, scored on all matches; the winner is fitted again twice."""
    members = np.flatnonzero(support)
    rng = np.random.default_rng(seed)
    triples = members[rng.integers(0, len(members), size=(_DRAWS, 3))]
    source = np.stack([matches.left[triples].real, matches.left[triples].imag, np.ones(triples.shape)], axis=2)
    target = np.stack([matches.right[triples].real, matches.right[triples].imag], axis=2)
    # Twice the triangle's area: thin triangles give wild maps.
    wide = np.abs(np.linalg.det(source.astype(np.float64))) > 2e-3
    stack = np.zeros((int(wide.sum()) + 1, 3, 3))
    stack[:, 2, 2] = 1.0
    stack[1:, :2] = np.linalg.solve(source[wide].astype(np.float64), target[wide].astype(np.float64)).transpose(0, 2, 1)
    first = _least_squares_affine(matches, support)
    if first is not None:
        stack[0] = first
    best, inliers = _score_affines(stack, matches)
    for _ in range(2):
        if int(inliers.sum()) < 3:
            return None, inliers
        again = _least_squares_affine(matches, inliers)
        if again is None:
            return None, inliers
        fresh = _inliers(again, matches, _TIGHT)
        if fresh.sum() < inliers.sum():
            break
        best, inliers = again, fresh
    return best, inliers


def _score_affines(stack: Matrix, matches: Matches) -> tuple[Matrix, Mask]:
    """The affine map of a (C, 3, 3) stack with most matches inside the tight radius in both pictures."""
    ones = np.ones(len(matches))
    left = np.stack([matches.left.real, matches.left.imag, ones]).astype(np.float64)
    right = np.stack([matches.right.real, matches.right.imag]).astype(np.float64)
    delta = stack[:, :2, :] @ left - right
    error = np.hypot(delta[:, 0], delta[:, 1])
    # The error seen from the left picture is at most the forward one divided by the smallest stretch.
    stretch = _least_stretch(stack[:, :2, :2])
    good = error < _TIGHT * np.minimum(1.0, stretch)[:, None]
    index = int(np.argmax(good.sum(axis=1)))
    return stack[index], np.asarray(good[index], np.bool_)


def _least_stretch(linear: Matrix) -> Matrix:
    """(C,) smaller singular value of (C, 2, 2) matrices: the squares of both add up to Σ a², their product is |det|."""
    total = (linear * linear).sum(axis=(1, 2))
    product = linear[:, 0, 0] * linear[:, 1, 1] - linear[:, 0, 1] * linear[:, 1, 0]
    spread = np.sqrt(np.maximum(total * total - 4.0 * product * product, 0.0))
    return np.asarray(np.sqrt(np.maximum(0.5 * (total - spread), 0.0)), np.float64)


def _least_squares_affine(matches: Matches, chosen: Mask) -> Matrix | None:
    x, y = matches.left[chosen].real, matches.left[chosen].imag
    design = np.stack([x, y, np.ones(len(x))], axis=1).astype(np.float64)
    gram = design.T @ design
    if np.linalg.det(gram) < 1e-9:
        return None
    target = np.stack([matches.right[chosen].real, matches.right[chosen].imag], axis=1).astype(np.float64)
    found = np.eye(3)
    found[:2] = np.linalg.solve(gram, design.T @ target).T
    return found


def _refine_homography(matches: Matches, start: Matrix) -> Matrix | None:
    """Homography by least squares on a shrinking radius, from an affine start."""
    current = start
    for radius in (2.0 * _TIGHT, 1.5 * _TIGHT, _TIGHT):
        inliers = _inliers(current, matches, radius)
        if int(inliers.sum()) < 6:
            return None
        found = _least_squares_homography(matches, inliers)
        if found is None:
            return None
        current = found
    return current


def _least_squares_homography(matches: Matches, chosen: Mask) -> Matrix | None:
    """Direct linear transform with h33 = 1 and a whisper of damping on the perspective terms."""
    x, y = (v.astype(np.float64) for v in (matches.left[chosen].real, matches.left[chosen].imag))
    u, v = (w.astype(np.float64) for w in (matches.right[chosen].real, matches.right[chosen].imag))
    design = np.zeros((2 * len(x), 8))
    upper, lower = design[: len(x)], design[len(x) :]
    for half, at, image in ((upper, 0, u), (lower, 3, v)):
        half[:, at], half[:, at + 1], half[:, at + 2] = x, y, 1.0
        half[:, 6], half[:, 7] = -image * x, -image * y
    gram = design.T @ design
    gram[6, 6] += 1e-3
    gram[7, 7] += 1e-3
    if abs(np.linalg.det(gram)) < 1e-12:
        return None
    solved = np.linalg.solve(gram, design.T @ np.concatenate([u, v]))
    return np.asarray(np.append(solved, 1.0).reshape(3, 3), np.float64)


def _inliers(transform: Matrix, matches: Matches, radius: float) -> Mask:
    """Matches whose transfer error is below `radius` in both pictures."""
    if abs(np.linalg.det(transform)) < 1e-9:
        return np.zeros(len(matches), np.bool_)
    forward = np.abs(transfer(transform, matches.left) - matches.right)
    backward = np.abs(transfer(np.asarray(np.linalg.inv(transform), np.float64), matches.right) - matches.left)
    return np.asarray((forward < radius) & (backward < radius), np.bool_)


def _plausible(transform: Matrix, corners: Matrix) -> bool:
    """No mirror, no fold, bounded zoom and anisotropy at the corners of the left picture."""
    h = transform
    depth = corners @ h[2, :2] + h[2, 2]
    if (depth < 0.05).any():
        return False
    moved = (corners @ h[:2, :2].T + h[:2, 2]) / depth[:, None]
    # Jacobian of a homography at each corner: (H₂ₓ₂ − moved ⊗ h₃) / depth.
    jacobian = (h[None, :2, :2] - moved[:, :, None] * h[None, None, 2, :2]) / depth[:, None, None]
    area = np.linalg.det(jacobian)
    if (area <= 0).any() or area.max() > _FOLD**2 * area.min():
        return False
    stretch = np.linalg.svd(jacobian, compute_uv=False)
    return bool(
        stretch.max() < _SCALES[1]
        and stretch.min() > _SCALES[0]
        and (stretch[:, 0] / stretch[:, 1]).max() < _ANISOTROPY
    )
