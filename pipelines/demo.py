"""The demo: an album of real photographs with edited copies, searched on a local Ray, and the truth told about it.

    python -m pipelines demo --out DIR [--images FOLDER]

The photographs ship inside scikit-image, scikit-learn and matplotlib; nothing is downloaded. What is printed at the
end is counted from the groups that the search wrote, against the truth that the album was built with.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ndd.config import json_digest
from ndd.errors import StoreError, UsageError
from ndd.runs import code_version
from ndd.tables import GroupRow, read_failures, read_groups
from ndd.types import image_id
from pipelines.album import Album, AlbumImage, Photo, build_album, read_album
from pipelines.edits import FAMILIES

__all__ = ["Judgement", "add_arguments", "build_demo_album", "judge", "photographs", "run", "table"]

_SKIMAGE, _SKLEARN, _MATPLOTLIB = "skimage/data", "sklearn/datasets/images", "matplotlib/mpl-data/sample_data"
_COPIED = (
    f"{_SKIMAGE}/astronaut.png",
    f"{_SKIMAGE}/camera.png",
    f"{_SKIMAGE}/chelsea.png",
    f"{_SKIMAGE}/coffee.png",
    f"{_SKIMAGE}/coins.png",
    f"{_SKIMAGE}/motorcycle_left.png",
    f"{_SKIMAGE}/rocket.jpg",
    f"{_SKLEARN}/china.jpg",
    f"{_SKLEARN}/flower.jpg",
    f"{_MATPLOTLIB}/grace_hopper.jpg",
)
# Photographs too, but of textures and skies that say little: they are there to be left alone.
_SINGLE = (
    f"{_SKIMAGE}/brick.png",
    f"{_SKIMAGE}/grass.png",
    f"{_SKIMAGE}/gravel.png",
    f"{_SKIMAGE}/hubble_deep_field.jpg",
    f"{_SKIMAGE}/moon.png",
    f"{_SKIMAGE}/retina.jpg",
)
_COPIES = 9
_SEVERITY = (0.2, 0.7)
_EXACT = "exact copy"
_DAMAGED = "damaged.jpg"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `python -m pipelines demo`."""
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for the album and the result (demo)")
    parser.add_argument("--images", type=Path, help="search a folder of your own instead of the built album")
    parser.add_argument("--seed", type=int, default=0, help="of the edits (0)")


def run(args: argparse.Namespace) -> int:
    """Build, search, tell; the exit code is that of the search."""
    out: Path = args.out.resolve()
    result = out / "result"
    if args.images is None:
        album = build_demo_album(out / "album", seed=args.seed)
        _say(_describe(album))
        folder = album.root / "images"
    else:
        album, folder = None, args.images
        if not folder.is_dir():
            raise UsageError(f"--images {folder}: there is no such folder")
    code = _find(folder, result)
    if code != 0:
        return code
    groups, failures = read_groups(result / "groups.parquet"), read_failures(result / "failures.parquet")
    _say(_listing(groups))
    if album is not None:
        _say("\n" + table(judge(album, groups)) + "\n")
    _say(
        f"Could not be read: {', '.join(f'{f.path} ({f.reason})' for f in failures)}"
        if failures
        else "All could be read."
    )
    _say(f"Report: {result / 'report.html'}")
    return 0


def build_demo_album(root: Path, *, seed: int = 0) -> Album:
    """The demo's album at `root`; one that is already there and whole is left untouched.

    Raises UsageError if a package with photographs is missing, StoreError if `root` holds something else.
    """
    copied, single = [_photo(path) for path in _COPIED], [_photo(path) for path in _SINGLE]
    made = root / "made.json"
    if root.exists() and not made.is_file():
        raise StoreError(f"{root}: not an album of the demo; name another folder with --out")
    key = json_digest([seed, code_version("pipelines"), *(image_id(photo.content) for photo in (*copied, *single))])
    if made.is_file() and made.read_text() == _stamp(root, key):
        return read_album(root)
    part = root.with_name(root.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    album = build_album(copied, part, copies=_COPIES, seed=seed, severity=_SEVERITY, singles=single)
    album = album.extended([_add_exact_copy(album, row) for row in album.images if _is_jpeg_original(row)])
    start = (part / album.images[0].image).read_bytes()[:4000]
    (part / "images" / _DAMAGED).write_bytes(b"\xff\xd8\xff\xe0" + start)
    (part / "made.json").write_text(_stamp(part, key))
    if root.exists():
        shutil.rmtree(root)
    part.rename(root)
    return read_album(root)


@dataclass(frozen=True)
class Judgement:
    """What the groups are worth. families: name → (copies, found); a copy is found if it shares its original's group.

    false_groups: the pictures of each group that joins different photographs.
    """

    families: Mapping[str, tuple[int, int]]
    missed: tuple[str, ...]
    false_groups: tuple[tuple[str, ...], ...]


def judge(album: Album, groups: Sequence[GroupRow]) -> Judgement:
    """Compare groups (paths below the album's images/) with the truth."""
    group_of = {f"images/{row.path}": row.group for row in groups}
    truth = {row.image: row for row in album.images}
    originals = {row.group: row.image for row in album.images if row.note == "original"}
    families: dict[str, tuple[int, int]] = {}
    missed = []
    for row in album.images:
        if row.note in ("original", "single"):
            continue
        here = group_of.get(row.image)
        found = here is not None and here == group_of.get(originals[row.group])
        copies, hits = families.get(row.family, (0, 0))
        families[row.family] = (copies + 1, hits + found)
        if not found:
            missed.append(f"{Path(row.image).name} ({row.note})")
    members: dict[int, list[str]] = {}
    for image, group in group_of.items():
        members.setdefault(group, []).append(image)
    mixed = tuple(
        tuple(sorted(images))
        for _, images in sorted(members.items())
        if len({truth[image].group if image in truth else image for image in images}) > 1
    )
    order = [*FAMILIES, _EXACT]
    return Judgement({name: families[name] for name in sorted(families, key=order.index)}, tuple(missed), mixed)


def photographs() -> list[Photo]:
    """The sixteen photographs of the demo. Raises UsageError if a package with photographs is missing."""
    return [_photo(path) for path in (*_COPIED, *_SINGLE)]


def _photo(path: str) -> Photo:
    package, _, rest = path.partition("/")
    spec = importlib.util.find_spec(package)  # looks, without importing the package
    file = Path(next(iter(spec.submodule_search_locations or ()), "")) / rest if spec else None
    if file is None or not file.is_file():
        raise UsageError(
            f"{path}: the demo takes this photograph from an installed package and it is not there; "
            "install ndd[demo], or search your own with --images FOLDER"
        )
    return Photo(file.stem, file.read_bytes())


def _is_jpeg_original(row: AlbumImage) -> bool:
    return row.note == "original" and row.image.endswith(".jpg")


def _add_exact_copy(album: Album, row: AlbumImage) -> AlbumImage:
    copy = f"images/copy of {Path(row.image).name}"
    shutil.copyfile(album.root / row.image, album.root / copy)
    return AlbumImage(copy, row.group, _EXACT)


def _stamp(root: Path, key: str) -> str:
    """What is in the album now: its key and the sha256 of every file."""
    files = sorted(path for path in root.rglob("*") if path.is_file() and path.name != "made.json")
    found = {path.relative_to(root).as_posix(): image_id(path.read_bytes()) for path in files}
    return json.dumps({"key": key, "files": found}, indent=1)


def _find(folder: Path, result: Path) -> int:
    command = [sys.executable, "-m", "pipelines", "find", str(folder), "--out", str(result), "--overwrite"]
    _say(f"$ python -m {' '.join(command[2:])}\n")
    return subprocess.run(command, check=False).returncode


def _describe(album: Album) -> str:
    notes = [row.note for row in album.images]
    originals, singles = notes.count("original"), notes.count("single")
    copies = len(notes) - originals - singles
    return (
        f"Album: {len(notes) + 1} files in {album.root / 'images'}: {originals} photographs, {copies} copies of them, "
        f"{singles} pictures without a copy, 1 damaged file."
    )


def _listing(groups: Sequence[GroupRow]) -> str:
    members: dict[int, list[GroupRow]] = {}
    for row in groups:
        members.setdefault(row.group, []).append(row)
    lines = [f"\n{len(members)} groups of near-duplicates"]
    for number, rows in sorted(members.items()):
        kept = next(row for row in rows if row.keep)
        others = sorted(row.path for row in rows if not row.keep)
        more = f" and {len(others) - 4} more" if len(others) > 4 else ""
        lines.append(f"  {number:>4}  {len(rows):>3} pictures  keep {kept.path}  copies {', '.join(others[:4])}{more}")
    return "\n".join(lines)


def table(judgement: Judgement) -> str:
    """The judgement as it is printed: one line per edit family, the missed copies, the false groups."""
    return "\n".join(_table_lines(judgement))


def _table_lines(judgement: Judgement) -> Iterator[str]:
    yield f"{'edit family':<14}{'copies':>8}{'found':>8}{'missed':>8}"
    for family, (copies, found) in judgement.families.items():
        yield f"{family.replace('_', ' '):<14}{copies:>8}{found:>8}{copies - found:>8}"
    copies, found = (sum(column) for column in zip(*judgement.families.values(), strict=True))
    yield f"{'all':<14}{copies:>8}{found:>8}{copies - found:>8}"
    if judgement.missed:
        yield f"missed: {', '.join(judgement.missed)}"
    yield f"false groups: {len(judgement.false_groups)}"
    for images in judgement.false_groups:
        yield f"  {', '.join(Path(image).name for image in images)}"


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
