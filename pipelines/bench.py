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
from typing import Any

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
    parser.add_argument("--public", action="store_true", help="the public test sets of the data folder instead")
    parser.add_argument(
        "--methods",
        help="comma-separated choice of ndd, mobilenetv2, pdq8, pdq, phash, sift, fastdup, imagehash, imagededup; the last "
        "three want NDD_PEERS (album: the first five; public: the first seven)",
    )
    parser.add_argument("--work", type=Path, default=Path("runs/bench"), help="keeps albums and baselines (runs/bench)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the figures to this file too")


def _accuracy(args: argparse.Namespace) -> int:
    """rank all pairs of an album with known truth: mAP, µAP, recall at a stated precision, beside the baselines"""
    from pipelines import accuracy

    if args.public:
        return _public(args)
    methods = tuple(args.methods.split(",")) if args.methods else accuracy.METHODS
    data = data_folder(args.data) if args.album is None or "mobilenetv2" in methods else None
    album = accuracy.open_album(args.album, data, work=args.work, seed=args.seed)
    figures = accuracy.measure(album, methods=methods, model=args.model, data=data, work=args.work)
    return _said(accuracy.table(figures), figures, args.json)


def _public(args: argparse.Namespace) -> int:
    from pipelines import bench_public

    if args.album is not None:
        raise UsageError("--public measures its own pictures; leave --album out")
    methods = tuple(args.methods.split(",")) if args.methods else bench_public.METHODS
    figures = bench_public.measure(data_folder(args.data), methods=methods, model=args.model, work=args.work)
    return _said(bench_public.table(figures), figures, args.json)


def _said(table: str, figures: Mapping[str, Any], out: Path | None) -> int:
    """Print the table, write the JSON where one is wanted."""
    sys.stdout.write(table + "\n")
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 0


def _add_find(parser: argparse.ArgumentParser) -> None:
    _add_data(parser)
    parser.add_argument("--album", type=Path, help="a folder or tar with groups.csv, instead of the development album")
    parser.add_argument("--model", type=Path, help="model directory (default: as everywhere)")
    parser.add_argument("--verify", choices=("keypoints", "none"), help="as of `ndd find`")
    parser.add_argument("--neighbours", type=int, metavar="K", help="as of `ndd find`")
    parser.add_argument(
        "--no-peer",
        action="store_true",
        help="ndd alone; otherwise NDD_PEERS has to have fastdup, and data MobileNetV2",
    )
    parser.add_argument(
        "--speed",
        action="store_true",
        help="time it, with keypoints and without, and fastdup on enlarged pictures instead",
    )
    parser.add_argument("--images", type=int, default=3000, help="of --speed (3000)")
    parser.add_argument("--rounds", type=int, default=3, help="of --speed: times that each runs, in turns (3)")
    parser.add_argument("--work", type=Path, default=Path("runs/bench"), help="keeps albums (runs/bench)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the figures to this file too")


def _find(args: argparse.Namespace) -> int:
    """search an album with known truth: what is found and what it costs, from one run, beside other methods"""
    from pipelines import bench_embed, bench_find, bench_find_others
    from pipelines.accuracy import open_album

    if args.speed:
        alone = {"--album": args.album, "--verify": args.verify, "--neighbours": args.neighbours}
        if given := [name for name, value in alone.items() if value is not None]:
            raise UsageError(f"--speed times its own pictures both ways; leave {', '.join(given)} out")
        folder = _enlarged(args)
        figures = bench_embed.measure(
            folder, model=args.model, rounds=args.rounds, peer=not args.no_peer, commands=bench_embed.FIND
        )
        return _said(bench_embed.table(figures), figures, args.json)
    data = data_folder(args.data) if args.album is None or not args.no_peer else None
    album = open_album(args.album, data, work=args.work, seed=args.seed)
    chosen = {"--verify": args.verify, "--neighbours": args.neighbours}
    options = [text for name, value in chosen.items() if value is not None for text in (name, str(value))]
    others = () if args.no_peer else bench_find_others.OTHERS
    figures = bench_find.measure(album, work=args.work, model=args.model, options=options, others=others, data=data)
    return _said(bench_find.table(figures), figures, args.json)


def _add_diversity(parser: argparse.ArgumentParser) -> None:
    _add_data(parser)
    parser.add_argument(
        "--kinds", type=Path, metavar="DIR", help="a folder for each kind of picture, instead of the data folder"
    )
    parser.add_argument("--album", type=Path, help="a folder or tar with groups.csv, instead of the development album")
    parser.add_argument("--pictures", type=int, default=1000, help="in each training set but the last (1000)")
    parser.add_argument("--alone", type=int, default=3, help="kinds with a training set of their own (3)")
    parser.add_argument("--recipe", default="small_no_stn", help="of each training (small_no_stn)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="as of train, beside 8 epochs of 2,048 at 48 pixels",
    )
    parser.add_argument("--seeds", type=int, default=2, help="trainings on each set (2)")
    parser.add_argument("--work", type=Path, default=Path("runs/bench"), help="keeps albums and runs (runs/bench)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the figures to this file too")


def _diversity(args: argparse.Namespace) -> int:
    """what the variety of training pictures is worth: networks trained on one kind, on several, on all"""
    from pipelines import bench_diversity
    from pipelines.accuracy import open_album

    data = data_folder(args.data) if args.album is None or args.kinds is None else None
    album = open_album(args.album, data, work=args.work, seed=args.seed)
    kinds = bench_diversity.kinds_of(args.kinds or data_folder(args.data))
    training = bench_diversity.sets(kinds, pictures=args.pictures, alone=args.alone)
    options = ["--recipe", args.recipe]
    for setting in (*bench_diversity.CHEAP, *args.set):
        options += ["--set", setting]
    figures = bench_diversity.measure(training, album, work=args.work / "diversity", options=options, seeds=args.seeds)
    return _said(bench_diversity.table(figures), figures, args.json)


def _add_embed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, help="folder with corpus/reserve.tar ($NDD_DATA, else ../shared/data)")
    parser.add_argument("--folder", type=Path, help="a folder of pictures, instead of enlarged ones of the reserve")
    parser.add_argument("--images", type=int, default=3000, help="how many of the reserve (3000)")
    parser.add_argument("--rounds", type=int, default=3, help="times that each tool runs, in turns (3)")
    parser.add_argument("--no-peer", action="store_true", help="ndd alone; otherwise NDD_PEERS has to have fastdup")
    parser.add_argument("--model", type=Path, help="model directory (default: as everywhere)")
    parser.add_argument("--work", type=Path, default=Path("runs/bench"), help="keeps the pictures (runs/bench)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the figures to this file too")


def _embed(args: argparse.Namespace) -> int:
    """time `ndd embed` and fastdup over the same pictures, start-up and decoding included"""
    from pipelines import bench_embed

    folder = args.folder or _enlarged(args)
    figures = bench_embed.measure(folder, model=args.model, rounds=args.rounds, peer=not args.no_peer)
    return _said(bench_embed.table(figures), figures, args.json)


def _enlarged(args: argparse.Namespace) -> Path:
    """The folder of enlarged pictures of the reserve, written once."""
    from pipelines import bench_embed

    tar = data_folder(args.data) / "corpus" / "reserve.tar"
    return bench_embed.photographs(tar, args.work / f"photographs-{args.images}", images=args.images)


def _add_stn(parser: argparse.ArgumentParser) -> None:
    _add_data(parser)
    parser.add_argument("--album", type=Path, help="a folder or tar with groups.csv, instead of the development album")
    parser.add_argument("--model", type=Path, help="model directory (default: as everywhere)")
    parser.add_argument("--photos", type=Path, help="folder of photographs, instead of the held-out ones")
    parser.add_argument("--work", type=Path, default=Path("runs/bench"), help="keeps albums (runs/bench)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the figures to this file too")


def _stn(args: argparse.Namespace) -> int:
    """what the spatial transformer does: does it find the pose, is it needed, what does it cost"""
    from ndd.images import decode
    from ndd.model.checkpoint import load, resolve
    from pipelines import bench_stn
    from pipelines.accuracy import open_album
    from pipelines.album import read_photos, read_tar

    data = data_folder(args.data) if args.album is None or args.photos is None else None
    held = (
        read_photos(args.photos)
        if args.photos is not None or data is None
        else read_tar(data / "corpus" / "heldout-photos.tar")
    )
    photographs = [decode(photo.content).pixels for photo in held]
    album = open_album(args.album, data, work=args.work, seed=args.seed)
    figures = bench_stn.measure(album, load(resolve(args.model)), photographs)
    return _said(bench_stn.table(figures), figures, args.json)


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


def _add_loop(parser: argparse.ArgumentParser) -> None:
    _add_data(parser)
    parser.add_argument("--model", type=Path, help="model directory (default: as everywhere)")
    parser.add_argument(
        "--photos", type=int, default=260, help="photographs with copies in each of the three albums, up to 266 (260)"
    )
    parser.add_argument("--without", default="wave", metavar="FAMILY", help="the family not seen before (wave)")
    parser.add_argument("--seeds", type=int, default=6, help="repetitions, the albums taking turns (6)")
    parser.add_argument("--work", type=Path, default=Path("runs/bench"), help="keeps albums and searches (runs/bench)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the figures to this file too")
    parser.add_argument("--plot", type=Path, metavar="OUT.png", help="draw the curves")


def _loop(args: argparse.Namespace) -> int:
    """what labels are worth: F1 by their number for three ways of choosing, the ground truth as reviewer"""
    from pipelines import bench_loop, bench_loop_data

    albums = bench_loop_data.albums(data_folder(args.data), args.work, photos=args.photos, seed=args.seed)
    runs = [bench_loop_data.search(album, model=args.model) for album in albums]
    figures = bench_loop.measure(runs, albums, without=args.without, seeds=args.seeds, plot=args.plot)
    return _said(bench_loop.table(figures), figures, args.json)


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--blocks", type=int, default=10, help="of each side, in turns (10)")
    parser.add_argument("--steps", type=int, default=12, help="in a block (12)")
    parser.add_argument("--size", type=int, default=32, help="of the views, pixels (32)")
    parser.add_argument("--batch", type=int, default=32, help="pairs of views in a step (32)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the figures to this file too")


def _train(args: argparse.Namespace) -> int:
    """time training on Ray, one worker and two, in turns with a plain PyTorch loop of the same steps"""
    from pipelines import bench_train

    figures = bench_train.measure(blocks=args.blocks, steps=args.steps, size=args.size, batch=args.batch)
    return _said(bench_train.table(figures), figures, args.json)


def _add_serve(parser: argparse.ArgumentParser) -> None:
    _add_data(parser)
    parser.add_argument("--album", type=Path, help="a folder or tar with groups.csv, instead of the development album")
    parser.add_argument("--model", type=Path, help="model directory (default: as everywhere)")
    parser.add_argument("--seconds", type=float, help="of each measurement in each round (8), of the soak (600)")
    parser.add_argument("--rounds", type=int, default=3, help="times that each is measured, in turns (3)")
    parser.add_argument("--soak", action="store_true", help="mixed work for ten minutes instead: memory and errors")
    parser.add_argument("--rate", type=float, default=20.0, help="requests per second of the soak (20)")
    parser.add_argument(
        "--vectors", type=int, default=100_000, help="vectors of the index that is asked by HTTP (100,000)"
    )
    parser.add_argument(
        "--only", choices=("vectors", "ingress", "grpc", "slow"), help="by vector; proxies; gRPC; slow senders"
    )
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the server")
    parser.add_argument("--work", type=Path, default=Path("runs/bench"), help="keeps albums (runs/bench)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the figures to this file too")


def _serve(args: argparse.Namespace) -> int:
    """the server beside the bare detector and plain FastAPI, in turns; --soak: ten minutes of mixed work"""
    from ndd.model.directory import resolve
    from pipelines import (
        bench_serve,
        bench_serve_grpc,
        bench_serve_ingress,
        bench_serve_load,
        bench_serve_slow,
        bench_serve_vectors,
        bench_soak,
    )
    from pipelines.accuracy import open_album

    if args.only == "grpc":
        ways = bench_serve_grpc.measure(seconds=args.seconds or 8.0, rounds=args.rounds)
        return _said(bench_serve_load.table(ways), ways, args.json)
    data = data_folder(args.data) if args.album is None else None
    work = bench_serve.workload(open_album(args.album, data, work=args.work, seed=args.seed), seed=args.seed)
    model, settings = resolve(args.model), args.set
    if args.soak:
        figures = bench_soak.soak(work, model=model, seconds=args.seconds or 600.0, rate=args.rate, settings=settings)
        return _said(bench_soak.table(figures), figures, args.json)
    seconds = args.seconds or 8.0
    if args.only == "ingress":
        beside = bench_serve_ingress.measure(work, model=model, seconds=seconds, rounds=args.rounds, settings=settings)
        return _said(bench_serve_load.table(beside), beside, args.json)
    if args.only == "slow":
        slowed = bench_serve_slow.measure(work, model=model, settings=settings)
        return _said(bench_serve_slow.table(slowed), slowed, args.json)
    by_vector = bench_serve_vectors.measure(work, model=model, images=args.vectors, queries=400, settings=settings)
    if args.only == "vectors":
        return _said(bench_serve_vectors.table(by_vector), by_vector, args.json)
    figures = bench_serve.measure(work, model=model, seconds=seconds, rounds=args.rounds, settings=settings)
    said = f"{bench_serve.table(figures)}\n{bench_serve_vectors.table(by_vector)}"
    return _said(said, {**figures, "vectors": by_vector}, args.json)


def _add_index(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=int, default=100_000, help="vectors in the index (100,000)")
    parser.add_argument("--dim", type=int, default=256, help="numbers per vector (256)")
    parser.add_argument("--queries", type=int, default=400, help="how often is asked (400)")
    parser.add_argument("--unordered", action="store_true", help="vectors without clusters")
    parser.add_argument("--work", type=Path, default=Path("runs/bench"), help="where the index is built (runs/bench)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the figures to this file too")


def _index(args: argparse.Namespace) -> int:
    """the index store in process: opening, one query, recall beside exact search, adding one picture"""
    from pipelines import bench_index

    figures = bench_index.measure(
        args.work, images=args.images, dim=args.dim, queries=args.queries, clustered=not args.unordered
    )
    return _said(bench_index.table(figures), figures, args.json)


_BENCHES: Mapping[str, tuple[Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], int]]] = {
    "accuracy": (_add_accuracy, _accuracy),
    "album": (_add_album, _album),
    "diversity": (_add_diversity, _diversity),
    "embed": (_add_embed, _embed),
    "find": (_add_find, _find),
    "index": (_add_index, _index),
    "loop": (_add_loop, _loop),
    "serve": (_add_serve, _serve),
    "stn": (_add_stn, _stn),
    "train": (_add_train, _train),
}
