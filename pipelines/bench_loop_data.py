"""What `bench loop` learns from: three albums of different photographs, searched once, and the evidence about their pairs.

Each album has edited copies of some strength, single pictures, and what people get wrong: different photographs under one
caption, screens of one application, posters of one template, drawn products and charts. Shapes: P pairs, F features.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ndd.candidates import FindRun
from ndd.config import FindConfig
from ndd.errors import UsageError
from ndd.find import FindRequest, find
from ndd.local import LocalRunner
from ndd.select import Candidates
from ndd.verify.score import features
from pipelines.album import Album, AlbumImage, Photo, build_album, read_album, read_tar
from pipelines.calibrate import add_lookalikes, evidence_of
from pipelines.evaluate_hard import LOOKALIKES, make_pairs

__all__ = ["PARTS", "Pool", "albums", "pool_of", "search"]

PARTS = 3
_COPIES, _SEVERITY = 4, (0.3, 1.0)
_SINGLES, _SHARING, _HARD = 700 / 260, 80, 8
"""Single pictures per photograph with copies; how many of them share captions and frames; made look-alikes of each kind."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Pool:
    """The verified pairs of a searched album. values: (P, F) features; truth: (P,) True for duplicates; edits: of each pair,
    what was done to either picture."""

    values: npt.NDArray[np.float64]
    truth: npt.NDArray[np.bool_]
    edits: Sequence[str]
    candidates: Candidates


def albums(data: Path, work: Path, *, photos: int, seed: int) -> list[Album]:
    """Three albums that share no photograph; half of the photographs are COCO's and VOC's, half smaller ones of the reserve.

    Those that are there are used again. Raises UsageError.
    """
    held, reserve = (_turned(data / "corpus" / f"{name}.tar", seed) for name in ("heldout-photos", "reserve"))
    of_held, of_reserve = photos // 2, len(reserve) // (PARTS + 2)
    singles = round(_SINGLES * photos)
    if photos < 20 or PARTS * of_held > len(held) or photos - of_held + singles > of_reserve:
        raise UsageError(
            f"--photos {photos}: give 20 to {2 * (len(held) // PARTS)}, as many as there are photographs for"
        )
    made = []
    for part in range(PARTS):
        place = work / f"loop-{photos}-{seed}" / str(part)
        if not (place / "groups.csv").is_file():
            large = held[part * of_held : (part + 1) * of_held]
            small = reserve[part * of_reserve : (part + 1) * of_reserve]
            cut = photos - of_held
            _build(place, large, small[:cut], small[cut : cut + singles], seed=PARTS * seed + part)
        made.append(read_album(place))
    return made


def search(album: Album, *, model: Path | None) -> Path:
    """The folder of a search in the album that keeps every candidate; one that is there is used again."""
    out = album.root.with_name(album.root.name + "-found")
    find(
        FindRequest(paths=[album.root / "images"], out=out, config=FindConfig(floor=0.0), model=model, overwrite=True),
        LocalRunner(),
    )
    return out


def pool_of(run: FindRun, album: Album) -> Pool:
    """The pairs of a run over `album` that keypoints were compared for, with the truth about them."""
    known_of = {Path(row.image).name: row for row in album.images}
    evidence = [evidence_of(row) for row in run.rows]
    kept = [at for at, e in enumerate(evidence) if e.geometry is not None]
    ends = [(known_of[run.rows[at].left], known_of[run.rows[at].right]) for at in kept]
    known = run.candidates
    return Pool(
        values=np.array([features(evidence[at]) for at in kept]),
        truth=np.array([a.group == b.group for a, b in ends], np.bool_),
        edits=[f"{a.note} {b.note}" for a, b in ends],
        candidates=dataclasses.replace(
            known,
            left=known.left[kept],
            right=known.right[kept],
            score=known.score[kept],
            descriptor=None if known.descriptor is None else known.descriptor[kept],
        ),
    )


def _build(place: Path, large: Sequence[Photo], small: Sequence[Photo], singles: Sequence[Photo], *, seed: int) -> None:
    part = place.with_name(place.name + ".part")
    album = build_album([*large, *small], part, copies=_COPIES, seed=seed, severity=_SEVERITY, singles=singles)
    album = add_lookalikes(album, singles[:_SHARING], seed=seed)
    rows = []
    for kind, pairs in make_pairs(large, seed=seed, each=_HARD):
        for number, pair in enumerate(pairs if kind in LOOKALIKES else ()):
            for side, content in zip("ab", pair, strict=True):
                name = f"{kind}-{number}-{side}"
                (part / "images" / f"{name}.png").write_bytes(content)
                rows.append(AlbumImage(f"images/{name}.png", name, f"lookalike: {kind}"))
    album.extended(rows)
    part.rename(place)


def _turned(tar: Path, seed: int) -> list[Photo]:
    """The photographs in the order of their contents, begun elsewhere for each seed: other ones share an album."""
    photos = sorted(read_tar(tar), key=lambda photo: hashlib.sha256(photo.content).digest())
    at = (331 * seed) % len(photos)
    return photos[at:] + photos[:at]
