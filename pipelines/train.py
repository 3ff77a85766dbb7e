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

from ndd.errors import StaleOutput, StoreError, UsageError
from ndd.files import atomic_path, make_directory, try_lock
from ndd.runs import code_version
from ndd.training.config import TrainConfig
from pipelines.recipes import RECIPES, recipe

__all__ = ["add_arguments", "run"]

_SHOWN = ("loss", "val_mrr", "val_recall_at_1", "similarity_positive", "similarity_nearest_negative", "centre_norm")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `python -m pipelines train`."""
    parser.add_argument("--data", type=Path, required=True, help="folder of pictures, manifest (.parquet) or pack")
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
    parser.add_argument("--stream", choices=("ray", "thread"), default="ray", help="who makes the views (ray engine)")
    parser.add_argument("--decode", choices=("once", "stream"), default="once", help="into a pack, or for every view")
    parser.add_argument("--save-seconds", type=float, default=60.0, help="between checkpoints within an epoch (60)")
    parser.add_argument("--max-failures", type=int, default=3, help="lost workers to recover from (ray; 3)")


def run(args: argparse.Namespace) -> int:
    """Train, write RUN/model, print a summary as JSON; 0 if the run is complete, 143 if a signal stopped it."""
    args.workers = args.workers if args.workers is not None else {"ray": 2, "local": 1}[args.engine]
    config = recipe(args.recipe).with_overrides(_settings(args.set))
    _check(args, config)
    out: Path = args.out.absolute()
    with _hold(out, _note(args, config)), _stop_signal() as stopped:
        from pipelines.train_data import prepare

        data = prepare(args.data.absolute(), out, config, decode=args.decode)
        _same_data(out, data.digest)
        train = _on_ray if args.engine == "ray" else _locally
        summary = train(args, config, data, out, stopped)
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
    for name in ("teacher", "init"):
        given: Path | None = getattr(args, name)
        if given is not None and not given.exists():
            raise UsageError(f"--{name} {given}: there is no such file or directory")


def _note(args: argparse.Namespace, config: TrainConfig) -> dict[str, Any]:
    """What may not change when a run goes on."""
    places = {name: getattr(args, name) for name in ("data", "teacher", "init")}
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
            changed = [name for name, value in note.items() if before.get(name) != value]
            if changed:
                raise StaleOutput(f"{out}: holds a run with another {changed[0]}; name another --out or remove it")
        elif others := sorted(p.name for p in out.iterdir() if p.name != ".lock"):
            raise StoreError(f"{out}: holds {others[0]!r} and no training run; name a new directory for --out")
        else:
            _write_json(path, note)
        yield
    finally:
        os.close(lock)


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


def _locally(
    args: argparse.Namespace, config: TrainConfig, data: Any, out: Path, stopped: threading.Event
) -> dict[str, Any] | None:
    import torch

    from ndd.training.local import train_local
    from ndd.training.prototypes import load_prototypes

    if args.threads:
        torch.set_num_threads(args.threads)
    device = ("cuda" if torch.cuda.is_available() else "cpu") if args.device == "auto" else args.device
    prototypes = (
        None if args.teacher is None else load_prototypes(args.teacher, pictures=data.pictures, dim=config.model.dim)
    )
    state = train_local(
        config, data.store.open(), out, split=data.split, device=device, prototypes=prototypes, init=args.init,
        log=_progress, save_seconds=args.save_seconds, stop=stopped.is_set,
    )  # fmt: skip
    if state.epoch < config.epochs:
        return None
    return _conclude(state, data, out, engine="local", workers=1, device=device)


def _on_ray(
    args: argparse.Namespace, config: TrainConfig, data: Any, out: Path, stopped: threading.Event
) -> dict[str, Any] | None:
    from ndd.training.loop import load_state
    from ndd.training.step import make_state
    from pipelines.tracking import TrackedRun
    from pipelines.train_ray import RayTask, Streaming, train_on_ray

    tracked = TrackedRun.open(
        out,
        params={"recipe": args.recipe, "workers": args.workers, **config.to_dict()},
        tags={
            "data_digest": data.digest,
            "config_digest": config.digest(),
            "code_version": code_version(),
            "engine": "ray",
        },
    )

    logged = tracked.epochs()

    def progress(summary: Mapping[str, float]) -> None:
        # Here and not in a worker, which may run on a machine that does not see the tracker.
        if summary["epoch"] not in logged:
            tracked.log_epoch(summary)
            _progress(summary)

    def task(streaming: Streaming) -> RayTask:
        return RayTask(
            config=config, data=data, run=out,
            threads=args.threads or max(1, (os.cpu_count() or 1) // args.workers),
            teacher=args.teacher and args.teacher.absolute(), init=args.init and args.init.absolute(),
            streaming=streaming if args.stream == "ray" else None, save_seconds=args.save_seconds,
        )  # fmt: skip

    try:
        device = train_on_ray(
            task, workers=args.workers, device=args.device, max_failures=args.max_failures, stopped=stopped,
            progress=progress,
        )  # fmt: skip
    except BaseException:
        tracked.end("FAILED")
        raise
    state = make_state(config)
    if (out / "state.pt").is_file():
        load_state(state, out / "state.pt")
    if state.epoch < config.epochs:
        tracked.end("KILLED")
        return None
    summary = _conclude(state, data, out, engine="ray", workers=args.workers, device=device)
    summary["version"] = tracked.register(out / "model", tags={"run": out.name, "data_digest": data.digest})
    tracked.end("FINISHED")
    return summary


def _conclude(state: Any, data: Any, out: Path, *, engine: str, workers: int, device: str) -> dict[str, Any]:
    """Write the model directory and say what came out."""
    from ndd.model import checkpoint
    from ndd.model.directory import describe
    from ndd.training.card import model_card

    card = model_card(state, data=data.facts(), engine=engine, workers=workers, device=device)
    model = checkpoint.save(out / "model", state.average, card=card)
    last = state.history[-1]
    return {
        "model": str(model),
        "embedding_digest": describe(model).embedding_digest,
        "epochs": state.epoch,
        "steps": state.step,
        "seconds": round(state.seconds, 1),
        "data": data.facts(),
        "metrics": {name: last[name] for name in last if name.startswith("val_")},
    }


def _progress(summary: Mapping[str, float]) -> None:
    shown = "  ".join(f"{name} {summary[name]:.3f}" for name in _SHOWN if name in summary)
    sys.stderr.write(f"epoch {int(summary['epoch']) + 1}  {summary['seconds']:.0f} s  {shown}\n")
    sys.stderr.flush()
