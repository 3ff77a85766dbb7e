"""The epochs of a run, the same for every engine: plan, steps, validation, checkpoints.

A checkpoint may fall between any two steps. An epoch's plan follows from (seed, epoch) and no step draws anything, so a run
that goes on from one takes exactly the steps that the uninterrupted run would have taken.
"""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ndd.data.sampling import DecidedPairs
from ndd.errors import ModelError, UsageError
from ndd.files import atomic_path, make_directory
from ndd.model import checkpoint
from ndd.model.siamese import SiameseEmbedder
from ndd.training.config import TrainConfig
from ndd.training.mining import hard_negatives
from ndd.training.plan import Batch, EpochPlan, Indexes, Pictures, plan_epoch
from ndd.training.step import TrainState, make_state, train_step
from ndd.training.validate import split_pictures, validate
from ndd.training.workers import Share, from_first, mean_over_workers

__all__ = [
    "Batches",
    "Log",
    "Split",
    "final_model",
    "finished",
    "load_state",
    "run_epochs",
    "save_state",
    "start_state",
]

_BEST = "best.pt"

Log = Callable[[Mapping[str, float]], None]
"""Called with each epoch's summary, on every worker."""

Batches = Callable[[EpochPlan, int], Generator[Batch, None, None]]
"""This worker's part of the batches of an epoch, from a step on."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """Row numbers of the pictures to train on and of those to validate with, both ascending."""

    training: Indexes
    held: Indexes

    @classmethod
    def draw(cls, count: int, config: TrainConfig) -> Split:
        """Hold `config.holdout` of `count` pictures out."""
        training, held = split_pictures(count, holdout=config.holdout, seed=config.seed)
        return cls(training=training, held=held)


def start_state(
    config: TrainConfig, run: Path, *, device: str, prototypes: Tensor | None = None, init: Path | None = None
) -> TrainState:
    """A state to go on from: that of `run` if it has one, else fresh, or with the weights of the model directory `init`."""
    if config.loss.teacher > 0 and prototypes is None:
        raise UsageError("loss.teacher is set but there are no teacher features; give them or set loss.teacher to 0")
    saved = run / "state.pt"
    replaced = saved.exists() or init is not None
    state = make_state(config, device=device, prototypes=prototypes, pretrained=False if replaced else None)
    if saved.exists():
        load_state(state, saved)
    elif init is not None:
        weights = checkpoint.load(init, device=device).model.state_dict()
        try:
            state.model.load_state_dict(weights)
            state.average.load_state_dict(weights)
        except RuntimeError as error:
            raise ModelError(
                f"{init}: its weights do not fit this run's network ({str(error).splitlines()[1].strip()}); "
                "compare its config.json with the run's settings"
            ) from error
    return state


def save_state(state: TrainState, path: Path) -> None:
    """Write the state; an interrupted write leaves the previous one."""
    make_directory(path.parent)
    with atomic_path(path) as temporary:
        torch.save(state.state_dict(), temporary)


def load_state(state: TrainState, path: Path) -> None:
    """Go on from `path`. Raises ModelError if it is damaged or belongs to another configuration."""
    device = next(state.model.parameters()).device
    try:
        saved = torch.load(path, map_location=device, weights_only=True)
        before = TrainConfig.from_dict(saved["config"])
    except Exception as error:  # torch raises half a dozen kinds for a file that it did not write
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ModelError(f"{path}: not a training state of this version ({reason}); remove it to start anew") from error
    if before != state.config:
        raise ModelError(f"{path} belongs to a run with other settings; choose another run directory or remove it")
    state.load_state_dict(saved)


def run_epochs(
    state: TrainState,
    images_NHW3: Pictures,
    split: Split,
    run: Path,
    *,
    batches: Batches,
    decided: DecidedPairs | None = None,
    share: Share | None = None,
    log: Log | None = None,
    save_seconds: float = 60.0,
    stop: Callable[[], bool] | None = None,
    max_steps: int | None = None,
) -> bool:
    """Take `state` to the end of the run; True if it got there, False if `stop()` said so or `max_steps` were done.

    decided: people's pairs among the training pictures, which `config.sampling.decisions` mixes in.

    The first worker keeps `run`/state.pt (after every epoch, when it stops, and after a step if `save_seconds` have gone
    by) and `run`/history.jsonl. All workers stop at the same step, whichever of them was told to.
    """
    share = share or Share()
    clock = _Clock(state)
    for epoch in range(state.epoch, state.config.epochs):
        if finished(state):
            break
        hard = hard_negatives(state, images_NHW3, split.training, run, epoch=epoch, share=share, decided=decided)
        plan = plan_epoch(state.config, split.training, epoch=epoch, hard=hard, decided=decided)
        if plan.steps == 0:
            raise UsageError(f"{len(plan.pictures)} examples make no batch of {plan.stage.batch}; set a smaller batch")
        with closing(batches(plan, state.done)) as source:
            for batch in itertools.islice(source, plan.steps - state.done):
                progress = (epoch + state.done / plan.steps) / state.config.epochs
                figures = train_step(state, batch, progress=progress, epoch=epoch)
                figures = mean_over_workers(figures | {"stop": float(stop is not None and stop())})
                ended = figures.pop("stop") > 0 or (max_steps is not None and state.step >= max_steps)
                state.figures.append(figures)
                state.done += 1
                clock.tick()
                if share.first and (ended or clock.since_saved >= save_seconds):
                    _save(state, run, clock)
                if ended:
                    return False
        if state.done < plan.steps:
            raise RuntimeError(f"epoch {epoch} ended after {state.done} of {plan.steps} steps: its stream broke off")
        summary = _finish_epoch(state, plan, images_NHW3, split.held, share)
        clock.tick()
        if share.first:
            _keep_best(state, run)
            _save(state, run, clock)
        if log is not None:
            log(summary)
    return True


class _Clock:
    """Adds the time that passes to `state.seconds`, whoever ran it before."""

    def __init__(self, state: TrainState) -> None:
        self.state = state
        self.last = self.saved = time.monotonic()

    def tick(self) -> None:
        now = time.monotonic()
        self.state.seconds += now - self.last
        self.last = now

    @property
    def since_saved(self) -> float:
        return self.last - self.saved


def _save(state: TrainState, run: Path, clock: _Clock) -> None:
    save_state(state, run / "state.pt")
    # Written anew each time from the state, so that a restart neither loses a line nor doubles one.
    with atomic_path(run / "history.jsonl") as temporary:
        temporary.write_text("".join(json.dumps(epoch) + "\n" for epoch in state.history), encoding="utf-8")
    clock.saved = time.monotonic()


def _finish_epoch(
    state: TrainState, plan: EpochPlan, images_NHW3: Pictures, held: Indexes, share: Share
) -> dict[str, float]:
    """Validate the averaged weights, sum the epoch up, let the plateau schedule see the result."""
    summary: dict[str, Any] = {
        "epoch": plan.epoch,
        "steps": state.step,
        "size": plan.stage.size,
        **_mean_of_steps(state.figures),
    }
    if share.first and len(held) > 1:
        summary |= validate(state.average, images_NHW3, held, size=plan.stage.size, edits=state.config.edits)
    # BatchNorm's running figures differ between workers: one of them validates, and all go on from what it found.
    summary = from_first(summary | {"seconds": state.seconds})
    state.history.append(summary)
    state.epoch, state.done, state.figures = plan.epoch + 1, 0, []
    _plateau(state)
    return summary


def _mean_of_steps(figures: list[dict[str, float]]) -> dict[str, float]:
    """NaN says nothing (a batch without a duplicate has no similarity of duplicates) and is left out."""
    known: dict[str, list[float]] = {}
    for step in figures:
        for name, value in step.items():
            if math.isfinite(value):
                known.setdefault(name, []).append(value)
    return {name: float(np.mean(values)) for name, values in known.items()}


def finished(state: TrainState) -> bool:
    """Have all epochs been done, or has `early_stop` ended the run?"""
    config = state.config
    return state.epoch >= config.epochs or 0 < config.early_stop <= _waited(state)


def final_model(state: TrainState, run: Path) -> SiameseEmbedder:
    """The network that a finished run gives: the averaged weights, of the best epoch where `early_stop` keeps watch."""
    if state.config.early_stop and (run / _BEST).is_file():
        device = next(state.average.parameters()).device
        state.average.load_state_dict(torch.load(run / _BEST, map_location=device, weights_only=True))
    return state.average


def _keep_best(state: TrainState, run: Path) -> None:
    if state.config.early_stop and _scores(state) and _waited(state) == 0:
        with atomic_path(run / _BEST) as temporary:
            torch.save(state.average.state_dict(), temporary)


def _scores(state: TrainState) -> list[float]:
    return [epoch["val_mrr"] for epoch in state.history if "val_mrr" in epoch]


def _waited(state: TrainState) -> int:
    """Epochs since the best validation."""
    scores = _scores(state)
    return len(scores) - 1 - max(range(len(scores)), key=scores.__getitem__) if scores else 0


def _plateau(state: TrainState) -> None:
    """Lower the rate when the validation has not improved for `step_epochs` epochs."""
    if state.config.optim.schedule != "plateau":
        return
    waited = _waited(state)
    if waited > 0 and waited % state.config.optim.step_epochs == 0:
        state.plateau *= state.config.optim.gamma
