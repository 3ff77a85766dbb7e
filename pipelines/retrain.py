"""`python -m pipelines retrain`: what reviewers said becomes a better model, if it is one.

decisions → fine-tuned challenger → its score refitted → compared with the champion → champion, or not; with a report of what
changed. The same command is what a schedule runs: too little to learn from or to compare on, or another one at work, is said
and is no error (exit code 0). Killed anywhere, the next call goes on with the attempt it finds.

    $NDD_HOME/retrain/attempt/      the one at work          $NDD_HOME/retrain/0007/   those that are over, the last five
    $NDD_HOME/retrain/last.json     what the last one gave    .lock                     ends with its process
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ndd.data.decisions import DecisionStore
from ndd.data.manifest import ManifestRow, read_manifest
from ndd.data.queue import QueueStore
from ndd.errors import UsageError
from ndd.files import make_directory, try_lock
from ndd.home import home
from ndd.model.directory import resolve
from ndd.types import Decision, ImageId
from pipelines.retrain_album import TooFewPictures
from pipelines.retrain_attempt import REPORT, SCRATCH, Attempt, Settings
from pipelines.retrain_cut import cut, trainable
from pipelines.retrain_due import Due, Rules, due
from pipelines.retrain_notes import read_note, write_note

__all__ = ["add_arguments", "run"]

_KEPT = 5
_RULES = Rules()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m pipelines retrain`."""
    parser.add_argument(
        "--data", type=Path, required=True, help="folder or manifest (.parquet) of the pictures that people judged"
    )
    parser.add_argument("--decisions", type=Path, metavar="DIR", help="decision store ($NDD_HOME/decisions)")
    parser.add_argument("--least", type=int, default=_RULES.least, help=f"new decisions wanted ({_RULES.least})")
    parser.add_argument(
        "--days", type=float, default=_RULES.days, help=f"after so many a few will do ({_RULES.days:g})"
    )
    parser.add_argument("--few", type=int, default=_RULES.few, help=f"how many those are ({_RULES.few})")
    parser.add_argument("--recipe", default="loop_cpu", help="a recipe that goes on with a model (loop_cpu)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="settings of the recipe")
    parser.add_argument("--engine", choices=("ray", "local"), default="ray", help="of the training (ray)")
    parser.add_argument("--album", type=Path, action="append", default=[], help="to compare on, beside the one made")
    parser.add_argument("--photos", type=int, default=150, help="photographs the compared album is made from (150)")
    parser.add_argument("--sure", type=float, default=0.8, help="how sure a loss must be to count (0.8)")
    parser.add_argument("--no-promote", action="store_true", help="stop after the comparison")
    parser.add_argument("--json", action="store_true", help="print last.json instead of a summary")


def run(args: argparse.Namespace) -> int:
    """Retrain if it is time; the exit code."""
    place = home() / "retrain"
    with _alone(place) as lock:
        if lock is None:
            sys.stdout.write(f"{place}: another retraining is at work; this one leaves it to that\n")
            return 0
        return _retrain(args, place, lock)


def _retrain(args: argparse.Namespace, place: Path, lock: int) -> int:
    attempt = Attempt.open(place / "attempt", _settings(args))
    if attempt is None:
        store = DecisionStore(args.decisions or home().decisions)
        decisions = store.load()
        # Before the pictures are listed, which takes a while: could there be enough?
        found = _due(args, place, decisions, {id for d in decisions for id in (d.left_id, d.right_id)}, None)
        rows: list[ManifestRow] = []
        if found.why_not is None:
            rows = cut(_rows(args.data), decisions, photos=args.photos)
            found = _due(args, place, decisions, {row.id for row in rows}, trainable(rows))
        if found.why_not is not None:
            sys.stdout.write(f"{found.why_not}{_absent(found)}; the champion stays\n")
            return 0
        asked = QueueStore(home().queue, decisions=store).asked()
        priors = {pair: float(of.evidence["prior"]) for pair, of in asked.items() if "prior" in of.evidence}
        attempt = Attempt.begin(place / "attempt", _settings(args), found, rows, champion=resolve(None), priors=priors)
    try:
        told = attempt.work(lock)
    except TooFewPictures as error:
        sys.stdout.write(f"{error}; the champion stays\n")
        return 0
    _finish(place, attempt, told)
    sys.stdout.write(json.dumps(told, indent=2) + "\n" if args.json else _summary(told))
    return 0


def _due(
    args: argparse.Namespace,
    place: Path,
    decisions: Sequence[Decision],
    there: set[ImageId],
    may_train: set[ImageId] | None,
) -> Due:
    last = read_note(place / "last.json", remedy="remove it, all decisions then count as new") or {}
    return due(
        decisions,
        there=there,
        trainable=may_train,
        known=last.get("decisions", ()),
        last=datetime.fromisoformat(last["time"]) if "time" in last else None,
        now=datetime.now(UTC),
        rules=Rules(least=args.least, days=args.days, few=args.few),
    )


def _settings(args: argparse.Namespace) -> Settings:
    if args.photos < 20:
        raise UsageError(f"--photos {args.photos}: at least 20, or the comparison says nothing")
    return Settings(
        data=str(args.data.absolute()),
        recipe=args.recipe,
        overrides=tuple(args.set),
        engine=args.engine,
        albums=tuple(str(album.absolute()) for album in args.album),
        photos=args.photos,
        sure=args.sure,
        promote=not args.no_promote,
    )


def _rows(data: Path) -> list[ManifestRow]:
    """The pictures at hand, with a lasting cut: what is compared on is never trained on."""
    if data.is_file() and data.suffix == ".parquet":
        return read_manifest(data)
    if not data.is_dir():
        raise UsageError(f"--data {data}: there is no such folder or manifest")
    from pipelines.ingest import add_arguments as ingest_arguments
    from pipelines.ingest import ingest

    parser = argparse.ArgumentParser()
    ingest_arguments(parser)
    out = home() / "retrain" / "pictures"
    ingest(parser.parse_args([os.fspath(data), "--out", os.fspath(out), "--overwrite"]))
    return read_manifest(out / "manifest.parquet")


def _absent(found: Due) -> str:
    why = {
        "are about pictures that are not there": found.absent,
        "are about pictures that are held out": found.kept_out,
    }
    said = ", ".join(f"{count} more {words}" for words, count in why.items() if count)
    return f" ({said})" if said else ""


def _finish(place: Path, attempt: Attempt, told: dict[str, Any]) -> None:
    """Keep the attempt under a number and say what it gave; the order makes a second try after a kill harmless."""
    number = 1 + max((int(old.name) for old in place.glob("[0-9][0-9][0-9][0-9]")), default=0)
    target = place / f"{number:04d}"
    told["report"] = str(target / REPORT)
    write_note(place / "last.json", told)
    os.rename(attempt.directory, target)
    for name in SCRATCH:
        shutil.rmtree(target / name, ignore_errors=True)
    for old in sorted(place.glob("[0-9][0-9][0-9][0-9]"))[:-_KEPT]:
        shutil.rmtree(old, ignore_errors=True)


def _summary(told: Mapping[str, Any]) -> str:
    lines = [
        f"learnt from {told['learnt']['duplicate']} duplicates and {told['learnt']['distinct']} distinct pairs, "
        f"{told['learnt']['fresh']} of them new",
        *(f"not promoted: {reason}" for reason in told["reasons"]),
        *(f"the trained network was refused, its score alone is a new one: {reason}" for reason in told["refused"]),
        f"report: {told['report']}",
    ]
    if told["promoted"]:
        lines.insert(1, f"promoted: version {told['version']}; `python -m pipelines promote --rollback` goes back")
    return "\n".join(lines) + "\n"


@contextmanager
def _alone(place: Path) -> Iterator[int | None]:
    """The lock, an open file; None if another process holds it. It ends with those that have it, however they die."""
    make_directory(place)
    lock = os.open(place / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        yield lock if try_lock(lock, exclusive=True) else None
    finally:
        os.close(lock)
