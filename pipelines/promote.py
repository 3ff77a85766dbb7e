"""`python -m pipelines promote`: a challenger becomes champion only if it takes nothing away.

Exit code 0: promoted (or rolled back); 1: refused, every reason on a line of its own. The comparison is `pipelines.gate`; what
is published where is `pipelines.champions`. Promotion publishes first and moves the registry's alias then: killed in between,
the same command finishes what is left.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from ndd.errors import UsageError
from ndd.home import home
from ndd.model.directory import resolve
from pipelines.champions import publish, published, rollback
from pipelines.gate import ALLOWED, SPEED, SURE, Verdict, challenge

__all__ = ["Verdict", "add_arguments", "challenge", "publish", "rollback", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m pipelines promote`."""
    parser.add_argument("--challenger", default="models:/ndd@challenger", help="directory or reference (…@challenger)")
    parser.add_argument("--champion", help="what it has to match (default: the model in use)")
    parser.add_argument(
        "--album", type=Path, action="append", default=[], help="folder with groups.csv; may be repeated"
    )
    parser.add_argument("--photos", type=Path, help="make the album from these photographs")
    parser.add_argument("--data", type=Path, help="data folder ($NDD_DATA): the development album, if none is named")
    parser.add_argument("--work", type=Path, default=Path("runs/gate"), help="keeps albums and vectors (runs/gate)")
    parser.add_argument("--no-search", action="store_true", help="compare the descriptors alone")
    parser.add_argument("--allowed", type=float, default=ALLOWED, help=f"loss allowed in a family ({ALLOWED})")
    parser.add_argument("--speed", type=float, default=SPEED, help=f"least share of the champion's speed ({SPEED})")
    parser.add_argument("--sure", type=float, default=SURE, help=f"share of the draws that makes a loss count ({SURE})")
    parser.add_argument("--seed", type=int, default=0, help="of album and bootstrap (0)")
    parser.add_argument("--workers", type=int, metavar="N", help="how many work at once (default: one per core)")
    parser.add_argument("--dry-run", action="store_true", help="say what would happen and change nothing")
    parser.add_argument("--rollback", action="store_true", help="go back to the champion before this one")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the figures to this file too")


def run(args: argparse.Namespace) -> int:
    """Compare and promote, or go back; the exit code."""
    from pipelines.registry import CHAMPION, fetch, register, set_alias
    from pipelines.session import default_workers, ray_session
    from pipelines.stages import RayRunner
    from pipelines.tracking import content_digest

    if args.rollback:
        return _go_back()
    challenger, champion = fetch(args.challenger), fetch(args.champion) if args.champion else resolve(None)
    if content_digest(challenger) != content_digest(champion) or args.champion:
        workers = args.workers or default_workers()
        albums = _albums(args)
        with ray_session(workers=workers):
            verdict = challenge(
                challenger,
                champion,
                albums=albums,
                work=args.work,
                runner=RayRunner(workers=workers),
                search=not args.no_search,
                allowed=args.allowed,
                speed=args.speed,
                sure=args.sure,
                seed=args.seed,
            )
        _say(verdict, args.json)
        if not verdict.promoted or args.dry_run:
            return 0 if verdict.promoted else 1
    version = register(challenger, origin="promote")
    place = publish(challenger, version=version)
    set_alias(CHAMPION, version)
    sys.stdout.write(f"champion: version {version}, published at {home().champion} ({place.name})\n")
    return 0


def _go_back() -> int:
    from pipelines.registry import CHAMPION, register, set_alias

    place = rollback()
    now = published()
    version = now.version if now is not None and now.version else register(place, origin="rollback")
    set_alias(CHAMPION, version)
    sys.stdout.write(f"champion: version {version} again, {place}\n")
    return 0


def _albums(args: argparse.Namespace) -> list[Path]:
    """The folders to compare on; one is made where none is named."""
    from pipelines.accuracy import open_album
    from pipelines.album import build_album, read_photos
    from pipelines.bench import data_folder

    if args.album and args.photos:
        raise UsageError("--album and --photos: name one of them")
    if args.photos is not None:
        place = Path(args.work) / f"photos-{args.seed}"
        if not (place / "groups.csv").is_file():
            build_album(read_photos(args.photos), place, seed=args.seed)
        return [place]
    return list(args.album) or [open_album(None, data_folder(args.data), work=args.work, seed=args.seed).root]


def _say(verdict: Verdict, out: Path | None) -> None:
    figures = verdict.figures
    for measure in ("map", "recall"):
        for family, of in figures.get(measure, {}).items():
            line = f"{of['champion']:.3f} → {of['challenger']:.3f}  ({of['low']:+.3f} … {of['high']:+.3f})"
            sys.stdout.write(f"{measure:<7}{family:<14}{of['copies']:>6}  {line}\n")
    for measure, of in figures.get("false_pairs_per_million_images", {}).items():
        sys.stdout.write(f"false pairs per million, {measure}: {of['champion']:,.0f} → {of['challenger']:,.0f}\n")
    if "speed" in figures:
        sys.stdout.write(f"speed: {figures['speed']['ratio']:.2f} of the champion's\n")
    for reason in verdict.reasons:
        sys.stdout.write(f"refused: {reason}\n")
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        body = {"promoted": verdict.promoted, "reasons": verdict.reasons, "figures": figures}
        out.write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")
