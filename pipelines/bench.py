"""Benchmarks: `python -m pipelines bench accuracy | album …`. Each measures what a release claims and says it in JSON.

A bench is a module-level pair of functions in `_BENCHES`: one adds its arguments, one runs it. Heavy imports belong
into the second.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from ndd.errors import UsageError

__all__ = ["add_arguments", "data_folder", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The sub-benches as subcommands of `parser`."""
    benches = parser.add_subparsers(dest="bench", metavar="BENCH", required=True)
    for name, (add, execute) in _BENCHES.items():
        doc = (execute.__doc__ or name).splitlines()[0]
        add(benches.add_parser(name, help=doc, description=doc))


def run(args: argparse.Namespace) -> int:
    """Run the bench that was asked for; 0 if it could measure."""
    return _BENCHES[args.bench][1](args)


def data_folder(given: Path | None) -> Path:
    """`given`, else $NDD_DATA, else ../shared/data; raises UsageError if there is no such folder."""
    folder = given or Path(os.environ.get("NDD_DATA") or "../shared/data")
    if not folder.is_dir():
        raise UsageError(f"{folder}: there is no such data folder; name it with --data or NDD_DATA")
    return folder.resolve()


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, help="folder with corpus/ and weights/ ($NDD_DATA, else ../shared/data)")
    parser.add_argument("--seed", type=int, default=0, help="of the development album's edits (0)")


def _add_accuracy(parser: argparse.ArgumentParser) -> None:
    _add_data(parser)
    parser.add_argument("--album", type=Path, help="a folder or tar with groups.csv, instead of the development album")
    parser.add_argument("--model", type=Path, help="model directory (default: as everywhere)")
    parser.add_argument("--methods", help="comma-separated choice of ndd, mobilenetv2, pdq8, pdq, phash (all)")
    parser.add_argument("--work", type=Path, default=Path("runs/bench"), help="keeps albums and baselines (runs/bench)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the figures to this file too")


def _accuracy(args: argparse.Namespace) -> int:
    """rank all pairs of an album with known truth: mAP, µAP, recall at a stated precision, beside the baselines"""
    from pipelines import accuracy

    methods = tuple(args.methods.split(",")) if args.methods else accuracy.METHODS
    data = data_folder(args.data) if args.album is None or "mobilenetv2" in methods else None
    album = accuracy.open_album(args.album, data, work=args.work, seed=args.seed)
    figures = accuracy.measure(album, methods=methods, model=args.model, data=data, work=args.work)
    sys.stdout.write(accuracy.table(figures) + "\n")
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 0


def _add_album(parser: argparse.ArgumentParser) -> None:
    _add_data(parser)
    parser.add_argument("--out", type=Path, required=True, help="new folder for the album")
    parser.add_argument("--photos", type=Path, help="build from the pictures of this folder instead of the data folder")
    parser.add_argument("--copies", type=int, default=4, help="edited copies of each of --photos (4)")
    parser.add_argument("--families", help="comma-separated edit families for --photos (all)")


def _album(args: argparse.Namespace) -> int:
    """write an album with known truth: photographs, edited copies of them, pictures without a copy"""
    from pipelines.album import build_album, development_album, read_photos
    from pipelines.edits import FAMILIES

    if args.photos is None:
        album = development_album(data_folder(args.data), args.out, seed=args.seed)
    else:
        families = tuple(args.families.split(",")) if args.families else tuple(FAMILIES)
        photos = read_photos(args.photos)
        album = build_album(photos, args.out, copies=args.copies, families=families, seed=args.seed)
    sys.stdout.write(f"{album.root}: {len(album.images)} pictures, {len(album.groups())} groups, {album.digest()}\n")
    return 0


_BENCHES: Mapping[str, tuple[Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], int]]] = {
    "accuracy": (_add_accuracy, _accuracy),
    "album": (_add_album, _album),
}
