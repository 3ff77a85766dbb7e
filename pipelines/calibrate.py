"""`python -m pipelines calibrate`: what a model's scores mean, learnt from photographs.

An edited-copy album is built from them, searched as everyone searches (`ndd.find`), and the candidates are compared with its
truth (`pipelines.score_fit`). calibration.json comes into the model directory, and the evidence it was fitted to beside it.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from ndd.config import FindConfig
from ndd.errors import UsageError
from ndd.files import atomic_path
from ndd.find import FindRequest, find
from ndd.images import decode
from ndd.local import LocalRunner
from ndd.model.directory import CALIBRATION, describe, resolve
from ndd.tables import PairRow, read_pairs
from ndd.types import Match, Relation
from ndd.verify.geometry import GeometricEvidence
from ndd.verify.score import PairEvidence, Scorer
from pipelines.album import Album, AlbumImage, Photo, build_album, read_photos, read_tar
from pipelines.edits import Pixels
from pipelines.overlays import caption, meme, screenshot, sticker, watermark
from pipelines.score_fit import fit, taught_by

__all__ = [
    "add_arguments",
    "add_cuttings",
    "add_lookalikes",
    "add_textures",
    "album_for",
    "calibrate",
    "evidence_of",
    "run",
    "sample",
]

_CARD = (320, 240)
_SHARING = 4
"""Different photographs that share one caption, frame or watermark."""
_CUT = 2
"""For each photograph that is cut or made into textures, so many get edited copies; four times as many where those are all
there are."""
_PATCHES = (24, 36, 52)
"""Sides of a texture's patches, pixels."""
_LEAST_SIDE = 2 * min(_PATCHES)
"""Pixels; smaller photographs are neither cut nor made into textures."""


def evidence_of(pair: PairRow | Match) -> PairEvidence:
    """The evidence behind a row of pairs.parquet, or behind what a detector says of two pictures."""
    values = dict(pair.evidence)
    known = {f.name for f in dataclasses.fields(GeometricEvidence)}
    geometry = {name: values[name] for name in known if name in values}
    if geometry.get("transform") is not None:
        geometry["transform"] = tuple(tuple(r) for r in geometry["transform"])
    return PairEvidence(
        distance=pair.distance,
        hash_bits=int(values.get("hash_bits", 0)),
        geometry=GeometricEvidence(**geometry) if geometry else None,
        identical=pair.relation is Relation.EXACT,
        flat=bool(values.get("flat", False)),
        upright=bool(values.get("upright", True)),
        hubness=float(values.get("hubness", 0.0)),
    )


def calibrate(album: Album, model: Path, *, work: Path, write: bool = True) -> dict[str, Any]:
    """Search `album` with `model`, fit the score to its truth, write it into the model directory, and return it.

    work: an empty directory for the search. The folds of the check keep all pairs of one photograph together.
    """
    # A high precision accepts little, so the search adds few pairs of its own choosing to the candidates.
    config = FindConfig(floor=0.0, precision=0.999)
    group = {Path(image.image).relative_to("images").as_posix(): image.group for image in album.images}
    names = {name: at for at, name in enumerate(sorted(set(group.values())))}

    def searched(config: FindConfig, out: Path) -> list[PairRow]:
        find(FindRequest(paths=[album.root / "images"], out=out, config=config, model=model), LocalRunner())
        return [row for row in read_pairs(out / "pairs.parquet") if row.left in group and row.right in group]

    def truths(rows: Sequence[PairRow]) -> list[bool]:
        return [group[row.left] == group[row.right] for row in rows]

    rows = searched(config, work / "verified")
    evidence, labels = [evidence_of(row) for row in rows], truths(rows)
    # What a glance has left has other strangers than what a search meets that takes no look at all.
    bare = searched(dataclasses.replace(config, verify="none"), work / "unverified")
    fitted = fit(
        evidence,
        labels,
        groups=[names[group[row.left]] for row in rows],
        unverified=([evidence_of(row) for row in bare], truths(bare)),
    )
    Scorer(fitted)  # refuses what it could not read later
    fitted["fit"]["album"] = {"images": len(album.images), "groups": len(album.groups()), "digest": album.digest()}
    fitted["fit"]["embedding_digest"] = describe(model).embedding_digest
    if write:
        taught_by(evidence, labels).save(model)
        with atomic_path(model / CALIBRATION) as temporary:
            temporary.write_text(json.dumps(fitted, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return fitted


def album_for(photos: Sequence[Photo], singles: Sequence[Photo], out: Path, *, copies: int, seed: int) -> Album:
    """What a score is fitted to: copies of `photos`, and strangers that are like one another in several ways.

    singles: photographs without copies; those of a name in `photos` are passed over. They share what is laid over them; some
    are cut into quarters instead, and some made into textures; without any, some of `photos` are.
    """
    taken = {photo.name for photo in photos}
    edited, spare = list(photos), [photo for photo in singles if photo.name not in taken]
    source, count = (spare, len(edited) // _CUT) if spare else (edited, len(edited) // (4 * _CUT))
    cut = [source.pop() for _ in range(min(count, len(source) // 2))]
    album = build_album(edited, out, copies=copies, seed=seed, singles=spare)
    album = add_lookalikes(album, spare or edited, seed=seed)
    return add_textures(add_cuttings(album, cut[::2]), cut[1::2], seed=seed)


def add_lookalikes(album: Album, photos: Sequence[Photo], *, seed: int) -> Album:
    """The album with different photographs that share a caption, frame, sticker or watermark, four at a time.

    Whoever has seen only honest strangers believes that anything in common makes a copy.
    """
    kinds = (caption, meme, screenshot, watermark, sticker)
    added = []
    for start in range(0, len(photos) - _SHARING + 1, _SHARING):
        number = start // _SHARING
        for photo in photos[start : start + _SHARING]:
            pixels = decode(photo.content).pixels
            # One size and one seed: the same text in the same place.
            same = np.asarray(cv2.resize(pixels, _CARD, interpolation=cv2.INTER_AREA), np.uint8)
            severity = (0.4, 0.7, 1.0)[number // len(kinds) % 3]
            edited = kinds[number % len(kinds)](same, severity, np.random.default_rng([seed, number]))
            name = f"images/{photo.name}-shares-{number}.jpg"
            Image.fromarray(edited).save(album.root / name, "JPEG", quality=85)
            added.append(AlbumImage(name, photo.name, "lookalike"))
    return album.extended(added)


def add_cuttings(album: Album, photos: Sequence[Photo]) -> Album:
    """The album with the quarters of photographs, each a picture by itself; the photographs must not be in it.

    One gravel, one sky, one wallpaper: alike all over, and none a copy of another.
    """
    added = []
    for photo in photos:
        pixels = decode(photo.content).pixels
        if min(pixels.shape[:2]) < _LEAST_SIDE:
            continue
        middle = tuple(side // 2 for side in pixels.shape[:2])
        halves = [(slice(None, at), slice(at, None)) for at in middle]
        for number, (rows, columns) in enumerate(product(*halves)):
            name = f"{photo.name}-cut-{number}"
            Image.fromarray(pixels[rows, columns]).save(album.root / f"images/{name}.jpg", "JPEG", quality=90)
            added.append(AlbumImage(f"images/{name}.jpg", name, "cutting"))
    return album.extended(added)


def add_textures(album: Album, photos: Sequence[Photo], *, seed: int) -> Album:
    """The album with four textures of a part of each photograph, none the same; the photographs must not be in it.

    Brick, gravel, print: every detail is found again somewhere, and no place is. The textures are patches laid at random with
    soft edges, as in image quilting (Efros & Freeman 2001) without its search for the best cut.
    """
    added = []
    for at, photo in enumerate(photos):
        random = np.random.default_rng([seed, at])
        pixels = decode(photo.content).pixels
        height, width = pixels.shape[:2]
        if min(height, width) < _LEAST_SIDE:
            continue
        patch = min(_PATCHES[at % len(_PATCHES)], height // 2, width // 2)
        side = max(min(height, width) // 2, patch + 1)
        top, left = random.integers(0, height - side + 1), random.integers(0, width - side + 1)
        part = pixels[top : top + side, left : left + side]
        for number in range(_SHARING):
            name = f"{photo.name}-texture-{number}"
            Image.fromarray(_texture(part, patch, random)).save(album.root / f"images/{name}.jpg", "JPEG", quality=88)
            added.append(AlbumImage(f"images/{name}.jpg", name, "texture"))
    return album.extended(added)


def _texture(part: Pixels, patch: int, random: np.random.Generator) -> Pixels:
    """Patches of (S,S,3) `part`, `patch` pixels wide, three eighths of each over its neighbour's edge."""
    width, height = _CARD
    fade = np.minimum(np.minimum(np.arange(patch) + 1, np.arange(patch, 0, -1)) * 4 / patch, 1.0) ** 2
    mask = np.outer(fade, fade)[..., None].astype(np.float32)
    whole = np.zeros((height + patch, width + patch, 3), np.float32)
    weight = np.zeros((height + patch, width + patch, 1), np.float32)
    step = max(patch * 5 // 8, 1)
    for y, x in product(range(0, height, step), range(0, width, step)):
        top, left = random.integers(0, part.shape[0] - patch + 1), random.integers(0, part.shape[1] - patch + 1)
        whole[y : y + patch, x : x + patch] += mask * part[top : top + patch, left : left + patch]
        weight[y : y + patch, x : x + patch] += mask
    mixed = whole[:height, :width] / np.maximum(weight[:height, :width], 1e-6)
    return np.asarray(np.clip(mixed, 0, 255), np.uint8)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m pipelines calibrate`."""
    parser.add_argument("photos", type=Path, help="folder or tar of photographs, none a copy of another")
    parser.add_argument("--singles", type=Path, help="folder or tar of further photographs that get no edited copies")
    parser.add_argument("--model", help="model directory to calibrate (default: the one `ndd find` would use)")
    parser.add_argument("--copies", type=int, default=4, help="edited copies of each photograph (default 4)")
    parser.add_argument("--limit", type=int, default=600, help="most photographs that get copies (default 600)")
    parser.add_argument("--singles-limit", type=int, default=5000, help="most of --singles (default 5000)")
    parser.add_argument("--seed", type=int, default=1, help="of the sample and the edits (default 1)")
    parser.add_argument("--json", action="store_true", help="print the calibration instead of a summary")


def run(args: argparse.Namespace) -> int:
    """Build the album, calibrate, say how well it went; the exit code."""
    for name in ("limit", "singles_limit"):
        if getattr(args, name) < 1:
            raise UsageError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(args, name)}")
    model = resolve(args.model)
    with tempfile.TemporaryDirectory(prefix="ndd-calibrate-") as scratch:
        photos = sample(args.photos, args.limit, seed=args.seed)
        singles = sample(args.singles, args.singles_limit, seed=args.seed) if args.singles else []
        album = album_for(photos, singles, Path(scratch) / "album", copies=args.copies, seed=args.seed)
        fitted = calibrate(album, model, work=Path(scratch) / "search")
    if args.json:
        sys.stdout.write(json.dumps(fitted, indent=2, sort_keys=True) + "\n")
    else:
        sys.stdout.write(_summary(fitted, model) + "\n")
    return 0


def sample(place: Path, limit: int, *, seed: int) -> list[Photo]:
    """At most so many of a folder's or tar's photographs, drawn by their names: the first ones would often be of one kind."""
    found = read_tar(place) if place.suffix == ".tar" else read_photos(place)
    return sorted(found, key=lambda photo: hashlib.sha256(f"{seed} {photo.name}".encode()).digest())[:limit]


def _summary(fitted: Mapping[str, Any], model: Path) -> str:
    facts = fitted["fit"]
    weights = ", ".join(f"{n} {w:g}" for n, w in zip(fitted["features"], fitted["weights"], strict=True))
    return (
        f"{model / CALIBRATION}: {facts['pairs']} candidate pairs, {facts['duplicates']} of them duplicates; "
        f"cross-fitted calibration error {facts['ece']:.4f}, log loss {facts['log_loss']:.4f}\n{weights}"
    )
