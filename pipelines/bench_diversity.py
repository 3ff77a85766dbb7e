"""What the diversity of the training pictures is worth: the same number of views of pictures of one kind, of several, of all.

The paper names the variety of its training data as a limitation. Here networks of one recipe are trained from scratch, alike
in everything but their pictures, and rank all pairs of one album with known truth by their descriptors alone:

- each of some kinds alone, N pictures of it;
- all kinds mixed, N pictures, as many of each as it can give: diversity at the same number of pictures;
- everything there is: more pictures, the same number of views.
"""

from __future__ import annotations

import csv
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from ndd.errors import InputError, SchemaError, UsageError
from pipelines.accuracy import measure as accuracy
from pipelines.album import Album, Photo, read_photos, read_tar

__all__ = ["CHEAP", "MIXED", "WHOLE", "kinds_of", "measure", "sets", "table"]

MIXED, WHOLE = "all kinds, as many pictures", "everything"
Kinds = Mapping[str, Sequence[Photo]]
CHEAP = (
    "loss.teacher=0",
    "localization_epochs=0",
    "model.image_size=48",
    'stages=[{"until": 1.0, "size": 48, "batch": 64}]',
    "epochs=8",
    "examples=2048",
    "finish.background=500",
)
"""Settings under which one training takes minutes on one core: enough to tell sets apart, not to ship one."""


def kinds_of(place: Path) -> dict[str, list[Photo]]:
    """Kind → its pictures: the folders of a folder, or the sources that corpus/manifest.csv of a data folder names."""
    manifest = place / "corpus" / "manifest.csv"
    if not manifest.is_file():
        if not place.is_dir():
            raise UsageError(f"{place}: there is no such folder; name one with a folder for each kind of picture")
        folders = sorted(path for path in place.iterdir() if path.is_dir())
        if len(folders) < 2:
            raise UsageError(f"{place}: a folder for each kind of picture is wanted, at least two, got {len(folders)}")
        return {folder.name: list(read_photos(folder)) for folder in folders}
    with manifest.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["shard"].startswith("train-")]
    source = {Path(row["file"]).stem: row["source"] for row in rows}
    found: dict[str, list[Photo]] = {}
    for shard in sorted({row["shard"] for row in rows}):
        for photo in read_tar(manifest.parent / shard):
            if photo.name not in source:
                raise SchemaError(f"{manifest}: no row for {photo.name} of {shard}; its source has to be named")
            found.setdefault(source[photo.name], []).append(photo)
    return found


def sets(kinds: Kinds, *, pictures: int, alone: int) -> dict[str, list[Photo]]:
    """Name of a training set → its pictures. alone: how many kinds get a set of their own: the smallest that have enough."""
    if pictures < 2 or alone < 0:
        raise UsageError(
            f"--pictures {pictures} --alone {alone}: at least 2 pictures and no fewer than 0 kinds are wanted"
        )
    enough = sorted((name for name in kinds if len(kinds[name]) >= pictures), key=lambda name: (len(kinds[name]), name))
    if not enough:
        most = max(map(len, kinds.values()))
        raise UsageError(f"--pictures {pictures}: no kind has so many, the largest has {most}; give a smaller number")
    drawn = {name: sorted(photos, key=_draw) for name, photos in kinds.items()}
    found = {name: drawn[name][:pictures] for name in enough[:alone]}
    found[MIXED] = list(_dealt(list(drawn.values()), pictures))
    found[WHOLE] = [photo for photos in drawn.values() for photo in photos]
    return found


def measure(
    training: Mapping[str, Sequence[Photo]], album: Album, *, work: Path, options: Sequence[str], seeds: int
) -> dict[str, Any]:
    """Training set → pictures, and mAP, µAP and recall at 90 % precision of each seed's model, with mean and spread.

    options: further ones of `python -m pipelines train`. Runs that are there already, below `work`, are not repeated.
    """
    if seeds < 1:
        raise UsageError(f"--seeds {seeds}: at least 1")
    found: dict[str, Any] = {}
    for name, photos in training.items():
        folder = work / "pictures" / _digest(photos)
        _write(folder, photos)
        runs = []
        for seed in range(seeds):
            of = hashlib.sha256("\n".join(options).encode()).hexdigest()[:12]
            run = work / f"run-{folder.name}-{of}-{seed}"
            _train(folder, run, [*options, "--set", f"seed={seed}"])
            figures = accuracy(album, methods=("ndd",), model=run / "model", data=None, work=work)["methods"]["ndd"]
            families = {family: round(of["map"], 4) for family, of in figures["families"].items()}
            runs.append(
                {
                    "map": figures["map"],
                    "micro_ap": figures["micro_ap"],
                    "recall_at_p90": figures["recall"]["0.9"]["recall"],
                    "families": families,
                }
            )
        found[name] = {"pictures": len(photos), "runs": runs, **_summary(runs)}
    return {"options": list(options), "seeds": seeds, "album": {"digest": album.digest()}, "sets": found}


def table(figures: Mapping[str, Any]) -> str:
    """The figures for people."""
    lines = [f"{'trained on':<32}{'pictures':>9}{'mAP':>16}{'µAP':>16}{'R@P90':>16}"]
    for name, of in figures["sets"].items():
        values = "".join(f"{_said(of[key]):>16}" for key in _MEASURED)
        lines.append(f"{name:<32}{of['pictures']:>9}{values}")
    if figures["seeds"] > 1:
        lines.append(f"± is the standard deviation over {figures['seeds']} seeds")
    return "\n".join(lines)


_MEASURED = ("map", "micro_ap", "recall_at_p90")


def _summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    values = {key: [float(run[key]) for run in runs] for key in _MEASURED}
    return {key: {"mean": fmean(v), "spread": stdev(v) if len(v) > 1 else None} for key, v in values.items()}


def _said(value: Mapping[str, Any]) -> str:
    return f"{value['mean']:.3f}" + ("" if value["spread"] is None else f" ± {value['spread']:.3f}")


def _draw(photo: Photo) -> bytes:
    """By content: the first ones by name would be of one class."""
    return hashlib.sha256(photo.content).digest()


def _dealt(kinds: Sequence[Sequence[Photo]], count: int) -> Iterator[Photo]:
    """One of each kind in turn, until there are so many or none is left."""
    for at in range(max(map(len, kinds))):
        for photos in kinds:
            if at < len(photos) and count > 0:
                count -= 1
                yield photos[at]


def _digest(photos: Sequence[Photo]) -> str:
    return hashlib.sha256(b"".join(sorted(map(_draw, photos)))).hexdigest()[:12]


def _write(folder: Path, photos: Sequence[Photo]) -> None:
    """The pictures as files; whole, or not there."""
    if folder.is_dir():
        return
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for at, photo in enumerate(photos):
        # Kinds may use a name twice; the decoder goes by content, whatever the ending.
        (partial / f"{at:06d}.png").write_bytes(photo.content)
    partial.rename(folder)


def _train(pictures: Path, run: Path, options: Sequence[str]) -> None:
    """In a process of its own: the same command as everyone's."""
    if (run / "model" / "card.json").is_file():
        return
    command = [
        sys.executable,
        "-m",
        "pipelines",
        "train",
        "--engine",
        "local",
        "--data",
        str(pictures),
        "--out",
        str(run),
    ]
    done = subprocess.run([*command, *options], stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        raise InputError(f"{run}: training ended with exit code {done.returncode}; its own message says why")
