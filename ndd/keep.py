"""Which copy of a group to keep, and why: a suggestion for a person, never an action.

Copies are struck off step by step until one is left; every step compares those still in with the best of them:

1. wholeness: a crop goes where a whole picture shows its part about as well;
2. detail measured in the pixels (a bigger file, or an enlarged picture, holds no more);
3. pixel count, where the smaller copy is itself soft, so that the larger one may be the source;
4. lossless over lossy; then deeper colour; then transparency kept;
5. more EXIF fields; then the oldest capture date;
6. not enlarged; then less compressed (same size and format); then the shorter and first path.

Limits: noise counts partly as detail, an overlay or a colour change is not seen at all, and a lossless copy made from a
lossy one looks like a source.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
import numpy.typing as npt

from ndd.errors import InputError

__all__ = ["Candidate", "choose", "detail"]

_Floats = npt.NDArray[np.float64]

LOSSLESS = frozenset({"PNG", "TIFF", "BMP", "PPM"})
_SIMILAR = 0.8
"""Detail within this share of the best counts as equal: the measure of an enlarged copy errs by up to a fifth."""
_WHOLE = 0.95
"""A picture that shows at least this share of the other one is whole."""
_SHARP = 0.6
"""A picture with more detail per pixel than this is sharp: enlarging it adds nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One copy of a picture.

    width, height: of the upright picture, pixels. bytes: size of the file. format: as in `ndd.images.Picture`.
    taken: ISO 8601 or None. bits: per channel. detail: what `detail` measured, or None if nobody did (the pixel count
    then stands for it). is_part_of: share in (0, 1] of the fullest picture of the group that this one shows; None: all.
    """

    path: str
    width: int
    height: int
    bytes: int
    format: str
    taken: str | None = None
    exif_fields: int = 0
    alpha: bool = False
    bits: int = 8
    detail: float | None = None
    is_part_of: float | None = None

    @property
    def pixels(self) -> int:
        return self.width * self.height

    @property
    def real(self) -> float:
        """Effective pixels: never more than there are."""
        return float(self.pixels) if self.detail is None else min(self.detail, float(self.pixels))

    @property
    def share(self) -> float:
        return 1.0 if self.is_part_of is None or self.is_part_of >= _WHOLE else self.is_part_of


_Step = tuple[Callable[[Sequence[Candidate]], list[Candidate]], str, Callable[[Candidate, Candidate], str]]


def choose(members: Sequence[Candidate]) -> list[tuple[str, bool, str]]:
    """(path, keep, reason) for each member, sorted by path; exactly one is kept, whatever the order of `members`.

    The reason is one line for a person. Raises InputError for an empty group or a path given twice.
    """
    left = sorted(members, key=lambda member: member.path)
    if not left:
        raise InputError("no pictures to choose from; a group has at least one")
    for before, after in pairwise(left):
        if before.path == after.path:
            raise InputError(f"{after.path}: twice in one group; each path is listed once")
    dropped: list[tuple[Candidate, Callable[[Candidate, Candidate], str]]] = []
    won = ""
    for survivors, merit, fault in _STEPS:
        stay = survivors(left)
        out = [member for member in left if member not in stay]
        dropped += [(member, fault) for member in out]
        won = won or (merit.format(n=len(members)) if out else "")
        left = stay
    (kept,) = left
    rows = [(kept.path, True, f"kept: {_dimensions(kept)} {kept.format}, {won or 'the only copy'}")]
    rows += [
        (member.path, False, f"{_same(member)}, {_dimensions(member)}, {why(member, kept)}") for member, why in dropped
    ]
    return sorted(rows)


def detail(pixels: npt.NDArray[np.uint8]) -> float:
    """Effective resolution of (H, W, 3) uint8 RGB, in pixels: at most H × W, however the picture was enlarged.

    The spectrum of a photograph falls as a power of frequency; past the resolution it was taken, or once saved, at it
    falls off a cliff (Field, "Relations between the statistics of natural images and the response properties of
    cortical cells", JOSA A 1987, for the power law). The cliff is where the power, times frequency squared, is less
    than a quarter of that an octave below. The noise of the quietest parts (Immerkær, "Fast noise variance estimation",
    CVIU 1996) is taken off first, as are rows and columns that repeat their neighbour (borders, crude enlargement).
    Good for comparing copies of one picture, not different pictures. Pictures under 64 pixels count as sharp.
    """
    grey = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY)
    grey = grey[np.r_[True, (grey[1:] != grey[:-1]).any(axis=1)]]
    grey = grey[:, np.r_[True, (grey[:, 1:] != grey[:, :-1]).any(axis=0)]]
    if min(grey.shape) < 64:
        return float(grey.size)
    height, width = (_quick_length(side) for side in grey.shape)
    plane = grey[:height, :width].astype(np.float32)
    power, centres = _spectrum(plane)
    floor = _noise_variance(plane) / plane.size
    return min(_cliff(np.maximum(power - floor, 0.0), centres) / plane.size, 1.0) * grey.size


def _cliff(power: _Floats, centres: _Floats) -> float:
    """Effective pixels: (2 × the frequency of the cliff)², infinite where there is none."""
    whitened = power * centres**2
    for band in range(_FIRST_BAND, len(whitened)):
        reference = max(0.25 * whitened[band - 8 : band - 3].mean(), 1e-12)
        if whitened[band] < reference:
            above, below = np.log(np.maximum(whitened[band - 1 : band + 1], 1e-12) / reference)
            part = float(np.clip(above / (above - below), 0.0, 1.0)) if above > below else 1.0
            return float(2 * centres[band - 1] * (centres[band] / centres[band - 1]) ** part) ** 2
    return float("inf")


_BANDS = 6
"""Frequency bands in an octave; the first one starts at 8 cycles per picture side."""
_FIRST_BAND = 12
"""The cliff is looked for from 32 cycles per side: below, a picture's contents make cliffs of their own."""


def _quick_length(side: int) -> int:
    """The longest even length up to `side` that has only the factors 2, 3 and 5: others make the transform slow."""
    length = side - side % 2
    while cv2.getOptimalDFTSize(length // 2) * 2 != length:
        length -= 2
    return length


def _spectrum(plane: npt.NDArray[np.float32]) -> tuple[_Floats, _Floats]:
    """Mean power in each band and the bands' centres (cycles per geometric mean side), up to half a cycle per pixel."""
    height, width = plane.shape
    side = float(np.sqrt(plane.size))
    count = int(np.floor(_BANDS * np.log2(0.5 * side / 8)))
    edges = 8 * 2 ** (np.arange(count + 1) / _BANDS)
    coefficients = cv2.dct(plane - plane.mean())
    below, number = np.zeros(count + 1), np.zeros(count + 1)  # power and coefficients under each edge
    for row in range(height):  # row by row: the whole plane in double precision would be large
        reach = np.sqrt(np.maximum((edges / side) ** 2 - (row / (2 * height)) ** 2, 0.0))
        ends = np.minimum(np.ceil(reach * 2 * width).astype(np.int64), width)
        running = np.cumsum(np.square(coefficients[row], dtype=np.float64))
        below += np.where(ends > 0, running[ends - 1], 0.0)
        number += ends
    return np.diff(below) / plane.size / np.diff(number).clip(1), edges[:-1] * 2 ** (0.5 / _BANDS)


def _noise_variance(plane: npt.NDArray[np.float32]) -> float:
    """Variance of white noise, from the quietest tenth of 16 × 16 blocks."""
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32) / 6
    response = np.square(cv2.filter2D(plane, -1, kernel)[1:-1, 1:-1])
    rows, columns = (side // 16 for side in response.shape)
    blocks = response[: rows * 16, : columns * 16].reshape(rows, 16, columns, 16).mean(axis=(1, 3))
    return float(np.percentile(blocks, 10))


def _whole(left: Sequence[Candidate]) -> list[Candidate]:
    whole = max((member.real for member in left if member.share == 1.0), default=0.0)
    return [m for m in left if m.share == 1.0 or whole * m.share < 0.5 * m.real]


def _detailed(left: Sequence[Candidate]) -> list[Candidate]:
    best = max(member.real for member in left)
    return [member for member in left if member.real >= _SIMILAR * best]


def _larger(left: Sequence[Candidate]) -> list[Candidate]:
    smallest = min(left, key=lambda member: member.pixels)
    if smallest.detail is not None and smallest.real > _SHARP * smallest.pixels:
        return list(left)  # it holds all there is: whether the larger one was enlarged cannot be told here
    most = max(member.pixels for member in left)
    return [member for member in left if member.pixels >= 0.98 * most]


def _not_enlarged(left: Sequence[Candidate]) -> list[Candidate]:
    sharpest = max(member.real / member.pixels for member in left)
    return [member for member in left if member.real / member.pixels >= 0.7 * sharpest]


def _less_compressed(left: Sequence[Candidate]) -> list[Candidate]:
    if len({(member.pixels, member.format) for member in left}) > 1:
        return list(left)
    return _best(lambda member: member.bytes)(left)


def _best(value: Callable[[Candidate], object]) -> Callable[[Sequence[Candidate]], list[Candidate]]:
    """Keeps those with the greatest value."""

    def step(left: Sequence[Candidate]) -> list[Candidate]:
        most = max(value(member) for member in left)  # type: ignore[type-var]
        return [member for member in left if value(member) == most]

    return step


def _first(left: Sequence[Candidate]) -> list[Candidate]:
    return [min(left, key=lambda member: (len(member.path), member.path))]


def _oldest(left: Sequence[Candidate]) -> list[Candidate]:
    oldest = min((member.taken for member in left if member.taken), default=None)
    return [member for member in left if member.taken == oldest]


def _dimensions(member: Candidate) -> str:
    return f"{member.width}×{member.height}"


def _same(member: Candidate) -> str:
    return "same picture" if member.share == 1.0 else f"shows {member.share:.0%} of the picture".replace("%", " %")


def _less_detail(member: Candidate, kept: Candidate) -> str:
    return "enlarged, less detail" if member.pixels > kept.pixels else "less detail"


_STEPS: tuple[_Step, ...] = (
    (_whole, "the whole picture", lambda member, kept: "cut off"),
    (_detailed, "sharpest of {n}", _less_detail),
    (_larger, "largest of {n}", lambda member, kept: "fewer pixels"),
    (_best(lambda m: m.format in LOSSLESS), "lossless", lambda member, kept: f"lossy {member.format}"),
    (
        _best(lambda m: m.bits),
        "deepest colour",
        lambda member, kept: f"{member.bits} bits per channel, not {kept.bits}",
    ),
    (_best(lambda m: m.alpha), "transparency kept", lambda member, kept: "transparency lost"),
    (
        _best(lambda m: m.exif_fields),
        "most camera data",
        lambda member, kept: f"{member.exif_fields} EXIF fields, not {kept.exif_fields}",
    ),
    (_oldest, "oldest", lambda member, kept: "taken later" if member.taken else "no capture date"),
    (_not_enlarged, "not enlarged", lambda member, kept: "larger, yet no more detail"),
    (_less_compressed, "least compressed", lambda member, kept: "more compressed"),
    (_first, "first by name", lambda member, kept: "no better in any respect"),
)
