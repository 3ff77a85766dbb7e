"""`python -m pipelines evaluate`: a model and a truth in, figures, pictures and one page out.

    python -m pipelines evaluate --out DIR                                     the development album of the data folder
    python -m pipelines evaluate --photos FOLDER --out DIR                     edited copies of your photographs
    python -m pipelines evaluate --truth groups.csv|pairs.csv --out DIR        your own truth
    …  --model DIR|models:/ndd@champion   --compare "CNN without STN=DIR"   --suite hard

    python -m pipelines evaluate --out DIR --reuse --update README.md          figures from DIR into a README or a card.json

writes DIR/metrics.json, DIR/evaluation.html, DIR/pictures/, and below DIR/work what a second run need not compute again.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ndd.errors import UsageError
from ndd.files import atomic_path, make_directory

if TYPE_CHECKING:
    from pipelines.evaluate_run import Evaluation
    from pipelines.evaluate_truth import Truth

__all__ = ["SUITES", "add_arguments", "run"]

SUITES = ("hard", "attack", "travel")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m pipelines evaluate`."""
    parser.add_argument("--model", help="model directory or models:/ndd@champion (default: as everywhere)")
    truth = parser.add_mutually_exclusive_group()
    truth.add_argument(
        "--truth", type=Path, metavar="CSV", help="groups.csv or pairs.csv; pictures lie below its folder"
    )
    truth.add_argument("--photos", type=Path, metavar="DIR", help="photographs to make an album of edited copies from")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where figures, pictures and page go")
    parser.add_argument(
        "--compare", action="append", default=[], metavar="NAME=DIR", help="a further model in the table"
    )
    parser.add_argument(
        "--suite", action="append", default=[], choices=(*SUITES, "all"), help="a hard or hostile set too"
    )
    parser.add_argument("--data", type=Path, help="data folder ($NDD_DATA): development album, neutral descriptor")
    parser.add_argument("--copies", type=int, default=4, help="edited copies of each of --photos (4)")
    parser.add_argument("--pairs", type=int, default=1000, help="duplicate pairs in the comparison, at most (1000)")
    parser.add_argument("--no-search", action="store_true", help="leave out the whole search: descriptors only")
    parser.add_argument("--seed", type=int, default=0, help="of edits, draws and bootstrap (0)")
    parser.add_argument("--workers", type=int, metavar="N", help="how many work at once (default: one per core)")
    parser.add_argument(
        "--update",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="a README or card.json to put figures into",
    )
    parser.add_argument("--reuse", action="store_true", help="with --update: the figures in --out, measure nothing")
    parser.add_argument("--track", action="store_true", help="keep figures and pictures as an MLflow run")


def run(args: argparse.Namespace) -> int:
    """Evaluate and write the page; the exit code."""
    from pipelines.evaluate_publish import read_metrics

    if args.reuse:
        return _update(args.update, read_metrics(args.out / "metrics.json"))
    return _update(args.update, _measure(args).metrics)


def _update(files: Sequence[Path], metrics: Mapping[str, Any]) -> int:
    from pipelines.evaluate_publish import update_card, update_text

    for path in files:
        (update_card if path.suffix == ".json" else update_text)(path, metrics)
        sys.stdout.write(f"{path}: figures written\n")
    return 0


def _measure(args: argparse.Namespace) -> Evaluation:
    from pipelines.evaluate_embed import teller
    from pipelines.evaluate_run import Plan, evaluate
    from pipelines.evaluate_suites import run_suites
    from pipelines.registry import fetch
    from pipelines.session import default_workers, ray_session
    from pipelines.stages import RayRunner

    data = _data(args.data)
    make_directory(args.out)
    plan = Plan(
        model=fetch(args.model),
        truth=_truth(args, data),
        work=args.out / "work",
        compare=_compared(args.compare),
        data=data,
        search=not args.no_search,
        most=args.pairs,
        seed=args.seed,
    )
    workers = args.workers or default_workers()
    names = SUITES if "all" in args.suite else tuple(dict.fromkeys(args.suite))
    with ray_session(workers=workers):
        runner = RayRunner(workers=workers, progress=teller("pictures and pairs"))
        found = evaluate(plan, runner)
        if names:
            found.metrics["suites"] = run_suites(names, found, runner, photos=args.photos)
    _write(args, found)
    return found


def _write(args: argparse.Namespace, found: Evaluation) -> None:
    from pipelines.evaluate_page import write_page
    from pipelines.evaluate_pictures import draw

    found.metrics["command"] = "python -m pipelines evaluate " + " ".join(shlex.quote(text) for text in sys.argv[2:])
    pictures = draw(found, args.out / "pictures")
    text = json.dumps(found.metrics, indent=2, default=_plain) + "\n"
    with atomic_path(args.out / "metrics.json") as temporary:
        temporary.write_text(text, encoding="utf-8")
    page = write_page(args.out / "evaluation.html", found.metrics, pictures)
    sys.stdout.write(f"{page}\n")
    if args.track:
        _track(args.out, found)


def _track(out: Path, found: Evaluation) -> None:
    """Keep what was written as a run of MLflow."""
    from pipelines.tracking import Registry

    files = [out / "metrics.json", out / "evaluation.html", out / "pictures"]
    run = Registry().log(
        found.metrics["model"]["name"], figures=dict(_numbers(found.metrics)), files=files, experiment="ndd-evaluate"
    )
    sys.stdout.write(f"MLflow run {run}\n")


def _numbers(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Every number of the figures under a dotted name that MLflow allows."""
    for name, value in values.items():
        key = re.sub(r"[^\w./ -]", " ", f"{prefix}{name}")
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield key, float(value)


def _plain(value: Any) -> Any:
    return value.item()


def _data(given: Path | None) -> Path | None:
    """The data folder, if there is one; named and absent is an error."""
    named = given or (Path(os.environ["NDD_DATA"]) if os.environ.get("NDD_DATA") else None)
    if named is not None and not named.is_dir():
        raise UsageError(f"{named}: there is no such data folder; name it with --data or NDD_DATA")
    default = Path("../shared/data")
    return named.resolve() if named is not None else default.resolve() if default.is_dir() else None


def _truth(args: argparse.Namespace, data: Path | None) -> Truth:
    from pipelines.accuracy import open_album
    from pipelines.album import build_album, read_album, read_photos
    from pipelines.evaluate_truth import Truth, read_truth

    if args.truth is not None:
        return read_truth(args.truth)
    if args.photos is None:
        return Truth(open_album(None, data, work=args.out / "work", seed=args.seed), None)
    place = args.out / "work" / f"album-{args.copies}-{args.seed}"
    if (place / "groups.csv").is_file():
        return Truth(read_album(place), None)
    if not args.photos.is_dir():
        raise UsageError(f"{args.photos}: there is no such folder of photographs; name one with --photos")
    return Truth(build_album(read_photos(args.photos), place, copies=args.copies, seed=args.seed), None)


def _compared(given: list[str]) -> dict[str, Path]:
    from pipelines.registry import fetch

    found: dict[str, Path] = {}
    for text in given:
        name, equals, place = text.partition("=")
        if not equals or not name or name in found:
            raise UsageError(
                f"--compare {text}: expected NAME=DIR with a name of its own, e.g. 'CNN without STN=runs/twin'"
            )
        found[name] = fetch(place)
    return found
