"""What the workers of one run tell one another; a process by itself talks to nobody."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import distributed

__all__ = ["Share", "from_first", "mean_over_workers"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Which part of every batch a process computes: part `rank` of `workers` equal ones."""

    rank: int = 0
    workers: int = 1

    @property
    def first(self) -> bool:
        """True for the one that validates, saves and logs."""
        return self.rank == 0


def mean_over_workers(figures: Mapping[str, float]) -> dict[str, float]:
    """The mean of each figure over the workers, the same on all of them; NaN where it says nothing and is left out.

    Every worker must call it with the same names. A mean over a worker's equal share of the batch becomes the mean over
    the batch; what compares pictures of a share with one another (nearest negative, centre) stays a mean over shares.
    """
    if _alone():
        return dict(figures)
    values = torch.tensor(list(figures.values()), dtype=torch.float64)
    known = torch.isfinite(values)
    sums = torch.stack([torch.where(known, values, torch.zeros_like(values)), known.double()])
    device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    sums = sums.to(device)
    distributed.all_reduce(sums)
    totals, counts = sums.tolist()
    return {
        name: total / count if count else math.nan for name, total, count in zip(figures, totals, counts, strict=True)
    }


def from_first(value: T) -> T:
    """The first worker's value, on every worker."""
    if _alone():
        return value
    box = [value]
    distributed.broadcast_object_list(box, src=0)
    return box[0]


def _alone() -> bool:
    return not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1
