"""Pair and triplet streams on Ray Data: pictures are read, decoded and edited in Ray's tasks, away from the training process.

    pair stream      left, right, label            label 0 = duplicate, 1 = not, as in the paper
    triplet stream   anchor, positive, negative
    both also        picture, partner (row numbers of the first two roles); for each role its known geometry,
                     <role>_to_picture and <role>_pose

What an epoch consists of is drawn beforehand (`ndd.training.plan`), from the seed and the epoch alone; a stream carries a
worker's part of it out, step after step. So each training worker makes a small dataset of its own per epoch, over step
numbers, instead of a shard of a common one: `streaming_split` hands blocks to whichever worker asks first, and the same
seed would not give the same batches. Order is kept, and memory is bounded by the few steps that are in flight.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ndd.data.manifest import read_uris
from ndd.data.pack import load_pack, square_of
from ndd.data.sampling import DecidedPairs, HardNegatives
from ndd.data.uris import text_to_uri
from ndd.errors import StoreError, UsageError
from ndd.training.ahead import read_ahead
from ndd.training.config import TrainConfig
from ndd.training.plan import Batch, EpochPlan, Indexes, Pictures, make_batch, plan_epoch
from ndd.training.workers import Share
from pipelines.sources import read_source

__all__ = ["Files", "PictureStore", "batches_from", "pair_stream", "stream_plan", "triplet_stream"]

PAIR, TRIPLET = ("left", "right"), ("anchor", "positive", "negative")
_STEPS_PER_TASK = 4
"""A task costs some 10 ms on top of its work."""
_PATIENCE = 600.0
"""Seconds without a batch after which a stream counts as starved."""


class Files:
    """Pictures decoded when they are asked for, from wherever a manifest says; `Pictures` over its rows."""

    def __init__(self, manifest: Path, size: int) -> None:
        # The names alone, as Arrow keeps them: some 100 bytes for a picture.
        self._uris = read_uris(manifest)
        self._size = size

    def __len__(self) -> int:
        return len(self._uris)

    def __getitem__(self, rows: Indexes) -> NDArray[np.uint8]:
        """(B, S, S, 3). Raises DecodeError for a file that was readable when the manifest was made and is not any more."""
        uris = (text_to_uri(self._uris[int(row)].as_py()) for row in rows)
        return np.stack([square_of(read_source(uri), self._size) for uri in uris])


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureStore:
    """Where pictures lie, as a record that can be sent to a task: a pack, or a manifest whose files are decoded to `size`.

    On a cluster of several machines every one of them must see `path`, and the files that a manifest names.
    """

    path: Path
    size: int

    def open(self) -> Pictures:
        """The pictures; opened once per process."""
        return _open(self.path, self.size)


@lru_cache(maxsize=2)
def _open(path: Path, size: int) -> Pictures:
    if path.is_dir():
        pack = load_pack(path)
        if pack.size != size:
            raise StoreError(f"{path}: holds pictures of {pack.size} pixels, {size} were asked for; write it again")
        return pack.images
    return Files(path, size)


def pair_stream(
    config: TrainConfig,
    store: PictureStore,
    training: Indexes,
    *,
    epoch: int,
    share: Share,
    hard: HardNegatives | None = None,
    decided: DecidedPairs | None = None,
    cpus: float = 0.25,
) -> Any:
    """A Ray dataset with a row per pair of a worker's share of an epoch, in order. UsageError if the run wants triplets.

    training: row numbers of the pictures to train on. hard, decided: see `plan_epoch`. cpus: logical CPUs of one task;
    leave room for it beside the training workers, else both wait for ever.
    """
    if config.loss.kind == "triplet":
        raise UsageError("loss.kind is 'triplet', which pairs cannot feed; use the triplet stream")
    plan = plan_epoch(config, training, epoch=epoch, hard=hard, decided=decided)
    return stream_plan(plan, store, share=share, cpus=cpus)


def triplet_stream(
    config: TrainConfig,
    store: PictureStore,
    training: Indexes,
    *,
    epoch: int,
    share: Share,
    hard: HardNegatives | None = None,
    decided: DecidedPairs | None = None,
    cpus: float = 0.25,
) -> Any:
    """A Ray dataset with a row per triplet, otherwise as `pair_stream`. UsageError if the run wants pairs."""
    if config.loss.kind != "triplet":
        raise UsageError(f"loss.kind is {config.loss.kind!r}, which triplets cannot feed; use the pair stream")
    plan = plan_epoch(config, training, epoch=epoch, hard=hard, decided=decided)
    return stream_plan(plan, store, share=share, cpus=cpus)


def stream_plan(
    plan: EpochPlan, store: PictureStore, *, share: Share, first: int = 0, cpus: float = 0.25, tasks: int = 1
) -> Any:
    """A worker's share of a plan as a Ray dataset, from step `first` on; rows are in the order of the plan.

    tasks: how many of them work at a time, each on one core.
    """
    import ray

    steps = [{"step": step} for step in range(first, plan.steps)]
    # from_items makes its blocks here. The tasks by which from_arrow and range make theirs want a whole CPU each, which
    # may never be free beside training workers.
    blocks = max(1, -(-len(steps) // _STEPS_PER_TASK))
    source = ray.data.from_items(steps, override_num_blocks=blocks)
    # The plan goes to the object store once; a task maps it instead of drawing it again.
    task = _MakeRows(ray.put(plan), store, share)
    pool = ray.data.TaskPoolStrategy(size=min(tasks, blocks))
    dataset = source.map_batches(task, batch_size=1, num_cpus=cpus, compute=pool)
    dataset.context.execution_options.preserve_order = True
    return dataset


class _MakeRows:
    """Step numbers → rows of views."""

    def __init__(self, plan: Any, store: PictureStore, share: Share) -> None:
        self._plan, self._store, self._share = plan, store, share

    def __call__(self, batch: Mapping[str, NDArray[np.int64]]) -> dict[str, NDArray[Any]]:
        import ray

        torch.set_num_threads(1)  # a task is one core's work
        plan: EpochPlan = ray.get(self._plan)
        (step,) = batch["step"]
        rows = plan.rows(int(step), rank=self._share.rank, workers=self._share.workers)
        return to_rows(make_batch(plan, rows, self._store.open()))


def to_rows(batch: Batch) -> dict[str, NDArray[Any]]:
    """A batch as columns, an example per row; `from_rows` takes them back."""
    columns = {"label": batch.labels, "picture": batch.pictures, "partner": batch.partners}
    for name, view, to_picture, pose in zip(
        PAIR if len(batch.views) == 2 else TRIPLET, batch.views, batch.view_to_picture, batch.pose, strict=True
    ):
        columns |= {name: view, f"{name}_to_picture": to_picture, f"{name}_pose": pose}
    if len(batch.views) == 3:
        del columns["label"]  # a triplet says it by its order
    return {name: column.numpy() for name, column in columns.items()}


def from_rows(columns: Mapping[str, NDArray[Any]]) -> Batch:
    """The batch that `to_rows` was given, in memory of its own."""
    roles = PAIR if "left" in columns else TRIPLET

    def tensors(suffix: str) -> tuple[torch.Tensor, ...]:
        return tuple(torch.tensor(columns[role + suffix]) for role in roles)

    pictures = torch.tensor(columns["picture"])
    labels = torch.tensor(columns["label"]) if "label" in columns else torch.zeros_like(pictures)
    partners = torch.tensor(columns["partner"])
    return Batch(
        views=tensors(""),
        view_to_picture=tensors("_to_picture"),
        pose=tensors("_pose"),
        labels=labels,
        pictures=pictures,
        partners=partners,
    )


def batches_from(
    plan: EpochPlan,
    store: PictureStore,
    *,
    share: Share,
    first: int = 0,
    device: str = "cpu",
    cpus: float = 0.25,
    tasks: int = 1,
    patience: float = _PATIENCE,
) -> Generator[Batch, None, None]:
    """The stream of a plan as batches of the training loop, made while the step before them runs.

    Raises StoreError if none comes for `patience` seconds: then no CPU is free for the tasks that make them.
    """
    rows = plan.rows(0, rank=share.rank, workers=share.workers)
    stream = stream_plan(plan, store, share=share, first=first, cpus=cpus, tasks=tasks)
    columns = stream.iter_batches(batch_size=rows.stop - rows.start, batch_format="numpy", prefetch_batches=2)
    try:
        with closing(read_ahead(map(from_rows, columns), patience=patience)) as made:
            for batch in made:
                yield batch.to(device)
    except TimeoutError:
        raise StoreError(
            f"the training stream gave nothing for {patience:g} s: no CPU of the cluster is free for its tasks "
            f"({cpus:g} each); start fewer workers or add CPUs"
        ) from None
