"""The two engines of `python -m pipelines train`, and what both leave behind: a model directory with its card."""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ndd.cores import cores
from ndd.errors import ModelError
from ndd.images import to_square
from ndd.model import checkpoint
from ndd.model.directory import describe, source_digest
from ndd.model.runtime import RUNTIME, read
from ndd.runs import code_version
from ndd.training.card import model_card
from ndd.training.config import TrainConfig
from ndd.training.finish import finish
from ndd.training.local import train_local
from ndd.training.loop import final_model, finished, load_state
from ndd.training.prototypes import load_prototypes
from ndd.training.step import TrainState, make_state
from pipelines.train_data import TrainData

if TYPE_CHECKING:
    from pipelines.train_ray import RayTask, Streaming

__all__ = ["locally", "on_ray"]

_SHOWN = ("loss", "val_mrr", "val_recall_at_1", "similarity_positive", "similarity_nearest_negative", "centre_norm")


def locally(
    args: argparse.Namespace, config: TrainConfig, data: TrainData, out: Path, stopped: threading.Event
) -> dict[str, Any] | None:
    """Train in this process; what to print, or None if `stopped` ended it early."""
    torch.set_num_threads(args.threads or min(torch.get_num_threads(), cores()))
    device = ("cuda" if torch.cuda.is_available() else "cpu") if args.device == "auto" else args.device
    prototypes = None
    if args.teacher is not None:
        prototypes = load_prototypes(args.teacher, pictures=data.pictures, dim=config.model.dim)
    state = train_local(
        config,
        data.store.open(),
        out,
        split=data.split,
        decided=data.decided,
        device=device,
        prototypes=prototypes,
        init=args.init,
        log=_progress,
        save_seconds=args.save_seconds,
        stop=stopped.is_set,
    )
    if not finished(state):
        return None
    return _conclude(state, data, out, engine="local", workers=1, device=device, init=args.init)


def on_ray(
    args: argparse.Namespace, config: TrainConfig, data: TrainData, out: Path, stopped: threading.Event
) -> dict[str, Any] | None:
    """Train on Ray and tell MLflow; what to print, or None if `stopped` ended it early."""
    from pipelines.tracking import TrackedRun

    tracked = TrackedRun.open(
        out,
        params={"recipe": args.recipe, "workers": args.workers, **config.to_dict()},
        tags={"data_digest": data.digest, "config_digest": config.digest(), "code_version": code_version()},
    )
    try:
        state, device = _saved(config, out), args.device
        if state is None or not finished(state):
            device = _fit_on_ray(args, config, data, out, stopped, tracked)
            state = _saved(config, out)
    except BaseException:
        tracked.end("FAILED")
        raise
    if state is None or not finished(state):
        tracked.end("KILLED")
        return None
    summary = _conclude(state, data, out, engine="ray", workers=args.workers, device=device, init=args.init)
    summary["version"] = tracked.register(out / "model", tags={"run": out.name, "data_digest": data.digest})
    tracked.end("FINISHED")
    return summary


def _fit_on_ray(
    args: argparse.Namespace, config: TrainConfig, data: TrainData, out: Path, stopped: threading.Event, tracked: Any
) -> str:
    from pipelines.train_ray import RayTask, train_on_ray

    logged = tracked.epochs()
    history: list[Mapping[str, float]] = []

    def progress(summary: Mapping[str, float]) -> None:
        # Here and not in a worker, which may run on a machine that does not see the tracker.
        history.append(summary)
        if summary["epoch"] not in logged:
            tracked.log_epoch(summary)
            tracked.log_health(history)
            _progress(summary)

    def make_task(streaming: Streaming) -> RayTask:
        return RayTask(
            config=config,
            data=data,
            run=out,
            teacher=args.teacher and args.teacher.absolute(),
            init=args.init and args.init.absolute(),
            threads=args.threads or max(1, cores() // args.workers),
            streaming=streaming if args.stream == "ray" else None,
            save_seconds=args.save_seconds,
        )

    return train_on_ray(
        make_task,
        workers=args.workers,
        device=args.device,
        max_failures=args.max_failures,
        stopped=stopped,
        progress=progress,
    )


def _export_too(model: Path, init: Path, data: TrainData, *, seed: int) -> None:
    """What was refined from a model with a `runtime/` gets one too, or every search with it would be several times slower.

    Whatever makes the vectors on this machine: it may be used on another.
    """
    before = read(init, source=source_digest(init))
    if before is None or (model / RUNTIME).is_dir():
        return
    from ndd.model.export import MOST, export

    images, side = data.store.open(), describe(model, engine="torch").config.image_size
    rows = np.sort(np.random.default_rng([seed, 0x58]).permutation(data.split.training)[:MOST])
    canvases = np.stack([to_square(np.ascontiguousarray(images[row]), side) for row in rows])
    try:
        export(model, canvases, precision=before.precision, like=init)
    except ModelError as error:  # no OpenVINO here, too few pictures, or too far from the reference: torch does it
        sys.stderr.write(f"without a {RUNTIME}/, unlike the model that it comes from: {error}\n")


def _saved(config: TrainConfig, out: Path) -> TrainState | None:
    if not (out / "state.pt").is_file():
        return None
    state = make_state(config, pretrained=False)
    load_state(state, out / "state.pt")
    return state


def _conclude(
    state: TrainState, data: TrainData, out: Path, *, engine: str, workers: int, device: str, init: Path | None
) -> dict[str, Any]:
    """Write the model directory, unless an earlier call did, and say what came out."""
    model = out / "model"
    if not (model / "config.json").is_file():  # the last of its files to be written
        card = model_card(state, data=data.facts(), engine=engine, workers=workers, device=device)
        network = final_model(state, out)
        rows = data.split.training
        settings, seed = state.config.finish, state.config.seed
        background = finish(network, data.store.open(), rows, settings, seed=seed, init=init)
        checkpoint.save(model, network, card=card, background=background)
    if init is not None:
        _export_too(model, init, data, seed=state.config.seed)
    said = describe(model)
    return {
        "model": str(model),
        "embedding_digest": said.embedding_digest,
        "epochs": state.epoch,
        "steps": state.step,
        "seconds": round(state.seconds, 1),
        "data": data.facts(),
        "metrics": {name: value for name, value in state.history[-1].items() if name.startswith("val_")},
    }


def _progress(summary: Mapping[str, float]) -> None:
    shown = "  ".join(f"{name} {summary[name]:.3f}" for name in _SHOWN if name in summary)
    sys.stderr.write(f"epoch {int(summary['epoch']) + 1}  {summary['seconds']:.0f} s  {shown}\n")
    sys.stderr.flush()
