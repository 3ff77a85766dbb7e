"""Which copy of a group to keep, and why: a suggestion for a person, never an action.

Copies are struck off step by step until one is left; every step compares those still in with the best of them:

1. wholeness: a crop goes where a whole picture shows its part about as well;
2. far less detail, measured in the pixels (a bigger file, or an enlarged picture, holds no more);
3. edits: what is turned, mirrored, bent, recoloured or drawn over sets a copy apart from all the others, which the
   source is not (see `ndd.medoid`; three different copies at least);
4. a copy that only adds blank area (a frame, the corners of a turn) goes before the picture inside it;
5. less detail;
6. pixel count, where the smaller copy is itself soft, so that the larger one may be the source;
7. lossless over lossy; then deeper colour; then transparency kept;
8. more EXIF fields; then the oldest capture date;
9. not enlarged; then less compressed (same size and format); then the shorter and first path.

Limits: of two or three copies nobody can tell from the pixels which one is mirrored, a quarter turned, recoloured or
drawn over; if most copies come from one edited copy in different ways, that one is taken for the source; noise counts
partly as detail, and a lossless copy made from a lossy one looks like a source.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ndd.errors import InputError
from ndd.medoid import Oddity
from ndd.sharpness import detail

__all__ = ["Candidate", "choose", "detail"]

LOSSLESS = frozenset({"PNG", "TIFF", "BMP", "PPM"})
_SIMILAR = 0.8
"""Detail within this share of the best counts as equal: the measure of an enlarged copy errs by up to a fifth."""
_FAR = 0.4
"""With less than this share of the best one's detail, a copy is out whatever else speaks for it."""
_ALIKE = 0.05
"""Oddities that differ by less say nothing."""
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
    oddity: how far it is from the other copies; None if that is not known.
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
    oddity: Oddity | None = None

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
        staying = {member.path for member in stay}
        out = [member for member in left if member.path not in staying]
        dropped += [(member, fault) for member in out]
        won = won or (merit.format(n=len(members)) if out else "")
        left = stay
    (kept,) = left
    rows = [(kept.path, True, f"kept: {_dimensions(kept)} {kept.format}, {won or 'the only copy'}")]
    rows += [
        (member.path, False, f"{_same(member)}, {_dimensions(member)}, {why(member, kept)}") for member, why in dropped
    ]
    return sorted(rows)


def _whole(left: Sequence[Candidate]) -> list[Candidate]:
    whole = {(m.pixels, m.real): m for m in left if m.share == 1.0}.values()  # groups of thousands are mostly alike
    return [
        m
        for m in left
        if m.share == 1.0 or not any(w.real * m.share >= 0.4 * m.real and not _only_blank(w, m) for w in whole)
    ]


def _in_the_middle(left: Sequence[Candidate]) -> list[Candidate]:
    known = [member.oddity.far for member in left if member.oddity is not None]
    return [m for m in left if m.oddity is None or m.oddity.far <= min(known) + _ALIKE]


def _nothing_added(left: Sequence[Candidate]) -> list[Candidate]:
    inside = {(m.pixels, m.real, m.share): m for m in left if m.share < 1.0}.values()
    return [m for m in left if m.share < 1.0 or not any(_only_blank(m, part) for part in inside)]


def _only_blank(whole: Candidate, part: Candidate) -> bool:
    """True if what `whole` shows beyond `part` holds no detail although both are of one scale."""
    measured = whole.detail is not None and part.detail is not None
    one_scale = part.pixels <= 1.3 * part.share * whole.pixels
    return measured and one_scale and whole.real < part.real / part.share**0.5


def _detailed(share: float) -> Callable[[Sequence[Candidate]], list[Candidate]]:
    """Keeps those with at least this share of the best one's detail."""

    def step(left: Sequence[Candidate]) -> list[Candidate]:
        best = max(member.real for member in left)
        return [member for member in left if member.real >= share * best]

    return step


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


def _set_apart(member: Candidate, kept: Candidate) -> str:
    """What was done to it if it was made from the one that is kept: the others' edits are not its own."""
    if member.oddity is None:
        return "unlike the other copies"
    between = member.oddity.against.get(kept.path)
    if between is None:
        return f"{member.oddity.what}, unlike the other copies"
    if between:
        return f"{between}, unlike the one that is kept"
    return "fewer pixels" if member.pixels < kept.pixels else "hardly differs from the one that is kept"


_STEPS: tuple[_Step, ...] = (
    (_whole, "the whole picture", lambda member, kept: "cut off"),
    (_detailed(_FAR), "sharpest of {n}", _less_detail),
    (_in_the_middle, "what the other copies have in common", _set_apart),
    (_nothing_added, "nothing added", lambda member, kept: "blank area added"),
    (_detailed(_SIMILAR), "sharpest of {n}", _less_detail),
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
