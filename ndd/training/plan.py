"""What an epoch consists of, drawn in one go from (seed, epoch): examples, their labels and the edits of every view.

The plan is the same whatever the number of workers; worker r of w takes its share of each batch of it. An example has two
roles (left, right) or three (anchor, positive, negative). Labels as in the paper: 0 = duplicate, 1 = not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ndd.data.augment import make_views
from ndd.data.edits import Edits, draw_edits
from ndd.training.config import Stage, TrainConfig

__all__ = ["Batch", "EpochPlan", "Indexes", "Pictures", "make_batch", "plan_epoch"]

Indexes = NDArray[np.int64]


class Pictures(Protocol):
    """Stored pictures by row number: an array, a memory map of one, or files that are decoded when asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Indexes, /) -> Any:
        """(B, H, W, 3) uint8."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochPlan:
    """E examples with R roles. pictures: (E, R) rows of the training pictures. others: (E,) pictures that overlays show."""

    epoch: int
    stage: Stage
    pictures: Indexes
    labels: Indexes
    others: Indexes
    edits: tuple[Edits, ...]

    @property
    def steps(self) -> int:
        """Whole batches; a last, smaller one is left out (BatchNorm and InfoNCE depend on the size)."""
        return len(self.pictures) // self.stage.batch

    def rows(self, step: int, *, rank: int = 0, workers: int = 1) -> slice:
        """The examples of one worker's share of a step; the batch must divide evenly."""
        if self.stage.batch % workers:
            raise ValueError(f"a batch of {self.stage.batch} examples cannot be shared evenly by {workers} workers")
        share = self.stage.batch // workers
        start = step * self.stage.batch + rank * share
        return slice(start, start + share)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """B examples as tensors. views: R of (B, 3, S, S) uint8. view_to_picture, pose: R of (B, 3, 3). labels, pictures: (B,)."""

    views: tuple[Tensor, ...]
    view_to_picture: tuple[Tensor, ...]
    pose: tuple[Tensor, ...]
    labels: Tensor
    pictures: Tensor

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        return Batch(
            views=tuple(v.to(device, non_blocking=True) for v in self.views),
            view_to_picture=tuple(v.to(device, non_blocking=True) for v in self.view_to_picture),
            pose=tuple(v.to(device, non_blocking=True) for v in self.pose),
            labels=self.labels.to(device),
            pictures=self.pictures.to(device),
        )


def plan_epoch(config: TrainConfig, pictures: Indexes, *, epoch: int) -> EpochPlan:
    """Draw epoch `epoch` over the training pictures (row numbers of the pack, N ≥ 2 of them)."""
    if len(pictures) < 2:
        raise ValueError(f"training needs at least 2 pictures, got {len(pictures)}")
    rng = np.random.default_rng([config.seed, epoch])
    count = config.examples or len(pictures)
    order = np.concatenate([rng.permutation(pictures) for _ in range(-(-count // len(pictures)))])[:count]
    strangers = _strangers(rng, order, pictures)
    labels = np.zeros(count, np.int64)
    if config.loss.kind == "triplet":
        roles = np.stack([order, order, strangers], axis=1)
    elif config.loss.kind == "contrastive":
        labels = rng.permutation(np.arange(count) % 2)
        roles = np.stack([order, np.where(labels == 1, strangers, order)], axis=1)
    else:
        roles = np.stack([order, order], axis=1)
    progress = (epoch + np.arange(count) / count) / config.epochs
    strength = np.array([config.strength_at(float(p)) for p in progress])
    # The first view is edited half as strongly: pairs of an original and its copy are what is met in practice.
    edits = tuple(
        draw_edits(rng, strength * (0.5 if role == 0 else 1.0), config.edits) for role in range(roles.shape[1])
    )
    return EpochPlan(
        epoch=epoch,
        stage=config.stage_at(epoch / config.epochs),
        pictures=roles,
        labels=labels,
        others=rng.choice(pictures, count),
        edits=edits,
    )


def _strangers(rng: np.random.Generator, order: Indexes, pictures: Indexes) -> Indexes:
    """For each picture another one, never itself."""
    place = {int(p): i for i, p in enumerate(pictures)}
    here = np.array([place[int(p)] for p in order])
    return pictures[(here + rng.integers(1, len(pictures), len(order))) % len(pictures)]


def make_batch(plan: EpochPlan, rows: slice, images_NHW3: Pictures, *, device: torch.device | str = "cpu") -> Batch:
    """Cut the pictures of `rows` out of `images` and carry out their edits.

    On a GPU only the stored pictures travel; the edits are made there.
    """
    others = _pictures(images_NHW3, plan.others[rows], device)
    views = []
    for role, edits in enumerate(plan.edits):
        pictures = _pictures(images_NHW3, plan.pictures[rows, role], device)
        views.append(make_views(pictures, edits[rows], size=plan.stage.size, others_V3HW=others))
    return Batch(
        views=tuple(views),
        view_to_picture=tuple(torch.tensor(e.view_to_picture[rows], device=device) for e in plan.edits),
        pose=tuple(torch.tensor(e.pose[rows], device=device) for e in plan.edits),
        labels=torch.tensor(plan.labels[rows], device=device),
        pictures=torch.tensor(plan.pictures[rows, 0], device=device),
    )


def _pictures(images_NHW3: Pictures, indexes: Indexes, device: torch.device | str) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(images_NHW3[indexes])).to(device).permute(0, 3, 1, 2)
