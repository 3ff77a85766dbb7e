"""What an epoch consists of, drawn in one go from (seed, epoch): examples and their labels; edits are drawn step by step.

The plan is the same whatever the number of workers; worker r of w takes its share of each batch of it. An example has two
roles (left, right) or three (anchor, positive, negative). Labels as in the paper: 0 = duplicate, 1 = not.

A plan holds a few numbers per example (32 to 56 bytes) and no picture. The edits, ten times as large, follow from (seed,
epoch, step) and are drawn where the batch is made.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ndd.data.augment import make_views
from ndd.data.edits import Edits, draw_edits
from ndd.data.sampling import DecidedPairs, HardNegatives, Indexes
from ndd.training.config import Stage, TrainConfig

__all__ = ["Batch", "EpochPlan", "Indexes", "Pictures", "make_batch", "plan_epoch"]

_EDITS, _HARD, _DECIDED, _AGAIN = 1, 2, 3, 4
"""What a generator is for: numbers drawn for one purpose do not move those of another."""


class Pictures(Protocol):
    """Stored pictures by row number: an array, a memory map of one, or files that are decoded when asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Indexes, /) -> Any:
        """(B, H, W, 3) uint8."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochPlan:
    """E examples with R roles. pictures: (E, R) rows of the training pictures. others: (E,) pictures that overlays show."""

    config: TrainConfig
    epoch: int
    stage: Stage
    pictures: Indexes
    labels: Indexes
    others: Indexes

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

    def edits(self, rows: slice) -> tuple[Edits, ...]:
        """Those of each role's views of `rows`: the same however the examples are cut."""
        size = self.stage.batch
        parts = [
            [edits[max(rows.start - start, 0) : rows.stop - start] for edits in self._edits_of(start // size)]
            for start in range(rows.start - rows.start % size, rows.stop, size)
        ]
        return tuple(_joined(part) for part in zip(*parts, strict=True))

    def _edits_of(self, step: int) -> list[Edits]:
        rng = np.random.default_rng([self.config.seed, self.epoch, _EDITS, step])
        count, size = len(self.pictures), self.stage.batch
        at = np.arange(step * size, min((step + 1) * size, count))
        progress = (self.epoch + at / count) / self.config.epochs
        strength = np.array([self.config.strength_at(float(p)) for p in progress])
        # The first view is edited half as strongly: pairs of an original and its copy are what is met in practice.
        roles = range(self.pictures.shape[1])
        return [draw_edits(rng, strength * (0.5 if role == 0 else 1.0), self.config.edits) for role in roles]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """B examples as tensors. views: R of (B, 3, S, S) uint8. view_to_picture, pose: R of (B, 3, 3). labels, pictures: (B,).

    pictures: the first role's rows. partners: the second's, which differ for strangers and for duplicates by decision.
    """

    views: tuple[Tensor, ...]
    view_to_picture: tuple[Tensor, ...]
    pose: tuple[Tensor, ...]
    labels: Tensor
    pictures: Tensor
    partners: Tensor

    @property
    def aligned(self) -> Tensor:
        """(B,) bool: the first two views are of one stored picture, so that how one maps to the other is known."""
        return self.pictures == self.partners

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        return Batch(
            views=tuple(v.to(device, non_blocking=True) for v in self.views),
            view_to_picture=tuple(v.to(device, non_blocking=True) for v in self.view_to_picture),
            pose=tuple(v.to(device, non_blocking=True) for v in self.pose),
            labels=self.labels.to(device),
            pictures=self.pictures.to(device),
            partners=self.partners.to(device),
        )


def plan_epoch(
    config: TrainConfig,
    pictures: Indexes,
    *,
    epoch: int,
    hard: HardNegatives | None = None,
    decided: DecidedPairs | None = None,
) -> EpochPlan:
    """Draw epoch `epoch` over the training pictures (row numbers of the pack, N ≥ 2 of them).

    hard: near strangers, used for a share `config.sampling.hard` of the strangers. decided: people's pairs, a share
    `config.sampling.decisions` of the examples; InfoNCE, whose strangers are the rest of the batch, takes duplicates only.
    """
    if len(pictures) < 2:
        raise ValueError(f"training needs at least 2 pictures, got {len(pictures)}")
    rng = np.random.default_rng([config.seed, epoch])
    count = config.examples or len(pictures)
    order = np.concatenate([rng.permutation(pictures) for _ in range(-(-count // len(pictures)))])[:count]
    strangers = _strangers(rng, order, pictures)
    if decided is not None:
        strangers = _no_duplicates(strangers, order, pictures, decided, config, epoch)
    if hard is not None:
        strangers = _harder(strangers, order, hard, config, epoch)
    labels = np.zeros(count, np.int64)
    if config.loss.kind == "triplet":
        roles = np.stack([order, order, strangers], axis=1)
    elif config.loss.kind == "contrastive":
        labels = rng.permutation(np.arange(count) % 2)
        roles = np.stack([order, np.where(labels == 1, strangers, order)], axis=1)
    else:
        roles = np.stack([order, order], axis=1)
    if decided is not None:
        _put_decided(roles, labels, decided, config, epoch)
    return EpochPlan(
        config=config,
        epoch=epoch,
        stage=config.stage_at(epoch / config.epochs),
        pictures=roles,
        labels=labels,
        others=rng.choice(pictures, count),
    )


def _strangers(rng: np.random.Generator, order: Indexes, pictures: Indexes) -> Indexes:
    """For each picture another one, never itself."""
    by_row = np.argsort(pictures, kind="stable")
    here = by_row[np.searchsorted(pictures, order, sorter=by_row)]
    others: Indexes = pictures[(here + rng.integers(1, len(pictures), len(order))) % len(pictures)]
    return others


def _no_duplicates(
    strangers: Indexes, order: Indexes, pictures: Indexes, decided: DecidedPairs, config: TrainConfig, epoch: int
) -> Indexes:
    """Draw those again that a person called a duplicate of their picture (not for ever: there may be nothing else)."""
    rng = np.random.default_rng([config.seed, epoch, _AGAIN])
    base = int(pictures.max()) + 1
    known = np.concatenate([decided.duplicates @ [base, 1], decided.duplicates @ [1, base]])
    for _ in range(64):
        wrong = np.flatnonzero(np.isin(order * base + strangers, known))
        if len(wrong) == 0:
            break
        strangers[wrong] = _strangers(rng, order[wrong], pictures)
    return strangers


def _harder(strangers: Indexes, order: Indexes, hard: HardNegatives, config: TrainConfig, epoch: int) -> Indexes:
    rng = np.random.default_rng([config.seed, epoch, _HARD])
    chosen = rng.random(len(order)) < config.sampling.hard
    near = hard.draw(rng, order)
    return np.where(chosen & (near >= 0), near, strangers)


def _put_decided(roles: Indexes, labels: Indexes, decided: DecidedPairs, config: TrainConfig, epoch: int) -> None:
    """Put people's pairs in the place of some examples, in place; a pair keeps the label of the example it replaces."""
    rng = np.random.default_rng([config.seed, epoch, _DECIDED])
    kind = config.loss.kind
    linked = {(int(a), int(b)) for pair in decided.duplicates for a, b in (pair, pair[::-1])}
    for at in np.flatnonzero(rng.random(len(roles)) < config.sampling.decisions):
        if kind == "triplet":
            label = int(rng.random() < 0.5)
            roles[at] = _decided_triplet(rng, roles[at], decided, linked, label)
        else:
            pair = decided.draw(rng, int(labels[at]))
            roles[at] = roles[at] if pair is None else pair


def _decided_triplet(
    rng: np.random.Generator, triplet: Indexes, decided: DecidedPairs, linked: set[tuple[int, int]], label: int
) -> Indexes:
    """A triplet around a pair of this label, else of the other; `triplet` as it is where nothing fits."""
    pair = decided.draw(rng, label)
    if pair is None:
        label = 1 - label
        pair = decided.draw(rng, label)
    if pair is None:
        return triplet
    if label == 1:
        return np.array([pair[0], pair[0], pair[1]])
    for stranger in map(int, triplet[::-2]):  # the one it has, else its anchor
        if stranger not in pair and all((stranger, one) not in linked for one in pair):
            return np.array([*pair, stranger])
    return triplet


def _joined(parts: tuple[Edits, ...]) -> Edits:
    if len(parts) == 1:
        return parts[0]
    return Edits(**{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Edits)})


def make_batch(plan: EpochPlan, rows: slice, images_NHW3: Pictures, *, device: torch.device | str = "cpu") -> Batch:
    """Cut the pictures of `rows` out of `images` and carry out their edits.

    On a GPU only the stored pictures travel; the edits are made there.
    """
    others = _pictures(images_NHW3, plan.others[rows], device)
    drawn = plan.edits(rows)
    views = []
    for role, edits in enumerate(drawn):
        pictures = _pictures(images_NHW3, plan.pictures[rows, role], device)
        views.append(make_views(pictures, edits, size=plan.stage.size, others_V3HW=others))
    return Batch(
        views=tuple(views),
        view_to_picture=tuple(torch.tensor(e.view_to_picture, device=device) for e in drawn),
        pose=tuple(torch.tensor(e.pose, device=device) for e in drawn),
        labels=torch.tensor(plan.labels[rows], device=device),
        pictures=torch.tensor(plan.pictures[rows, 0], device=device),
        partners=torch.tensor(plan.pictures[rows, 1], device=device),
    )


def _pictures(images_NHW3: Pictures, indexes: Indexes, device: torch.device | str) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(images_NHW3[indexes])).to(device).permute(0, 3, 1, 2)
