"""Vectors of every worker, with gradients: the only place in the losses that knows of ranks."""

from __future__ import annotations

import torch
from torch import Tensor, distributed

__all__ = ["gather_with_grad"]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, local_BD: Tensor) -> Tensor:
        pieces = [torch.empty_like(local_BD) for _ in range(distributed.get_world_size())]
        distributed.all_gather(pieces, local_BD.contiguous())
        return torch.cat(pieces)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> Tensor:
        # Every worker's loss depends on our rows: sum the pieces of the gradient that belong to us. DDP then averages
        # over workers, which makes it the gradient of the mean of the workers' losses.
        # A copy: autograd may hand the same tensor to others, and all_reduce works in place.
        total_ND = grads[0].clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total_ND)
        size = total_ND.shape[0] // distributed.get_world_size()
        rank = distributed.get_rank()
        return total_ND[rank * size : (rank + 1) * size]


def gather_with_grad(local_BD: Tensor) -> tuple[Tensor, int]:
    """(N, D) rows of all workers in rank order and the row where ours start; a single process gets its own rows and 0.

    Whole numbers, e.g. (B,) pictures, are gathered too, without gradients. Every worker must hold the same number of rows.
    """
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return local_BD, 0
    gathered: Tensor = _Gather.apply(local_BD)
    return gathered, distributed.get_rank() * local_BD.shape[0]
