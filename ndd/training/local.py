"""The plain engine: one process, no Ray and no MLflow. For machines that have neither, and the measure of the others."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path

from torch import Tensor

from ndd.data.sampling import DecidedPairs
from ndd.training.ahead import read_ahead
from ndd.training.config import TrainConfig
from ndd.training.loop import Log, Split, run_epochs, start_state
from ndd.training.plan import Batch, EpochPlan, Pictures, make_batch
from ndd.training.step import TrainState
from ndd.training.workers import Share

__all__ = ["batches_of", "train_local"]


def train_local(
    config: TrainConfig,
    images_NHW3: Pictures,
    run: Path,
    *,
    split: Split | None = None,
    decided: DecidedPairs | None = None,
    device: str = "cpu",
    prototypes: Tensor | None = None,
    init: Path | None = None,
    log: Log | None = None,
    save_seconds: float = 60.0,
    stop: Callable[[], bool] | None = None,
    max_steps: int | None = None,
) -> TrainState:
    """Train on the pictures of a pack, checkpointing into `run`; a second call goes on from there.

    images: (N, H, W, 3) uint8. split: drawn by `config.holdout` if None. decided: people's pairs of training pictures.
    prototypes: (N, D) teacher features of the same rows. The run is over when `loop.finished(state)`; `stop` and
    `max_steps` end the call early.
    """
    state = start_state(config, run, device=device, prototypes=prototypes, init=init)
    run_epochs(
        state,
        images_NHW3,
        split or Split.draw(len(images_NHW3), config),
        run,
        batches=batches_of(images_NHW3, device=device),
        decided=decided,
        log=log,
        save_seconds=save_seconds,
        stop=stop,
        max_steps=max_steps,
    )
    return state


def batches_of(
    images_NHW3: Pictures, *, device: str, share: Share | None = None
) -> Callable[[EpochPlan, int], Generator[Batch, None, None]]:
    """Batches made by a thread of this process (on its GPU, if that is where they go) while the step before them runs."""
    part = share or Share()

    def batches(plan: EpochPlan, first: int) -> Generator[Batch, None, None]:
        made = (
            make_batch(plan, plan.rows(step, rank=part.rank, workers=part.workers), images_NHW3, device=device)
            for step in range(first, plan.steps)
        )
        return read_ahead(made)

    return batches
