"""Contrastive loss over labelled pairs. Source: Hadsell, Chopra, LeCun 2006, eq. 4."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["contrastive_loss", "cosine_distance", "euclidean_distance"]


def euclidean_distance(a_BD: Tensor, b_BD: Tensor) -> Tensor:
    """(B,) distances. For unit vectors within [0, 2]; the gradient at distance 0 is 0, not NaN."""
    square = (a_BD - b_BD).square().sum(dim=1)
    # d/dx √x is infinite at 0, where identical inputs put it; √ of a tiny constant there has gradient 0 through the mask.
    zero = square <= 1e-12
    distance = torch.where(zero, torch.ones_like(square), square).sqrt()
    return torch.where(zero, torch.zeros_like(square), distance)


def cosine_distance(a_BD: Tensor, b_BD: Tensor) -> Tensor:
    """(B,) of 1 − cosine, within [0, 2], for vectors of unit length."""
    return 1.0 - (a_BD * b_BD).sum(dim=1)


def contrastive_loss(
    distance_B: Tensor, label_B: Tensor, *, margin: float = 1.0, weight_B: Tensor | None = None
) -> Tensor:
    """Mean over pairs of ½ (1 − y) d² + ½ y max(0, margin − d)².

    distance: (B,) ≥ 0. label: (B,), 0 = duplicate, 1 = not. weight: (B,) ≥ 0, e.g. of a person's decisions;
    the result is Σ w·loss / Σ w. ValueError if shapes differ.
    """
    if distance_B.shape != label_B.shape:
        raise ValueError(f"distances {tuple(distance_B.shape)} and labels {tuple(label_B.shape)} differ in shape")
    different = label_B.to(distance_B.dtype)
    pull = (1.0 - different) * distance_B.square()
    push = different * (margin - distance_B).clamp_min(0.0).square()
    loss_B = 0.5 * (pull + push)
    if weight_B is None:
        return loss_B.mean()
    return (loss_B * weight_B).sum() / weight_B.sum().clamp_min(1e-12)
