"""From a feature map to a vector."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["AveragePooling", "GeneralizedMeanPooling", "make_pooling"]


class AveragePooling(nn.Module):
    """(B, C, H, W) → (B, C): the mean over places."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW.mean(dim=(2, 3))


class GeneralizedMeanPooling(nn.Module):
    """GeM: (mean of xᵖ)^(1/p) with a learned p; p = 1 is the average, p → ∞ the maximum.

    Source: Radenović, Tolias, Chum 2018 (arXiv:1711.02512), eq. 3.
    """

    def __init__(self, power: float = 3.0, floor: float = 1e-6) -> None:
        super().__init__()
        self.power = nn.Parameter(torch.tensor(power))
        self.floor = floor

    def forward(self, x_BCHW: Tensor) -> Tensor:
        # In float32: xᵖ of half-precision activations overflows.
        positive = x_BCHW.float().clamp_min(self.floor)
        return positive.pow(self.power).mean(dim=(2, 3)).pow(1.0 / self.power)


def make_pooling(kind: str) -> nn.Module:
    """`avg` or `gem`."""
    return GeneralizedMeanPooling() if kind == "gem" else AveragePooling()
