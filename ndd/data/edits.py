"""Drawing the training edits: which view of a picture is made, as numbers. `ndd.data.augment` carries them out.

All draws of an epoch come from one generator in one go, row i belonging to view i: the edits of a view depend on the seed
and on its row, never on the batch, the worker or the order in which it is made.

Geometry is one homography H per view, from view to picture coordinates ((x, y) in [-1, 1], corners at ±1):
H = crop · turn · mirror · pad, with turn = quarter turns · rotation · perspective · squash, the rotation between two squashes
where the square hides the picture's aspect ratio.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndd.config import Config, check

__all__ = ["RECTANGLES", "EditConfig", "Edits", "draw_edits"]

RECTANGLES = 3
"""Overlays drawn for a view at most."""

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class EditConfig(Config):
    """How views are made from a picture. Extents are those at full strength; the curriculum scales them."""

    min_area: float = 0.3
    """Smallest part of the picture's area that a crop leaves."""
    squash: float = 1.5
    """Largest change of the aspect ratio."""
    rotation: float = 45.0
    """Largest free rotation, degrees."""
    aspect: float = 1.6
    """Largest ratio of the sides of the picture before it was squashed to a square: a rotation of the picture itself is a
    rotation between two squashes on the square."""
    rotate: float = 0.45
    """Share of views rotated freely."""
    quarter: float = 0.15
    """Share of views turned by 90, 180 or 270 degrees."""
    mirror: float = 0.2
    """Share of views mirrored."""
    perspective: float = 0.3
    """Share of views seen in perspective."""
    perspective_extent: float = 0.35
    """Largest shift of a corner, in half sides."""
    pad: float = 0.2
    """Share of views with a border around the picture."""
    overlay: float = 0.3
    """Share of views with bars, boxes, captions or a piece of another picture on top."""
    colour: float = 0.8
    """Share of views with changed brightness, contrast, saturation, tint or gamma."""
    grey: float = 0.1
    """Share of views without colour."""
    blur: float = 0.25
    """Share of views blurred."""
    noise: float = 0.25
    """Share of views with noise."""
    jpeg: float = 0.4
    """Share of views compressed as JPEG."""

    def __post_init__(self) -> None:
        check(0.0 < self.min_area <= 1.0, f"edits.min_area must lie in 0…1, got {self.min_area}")
        check(self.aspect >= 1.0, f"edits.aspect is a ratio of at least 1, got {self.aspect}")
        check(self.squash >= 1.0, f"edits.squash is a ratio of at least 1, got {self.squash}")
        check(
            0.0 <= self.perspective_extent < 0.9,
            f"edits.perspective_extent must lie in 0….9, got {self.perspective_extent}",
        )
        for name in (
            "rotate",
            "quarter",
            "mirror",
            "perspective",
            "pad",
            "overlay",
            "colour",
            "grey",
            "blur",
            "noise",
            "jpeg",
        ):
            check(0.0 <= getattr(self, name) <= 1.0, f"edits.{name} is a share in 0…1, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Edits:
    """Edits of V views as arrays with V rows; `edits[rows]` selects.

    view_to_picture, pose: (V, 3, 3). pose maps the canonical frame to the view: the inverse of what can be recovered of H.
    fill: (V, 4) colour around the picture in [0, 1] and, last, 1 to fill with it or 0 to repeat the border.
    colour: (V, 7) gain of the three channels, brightness, contrast, saturation, gamma. rectangles: (V, R, 14) centre x, y,
    half width, half height, kind (0 none, 1 plain, 2 lettering, 3 another picture), opacity, two colours, cell size x, y.
    blur: (V,) standard deviation as a share of the side. noise: (V,). jpeg: (V,) quality, 0 for none. texture: (V,) integer.
    """

    view_to_picture: Floats
    pose: Floats
    fill: Floats
    colour: Floats
    rectangles: Floats
    blur: Floats
    noise: Floats
    jpeg: Floats
    texture: NDArray[np.int64]

    def __getitem__(self, rows: Any) -> Edits:
        return Edits(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def __len__(self) -> int:
        return len(self.blur)


def draw_edits(rng: np.random.Generator, strength: NDArray[np.floating[Any]], config: EditConfig) -> Edits:
    """Draw one view for each entry of `strength` (V,) in [0, 1]; 0 leaves the picture as it is."""
    s = np.asarray(strength, np.float64)
    mirror, turn, upright_turn = _mirror(rng, s, config), *_turn(rng, s, config)
    pad, padded = _pad(rng, s, config)
    crop = _crop(rng, s, config)
    view_to_picture = crop @ turn @ mirror @ pad
    # Seen from the canonical frame a mirrored view stays mirrored (no pixel tells), hence mirror on both sides.
    pose = np.linalg.inv(pad) @ mirror @ np.linalg.inv(upright_turn) @ mirror
    return Edits(
        view_to_picture=view_to_picture.astype(np.float32),
        pose=pose.astype(np.float32),
        fill=_fill(rng, len(s), padded),
        colour=_colour(rng, s, config),
        rectangles=_rectangles(rng, s, config),
        blur=_where(rng, s, config.blur, rng.uniform(0.003, 0.02, len(s)) * s),
        noise=_where(rng, s, config.noise, rng.uniform(0.01, 0.12, len(s)) * s),
        jpeg=_where(rng, s, config.jpeg, np.round(90 - rng.uniform(0.0, 80.0, len(s)) * s)),
        texture=rng.integers(0, 2**31, len(s)),
    )


def _chosen(rng: np.random.Generator, s: Doubles, share: float) -> NDArray[np.bool_]:
    # The share grows with the strength too: a gentle start has few edits per view as well as small ones.
    return rng.random(len(s)) < share * np.minimum(1.0, 2.0 * s)


def _where(rng: np.random.Generator, s: Doubles, share: float, values: Doubles) -> Floats:
    return np.where(_chosen(rng, s, share), values, 0.0).astype(np.float32)


def _diagonal(x: Doubles, y: Doubles, shift_x: Doubles | float = 0.0, shift_y: Doubles | float = 0.0) -> Doubles:
    matrix = np.zeros((len(x), 3, 3))
    matrix[:, 0, 0], matrix[:, 1, 1], matrix[:, 2, 2] = x, y, 1.0
    matrix[:, 0, 2], matrix[:, 1, 2] = shift_x, shift_y
    return matrix


def _mirror(rng: np.random.Generator, s: Doubles, config: EditConfig) -> Doubles:
    return _diagonal(np.where(_chosen(rng, s, config.mirror), -1.0, 1.0), np.ones(len(s)))


def _rotation(angle: Doubles) -> Doubles:
    matrix = np.zeros((len(angle), 3, 3))
    matrix[:, 0, 0] = matrix[:, 1, 1] = np.cos(angle)
    matrix[:, 1, 0] = np.sin(angle)
    matrix[:, 0, 1] = -matrix[:, 1, 0]
    matrix[:, 2, 2] = 1.0
    return matrix


def _turn(rng: np.random.Generator, s: Doubles, config: EditConfig) -> tuple[Doubles, Doubles]:
    """The turn with its zoom (so that little or nothing outside the picture is seen) and without."""
    n = len(s)
    angle = np.where(_chosen(rng, s, config.rotate), np.deg2rad(config.rotation) * s * rng.uniform(-1, 1, n), 0.0)
    inner = np.where(rng.random(n) < 0.6, 1.0 / (np.abs(np.cos(angle)) + np.abs(np.sin(angle))), 1.0)
    quarters = np.where(_chosen(rng, s, config.quarter), rng.integers(1, 4, n), 0)
    aspect = np.exp(0.5 * np.log(config.squash) * s * rng.uniform(-1, 1, n))
    squash_zoom = 1.0 / np.maximum(aspect, 1.0 / aspect)
    perspective, perspective_zoom = _perspective(rng, s, config)
    hidden = np.exp(0.5 * np.log(config.aspect) * s * rng.uniform(-1, 1, n))
    turned = _diagonal(1 / hidden, hidden) @ _rotation(angle) @ _diagonal(hidden, 1 / hidden)
    shape = _rotation(quarters * (np.pi / 2)) @ turned @ perspective
    upright = shape @ _diagonal(1.0 / perspective_zoom, 1.0 / perspective_zoom) @ _diagonal(aspect, 1.0 / aspect)
    zoomed = _diagonal(inner, inner) @ shape @ _diagonal(aspect * squash_zoom, squash_zoom / aspect)
    return zoomed, upright


def _perspective(rng: np.random.Generator, s: Doubles, config: EditConfig) -> tuple[Doubles, Doubles]:
    """Homographies from the unit square to a quadrilateral inside it, and each one's zoom √(area / 4)."""
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float64)
    extent = np.where(_chosen(rng, s, config.perspective), config.perspective_extent * s, 0.0)
    target = corners * (1.0 - extent[:, None, None] * rng.random((len(s), 4, 2)))
    system = np.zeros((len(s), 8, 8))
    for i, (x, y) in enumerate(corners):
        u, v = target[:, i, 0], target[:, i, 1]
        system[:, 2 * i, :3] = x, y, 1
        system[:, 2 * i + 1, 3:6] = x, y, 1
        system[:, 2 * i, 6], system[:, 2 * i, 7] = -u * x, -u * y
        system[:, 2 * i + 1, 6], system[:, 2 * i + 1, 7] = -v * x, -v * y
    solved = np.linalg.solve(system, target.reshape(len(s), 8, 1))[:, :, 0]
    matrix = np.concatenate([solved, np.ones((len(s), 1))], axis=1).reshape(-1, 3, 3)
    following = np.roll(target, -1, axis=1)
    area = 0.5 * np.abs((target[:, :, 0] * following[:, :, 1] - following[:, :, 0] * target[:, :, 1]).sum(axis=1))
    return matrix, np.sqrt(area / 4.0)


def _crop(rng: np.random.Generator, s: Doubles, config: EditConfig) -> Doubles:
    n = len(s)
    # Uniform in area, so that strong crops are as common as weak ones.
    side = np.sqrt(1.0 - (1.0 - config.min_area) * s * rng.random(n))
    return _diagonal(side, side, (1 - side) * rng.uniform(-1, 1, n), (1 - side) * rng.uniform(-1, 1, n))


def _pad(rng: np.random.Generator, s: Doubles, config: EditConfig) -> tuple[Doubles, NDArray[np.bool_]]:
    n = len(s)
    chosen = _chosen(rng, s, config.pad)
    both = rng.random(n) < 0.4
    wide = 1.0 + 0.8 * s * rng.random(n)
    horizontal = rng.random(n) < 0.5
    x = np.where(chosen & (both | horizontal), wide, 1.0)
    y = np.where(chosen & (both | ~horizontal), wide, 1.0)
    return _diagonal(x, y, (x - 1) * rng.uniform(-1, 1, n), (y - 1) * rng.uniform(-1, 1, n)), chosen


def _fill(rng: np.random.Generator, n: int, padded: NDArray[np.bool_]) -> Floats:
    plain = rng.choice([0.0, 1.0, 0.5], n, p=[0.4, 0.4, 0.2])[:, None]
    colour = np.where(rng.random((n, 1)) < 0.7, plain, rng.random((n, 3)))
    filled = np.where(padded, rng.random(n) < 0.9, rng.random(n) < 0.6)
    return np.concatenate([colour, filled[:, None]], axis=1).astype(np.float32)


def _colour(rng: np.random.Generator, s: Doubles, config: EditConfig) -> Floats:
    n = len(s)
    amount = np.where(_chosen(rng, s, config.colour), s, 0.0)[:, None]
    spread = rng.uniform(-1, 1, (n, 7)) * amount
    gain = 1.0 + 0.15 * spread[:, :3]
    saturation = np.where(_chosen(rng, s, config.grey), 0.0, 1.0 + 0.7 * spread[:, 5])
    rest = [0.2 * spread[:, 3], 1.0 + 0.45 * spread[:, 4], saturation, np.exp(0.5 * spread[:, 6])]
    return np.concatenate([gain, np.stack(rest, axis=1)], axis=1).astype(np.float32)


def _rectangles(rng: np.random.Generator, s: Doubles, config: EditConfig) -> Floats:
    n, r = len(s), RECTANGLES
    some = _chosen(rng, s, config.overlay)[:, None]
    kind = np.where(some & (rng.random((n, r)) < 0.6), rng.choice([1, 2, 2, 3], (n, r)), 0)
    half = rng.uniform(0.05, 0.35, (n, r, 2)) * (0.4 + 0.6 * s[:, None, None])
    centre = rng.uniform(-1, 1, (n, r, 2))
    # The first rectangle is often a bar over the whole width at the top or the bottom: a caption, a status bar, a banner.
    bar = rng.random(n) < 0.5
    half[bar, 0, 0] = 1.0
    half[bar, 0, 1] = rng.uniform(0.06, 0.22, int(bar.sum()))
    centre[bar, 0, 0] = 0.0
    centre[bar, 0, 1] = np.where(rng.random(int(bar.sum())) < 0.5, -1.0, 1.0) * (1.0 - half[bar, 0, 1])
    opacity = np.where(rng.random((n, r)) < 0.6, 1.0, rng.uniform(0.3, 0.9, (n, r)))
    colours = np.where(
        rng.random((n, r, 1)) < 0.6, rng.choice([0.0, 1.0], (n, r, 2)).repeat(3, axis=2), rng.random((n, r, 6))
    )
    cells = rng.uniform(0.03, 0.12, (n, r, 2))
    parts = [centre, half, kind[..., None], opacity[..., None], colours, cells]
    return np.concatenate(parts, axis=2).astype(np.float32)
