"""Triplet loss. Source: Schroff, Kalenichenko, Philbin 2015 (FaceNet, arXiv:1503.03832), eq. 1 and 2."""

from __future__ import annotations

from torch import Tensor

__all__ = ["triplet_loss"]


def triplet_loss(
    positive_B: Tensor, negative_B: Tensor, *, margin: float = 0.2, weight_B: Tensor | None = None
) -> Tensor:
    """Mean over triplets of max(0, d(a, p) − d(a, n) + margin).

    positive, negative: (B,) distances of the anchor to its positive and its negative (squared or not: the caller's choice).
    weight: (B,) ≥ 0; the result is Σ w·loss / Σ w.
    """
    loss_B = (positive_B - negative_B + margin).clamp_min(0.0)
    if weight_B is None:
        return loss_B.mean()
    return (loss_B * weight_B).sum() / weight_B.sum().clamp_min(1e-12)
