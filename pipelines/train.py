"""`python -m pipelines train`: pictures → model directory. One loop and one step, on Ray or in this process.

With `--engine local` neither Ray nor MLflow is imported: for machines that have neither.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ndd.config import ModelConfig
from ndd.errors import ConfigError, StaleOutput, StoreError, UsageError
from ndd.files import atomic_path, make_directory, try_lock
from ndd.model.directory import describe
from ndd.training.config import TrainConfig
from pipelines.recipes import RECIPES, fine_tunes, recipe

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `python -m pipelines train`."""
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of pictures, manifest (.parquet), pack or its parts"
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="RUN", help="run directory; an interrupted run goes on"
    )
    parser.add_argument("--recipe", default="small", help=f"one of {', '.join(RECIPES)} (small)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="e.g. --set optim.lr=0.001")
    parser.add_argument(
        "--engine", choices=("ray", "local"), default="ray", help="ray (default), or this process alone"
    )
    parser.add_argument(
        "--workers", type=int, help="training workers, a GPU each where there are any (ray: 2, local: 1)"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, help="torch threads per worker (the machine's cores, shared out)")
    parser.add_argument("--init", type=Path, metavar="MODEL", help="model directory to start from")
    parser.add_argument("--teacher", type=Path, metavar="FEATURES.npy", help="teacher features, a row per picture")
    parser.add_argument(
        "--decisions",
        type=Path,
        metavar="PLACE",
        help="people's decisions to mix in: a store's folder, .csv or .parquet",
    )
    parser.add_argument("--stream", choices=("ray", "thread"), default="ray", help="who makes the views (ray engine)")
    parser.add_argument("--decode", choices=("once", "stream"), default="once", help="into a pack, or for every view")
    parser.add_argument("--save-seconds", type=float, default=60.0, help="between checkpoints within an epoch (60)")
    parser.add_argument("--max-failures", type=int, default=3, help="lost workers to recover from (ray; 3)")


def run(args: argparse.Namespace) -> int:
    """Train, write RUN/model, print a summary as JSON; 0 if the run is complete, 143 if a signal stopped it."""
    args.workers = args.workers if args.workers is not None else {"ray": 2, "local": 1}[args.engine]
    config = recipe(args.recipe, init=_network(args)).with_overrides(_settings(args.set))
    _check(args, config)
    out: Path = args.out.absolute()
    with _hold(out, _note(args, config)), _stop_signal() as stopped:
        from pipelines import train_engines
        from pipelines.train_data import prepare

        decisions = args.decisions and args.decisions.absolute()
        data = prepare(args.data.absolute(), out, config, decode=args.decode, decisions=decisions)
        _same_data(out, data.digest)
        engine = train_engines.on_ray if args.engine == "ray" else train_engines.locally
        summary = engine(args, config, data, out, stopped)
    if summary is None:
        sys.stderr.write(f"stopped; the same command goes on from {out / 'state.pt'}\n")
        return 128 + signal.SIGTERM
    sys.stdout.write(json.dumps(summary, indent=1) + "\n")
    return 0


def _settings(pairs: list[str]) -> dict[str, str]:
    for pair in pairs:
        if "=" not in pair:
            raise UsageError(f"--set {pair}: expected section.key=value, e.g. --set optim.lr=0.001")
    return dict(pair.split("=", 1) for pair in pairs)


def _network(args: argparse.Namespace) -> ModelConfig | None:
    """That of the model to start from."""
    if fine_tunes(args.recipe) and args.init is None:
        raise UsageError(f"--recipe {args.recipe} goes on with a model; name its directory with --init")
    return describe(args.init).config if args.init is not None and args.init.exists() else None


def _check(args: argparse.Namespace, config: TrainConfig) -> None:
    if args.workers < 1:
        raise UsageError(f"--workers {args.workers}: at least 1")
    if args.threads is not None and args.threads < 1:
        raise UsageError(f"--threads {args.threads}: at least 1")
    if args.engine == "local" and args.workers != 1:
        raise UsageError(f"--workers {args.workers}: the local engine is one worker; use --engine ray")
    for stage in config.stages:
        if stage.batch % args.workers:
            raise UsageError(f"--workers {args.workers}: a batch of {stage.batch} cannot be shared evenly")
    if config.loss.teacher > 0 and args.teacher is None:
        raise UsageError("the recipe learns from a teacher; give --teacher FEATURES.npy or --set loss.teacher=0")
    if config.loss.teacher == 0 and args.teacher is not None:
        raise UsageError("--teacher has no effect while loss.teacher is 0; add --set loss.teacher=2")
    if config.sampling.decisions > 0 and args.decisions is None:
        raise UsageError("sampling.decisions mixes people's decisions in; name them with --decisions, or set it to 0")
    if config.sampling.decisions == 0 and args.decisions is not None:
        raise UsageError("--decisions has no effect while sampling.decisions is 0; add --set sampling.decisions=0.3")
    for name in ("teacher", "init", "decisions"):
        given: Path | None = getattr(args, name)
        if given is not None and not given.exists():
            raise UsageError(f"--{name} {given}: there is no such file or directory")


def _note(args: argparse.Namespace, config: TrainConfig) -> dict[str, Any]:
    """What may not change when a run goes on."""
    places = {name: getattr(args, name) for name in ("data", "teacher", "init", "decisions")}
    return {
        "config": config.to_dict(),
        "decode": args.decode,
        **{name: None if place is None else str(place.absolute()) for name, place in places.items()},
    }


@contextmanager
def _hold(out: Path, note: Mapping[str, Any]) -> Iterator[None]:
    """Keep the run directory to ourselves; StaleOutput if it belongs to another run, StoreError if to something else."""
    make_directory(out)
    lock = os.open(out / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        if not try_lock(lock, exclusive=True):
            raise StoreError(f"{out}: another training run is working there; wait for it or name another --out")
        path = out / "train.json"
        if path.is_file():
            before = json.loads(path.read_text(encoding="utf-8"))
            changed = [name for name, value in note.items() if not _same(name, before.get(name), value)]
            if changed:
                raise StaleOutput(f"{out}: holds a run with another {changed[0]}; name another --out or remove it")
        elif others := sorted(p.name for p in out.iterdir() if p.name != ".lock"):
            raise StoreError(f"{out}: holds {others[0]!r} and no training run; name a new directory for --out")
        else:
            _write_json(path, note)
        yield
    finally:
        os.close(lock)


def _same(name: str, before: Any, now: Any) -> bool:
    """Settings that did not exist when the run began were at their defaults."""
    if name != "config" or not isinstance(before, dict):
        return bool(before == now)
    try:
        return TrainConfig.from_dict(before) == TrainConfig.from_dict(now)
    except ConfigError:
        return False


def _same_data(out: Path, digest: str) -> None:
    before = json.loads((out / "train.json").read_text(encoding="utf-8"))
    if before.setdefault("data_digest", digest) != digest:
        raise StaleOutput(f"{out}: its pictures have changed since it was begun; name another --out")
    _write_json(out / "train.json", before)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


@contextmanager
def _stop_signal() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set; a second one ends the process as usual."""
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    before: dict[signal.Signals, Any] = {}

    def on_signal(number: int, frame: object) -> None:
        stopped.set()
        signal.signal(number, before[signal.Signals(number)])

    for number in (signal.SIGTERM, signal.SIGINT):
        before[number] = signal.signal(number, on_signal)
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
