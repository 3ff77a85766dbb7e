"""The plain engine: one process, no Ray and no MLflow. For machines that have neither, and the measure of the others."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from queue import Queue
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ndd.errors import ModelError
from ndd.model import checkpoint
from ndd.training.config import TrainConfig
from ndd.training.plan import Batch, EpochPlan, make_batch, plan_epoch
from ndd.training.step import TrainState, make_state, train_step
from ndd.training.validate import split_pictures, validate

__all__ = ["epoch_summary", "finish_epoch", "load_state", "save_state", "start_state", "train_local"]

Log = Callable[[Mapping[str, float]], None]


def start_state(
    config: TrainConfig, run: Path, *, device: str, prototypes: Tensor | None = None, init: Path | None = None
) -> tuple[TrainState, int]:
    """A state and the epoch to begin with: resumed from `run` if there is one, else fresh, or from the weights of `init`."""
    state = make_state(config, device=device, prototypes=prototypes)
    saved = run / "state.pt"
    if saved.exists():
        return state, load_state(state, saved)
    if init is not None:
        weights = checkpoint.load(init, device=device).model.state_dict()
        state.model.load_state_dict(weights)
        state.average.load_state_dict(weights)
    return state, 0


def save_state(state: TrainState, path: Path, *, epoch: int) -> None:
    """Write the state after `epoch` whole epochs; an interrupted write leaves the previous one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    with open(temporary, "wb") as out:
        torch.save({**state.state_dict(), "epoch": epoch}, out)
        out.flush()
        os.fsync(out.fileno())
    os.replace(temporary, path)


def load_state(state: TrainState, path: Path) -> int:
    """Go on from `path`; returns the epochs done. ModelError if it belongs to another configuration."""
    saved = torch.load(path, map_location=next(state.model.parameters()).device, weights_only=True)
    if saved["config"] != state.config.to_dict():
        raise ModelError(f"{path} belongs to a run with other settings; choose another run directory or remove it")
    state.load_state_dict(saved)
    return int(saved["epoch"])


def train_local(
    config: TrainConfig,
    images_NHW3: NDArray[np.uint8],
    run: Path,
    *,
    device: str = "cpu",
    prototypes: Tensor | None = None,
    init: Path | None = None,
    log: Log | None = None,
    max_steps: int | None = None,
) -> TrainState:
    """Train on the pictures of a pack, checkpointing into `run` after every epoch; a second call goes on from there.

    images: (N, H, W, 3) uint8, possibly memory-mapped. prototypes: (N, D) teacher features of the same rows.
    max_steps ends the run early (comparisons, smoke tests).
    """
    training, held = split_pictures(len(images_NHW3), holdout=config.holdout, seed=config.seed)
    state, first = start_state(config, run, device=device, prototypes=prototypes, init=init)
    for epoch in range(first, config.epochs):
        plan = plan_epoch(config, training, epoch=epoch)
        figures = []
        for step, batch in enumerate(prefetch(plan, images_NHW3, device=device)):
            progress = (epoch + step / plan.steps) / config.epochs
            figures.append(train_step(state, batch, progress=progress, epoch=epoch))
            if max_steps is not None and state.step >= max_steps:
                return state
        summary = finish_epoch(state, figures, plan, images_NHW3, held)
        save_state(state, run / "state.pt", epoch=epoch + 1)
        with open(run / "history.jsonl", "a", encoding="utf-8") as out:
            out.write(json.dumps(summary) + "\n")
        if log is not None:
            log(summary)
    return state


def prefetch(
    plan: EpochPlan, images_NHW3: NDArray[np.uint8], *, device: str, rank: int = 0, workers: int = 1, ahead: int = 2
) -> Iterator[Batch]:
    """Batches of an epoch in order, made by a thread while the step before them runs."""
    queue: Queue[Batch | BaseException | None] = Queue(maxsize=ahead)
    stop = threading.Event()

    def produce() -> None:
        try:
            for step in range(plan.steps):
                if stop.is_set():
                    return
                queue.put(make_batch(plan, plan.rows(step, rank=rank, workers=workers), images_NHW3, device=device))
            queue.put(None)
        except BaseException as error:  # handed to the consumer, who raises it
            queue.put(error)

    thread = threading.Thread(target=produce, name="ndd-batches", daemon=True)
    thread.start()
    try:
        while (item := queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        while thread.is_alive():  # a full queue would hold the producer back for ever
            if not queue.empty():
                queue.get_nowait()
            thread.join(timeout=0.05)


def epoch_summary(figures: list[dict[str, float]]) -> dict[str, float]:
    """Mean of each figure over the steps of an epoch."""
    names = dict.fromkeys(name for step in figures for name in step)
    return {name: float(np.nanmean([step[name] for step in figures if name in step])) for name in names}


def finish_epoch(
    state: TrainState,
    figures: list[dict[str, float]],
    plan: EpochPlan,
    images_NHW3: NDArray[np.uint8],
    held: NDArray[np.int64],
) -> dict[str, float]:
    """Validate the averaged weights, let the plateau schedule see the result, and sum the epoch up."""
    summary: dict[str, Any] = {
        "epoch": plan.epoch,
        "steps": state.step,
        "size": plan.stage.size,
        **epoch_summary(figures),
    }
    if len(held) > 1:
        summary |= validate(state.average, images_NHW3, held, size=plan.stage.size, edits=state.config.edits)
        _plateau(state, summary)
    state.history.append(summary)
    return summary


def _plateau(state: TrainState, summary: dict[str, float]) -> None:
    if state.config.optim.schedule != "plateau":
        return
    scores = [epoch["val_mrr"] for epoch in state.history] + [summary["val_mrr"]]
    best = max(range(len(scores)), key=scores.__getitem__)
    waited = len(scores) - 1 - best
    if waited > 0 and waited % state.config.optim.step_epochs == 0:
        state.plateau *= state.config.optim.gamma
