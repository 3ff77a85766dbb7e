"""Albums with known truth: photographs, edited copies of them, and pictures that have no copy.

    album/
      images/…       real files: JPEG of varying quality, some PNG and WebP; untouched photographs keep their own bytes
      groups.csv     image, group, note, severity     pictures of one group show the same photograph

The same layout as public test sets with a `groups.csv`, so whatever reads one reads the other. The same photographs,
settings and seed give the same files, whatever their order: each copy draws from a generator of its own.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from ndd.errors import DecodeError, SchemaError, StoreError, UsageError
from pipelines.edits import FAMILIES, Pixels, apply_edit, apply_mixture, mixture_parts

__all__ = ["Album", "AlbumImage", "Photo", "build_album", "development_album", "read_album", "read_photos", "read_tar"]

_PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
ORIGINAL, SINGLE = "original", "single"


@dataclass(frozen=True, slots=True)
class Photo:
    """A photograph to build from: a name without suffix, and the bytes of a picture file."""

    name: str
    content: bytes

    @classmethod
    def of_array(cls, name: str, pixels: Pixels) -> Photo:
        """From pixels (H,W,3) uint8 RGB, held as PNG."""
        return cls(name, _encode(pixels, "PNG", 0))


@dataclass(frozen=True, slots=True)
class AlbumImage:
    """One row of groups.csv. `image` is a path below the album; `note` is `original`, `single`, or what was done, and
    `severity` how strongly, in [0, 1] (None: nothing was done, or it is not known)."""

    image: str
    group: str
    note: str
    severity: float | None = None

    @property
    def family(self) -> str:
        """The edit family: `mixture` of the note `mixture: crop + mirror`."""
        return self.note.partition(":")[0]


@dataclass(frozen=True)
class Album:
    """A folder of pictures and the truth about it."""

    root: Path
    images: tuple[AlbumImage, ...]

    def groups(self) -> dict[str, tuple[str, ...]]:
        """Group → its images, for groups of two or more."""
        members: dict[str, list[str]] = {}
        for row in self.images:
            members.setdefault(row.group, []).append(row.image)
        return {group: tuple(images) for group, images in members.items() if len(images) > 1}

    def extended(self, more: Iterable[AlbumImage]) -> Album:
        """The album with further pictures, already written below `root`; the truth on disk is rewritten."""
        album = Album(self.root, (*self.images, *more))
        _write_truth(self.root, album.images)
        return album

    def digest(self) -> str:
        """sha256 of the truth and of every picture's bytes."""
        whole = hashlib.sha256()
        for row in self.images:
            content = hashlib.sha256((self.root / row.image).read_bytes()).hexdigest()
            whole.update("\t".join((row.image, row.group, row.note, content, "\n")).encode())
        return whole.hexdigest()


def build_album(
    photos: Iterable[Photo],
    out: Path,
    *,
    copies: int = 4,
    families: Sequence[str] = tuple(FAMILIES),
    seed: int = 0,
    severity: tuple[float, float] = (0.0, 1.0),
    singles: Iterable[Photo] = (),
) -> Album:
    """Write `photos` with `copies` edited copies each, and `singles` as they are, to the new folder `out`.

    Families take turns, so that each is met equally often and the copies of one photograph differ in family as far as
    there are families; severities are uniform over `severity`. Raises UsageError for settings that make no album,
    StoreError if `out` already holds something, DecodeError naming a photograph that cannot be read.
    """
    photos, singles = sorted(photos, key=_name), sorted(singles, key=_name)
    _check(copies, families, severity, names=[photo.name for photo in (*photos, *singles)])
    out = Path(out)
    if out.exists() and any(out.iterdir()):
        raise StoreError(f"{out}: the folder is not empty; name a new one for the album")
    (out / "images").mkdir(parents=True, exist_ok=True)
    rows: list[AlbumImage] = []
    start = int(_generator(seed, "families", 0).integers(len(families)))
    for index, photo in enumerate(photos):
        rows.append(_write(out, photo.name, photo, ORIGINAL))
        for k in range(copies):
            family = families[(start + copies * index + k) % len(families)]
            rng = _generator(seed, photo.name, k)
            edited, note, strength = _edit(photo, family, severity, rng)
            copy = Photo(photo.name, _as_shared(edited, rng))
            row = _write(out, f"{photo.name}-{k + 1}-{family}", copy, note)
            rows.append(replace(row, severity=round(strength, 4)))
    rows += [_write(out, photo.name, photo, SINGLE) for photo in singles]
    _write_truth(out, rows)
    return Album(out, tuple(rows))


def development_album(data_dir: Path, out: Path, *, seed: int = 0, distractors: int = 2000) -> Album:
    """200 held-out photographs × 4 edits, the other 200, and `distractors` pictures of the reserve: 3,200 by default.

    `data_dir` holds corpus/heldout-photos.tar and corpus/reserve.tar. Which photographs get copies follows from their
    contents, not from the seed, so that albums of two seeds differ in their edits alone.
    """
    corpus = Path(data_dir) / "corpus"
    photos = sorted(read_tar(corpus / "heldout-photos.tar"), key=_content_order)
    reserve = sorted(read_tar(corpus / "reserve.tar"), key=_content_order)
    return build_album(photos[:200], out, copies=4, seed=seed, singles=[*photos[200:], *reserve[:distractors]])


def read_album(root: Path) -> Album:
    """The album in the folder `root`; raises SchemaError unless groups.csv is sound and its pictures are there."""
    root = Path(root)
    table = root / "groups.csv"
    try:
        with table.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if reader.fieldnames is None or not {"image", "group", "note"} <= set(reader.fieldnames):
                raise SchemaError(f"{table}: expected the columns image, group, note, got {reader.fieldnames}")
            rows = tuple(
                AlbumImage(row["image"], row["group"], row["note"], _number(row.get("severity"))) for row in reader
            )
    except OSError as error:
        raise SchemaError(f"{table}: cannot read the truth of the album ({error.strerror})") from error
    seen: set[str] = set()
    for row in rows:
        if row.image in seen:
            raise SchemaError(f"{table}: {row.image} is listed twice")
        if not (root / row.image).is_file():
            raise SchemaError(f"{table}: {row.image} is listed and is not there")
        seen.add(row.image)
    return Album(root, rows)


def read_photos(folder: Path) -> Iterator[Photo]:
    """The picture files directly in `folder`, by name; raises UsageError if there are none."""
    files = sorted(p for p in Path(folder).iterdir() if p.suffix.lower() in _PICTURES and p.is_file())
    if not files:
        raise UsageError(f"{folder}: holds no picture file ({', '.join(_PICTURES)})")
    for path in files:
        yield Photo(path.stem, path.read_bytes())


def read_tar(path: Path) -> Iterator[Photo]:
    """The picture files of a tar, in its order, named by their stems."""
    if not Path(path).is_file():
        raise UsageError(f"{path}: there is no such tar of photographs; point --data or NDD_DATA at the data folder")
    with tarfile.open(path) as tar:
        for member in tar:
            file = tar.extractfile(member) if member.name.lower().endswith(_PICTURES) else None
            if file is not None:
                yield Photo(Path(member.name).stem, file.read())


def _check(copies: int, families: Sequence[str], severity: tuple[float, float], *, names: Sequence[str]) -> None:
    if copies < 1:
        raise UsageError(f"copies must be at least 1, got {copies}")
    unknown = [family for family in families if family not in FAMILIES]
    if unknown or not families:
        raise UsageError(f"families: {', '.join(unknown) or 'none given'}; known: {', '.join(FAMILIES)}")
    if not 0.0 <= severity[0] <= severity[1] <= 1.0:
        raise UsageError(f"severity must be a range within [0, 1], got {severity}")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UsageError(f"photographs: {twice[0]!r} is the name of more than one; a name stands for one group")


def _edit(
    photo: Photo, family: str, severity: tuple[float, float], rng: np.random.Generator
) -> tuple[Pixels, str, float]:
    """The edited picture, the note on it and the severity."""
    pixels = _decode(photo)
    strength = float(rng.uniform(*severity))
    if family == "mixture":
        parts = mixture_parts(strength, rng)
        return apply_mixture(parts, pixels, strength, rng), f"mixture: {' + '.join(parts)}", strength
    return apply_edit(family, pixels, severity=strength, rng=rng), family, strength


def _decode(photo: Photo) -> Pixels:
    try:
        with Image.open(io.BytesIO(photo.content)) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError) as error:
        raise DecodeError(f"photograph {photo.name}: {error}") from error


def _as_shared(pixels: Pixels, rng: np.random.Generator) -> bytes:
    """A file as people pass them on: mostly JPEG of quality 60–95, now and then WebP or PNG."""
    draw = rng.random()
    quality = int(rng.integers(60, 96))
    return _encode(pixels, "JPEG" if draw < 0.8 else "WEBP" if draw < 0.92 else "PNG", quality)


def _encode(pixels: Pixels, codec: str, quality: int) -> bytes:
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, codec, **({} if codec == "PNG" else {"quality": quality}))
    return held.getvalue()


def _write(out: Path, stem: str, photo: Photo, note: str) -> AlbumImage:
    try:
        with Image.open(io.BytesIO(photo.content)) as image:
            codec = (image.format or "bin").lower()
    except (OSError, ValueError) as error:
        raise DecodeError(f"photograph {photo.name}: {error}", stage="header") from error
    name = f"images/{stem}.{'jpg' if codec == 'jpeg' else codec}"
    with (out / name).open("xb") as file:
        file.write(photo.content)
    return AlbumImage(name, photo.name, note)


def _write_truth(out: Path, rows: Iterable[AlbumImage]) -> None:
    part = out / "groups.csv.part"
    with part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("image", "group", "note", "severity"))
        writer.writerows((row.image, row.group, row.note, "" if row.severity is None else row.severity) for row in rows)
    os.replace(part, out / "groups.csv")  # a groups.csv that is there is whole: it marks the album as complete


def _generator(seed: int, name: str, copy: int) -> np.random.Generator:
    key = hashlib.sha256(f"{seed}\n{name}\n{copy}".encode()).digest()
    return np.random.default_rng(int.from_bytes(key[:16], "big"))


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None  # a column of that name in somebody else's table


def _name(photo: Photo) -> str:
    return photo.name


def _content_order(photo: Photo) -> bytes:
    return hashlib.sha256(photo.content).digest()
