"""The triplet loss against equation 2 of FaceNet (arXiv:1503.03832), written out in plain Python."""

from __future__ import annotations

import math

import pytest
import torch

from ndd.losses import euclidean_distance, triplet_loss
from tests.ndd.losses.test_contrastive import unit


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("margin", [0.05, 0.2, 1.0])
@pytest.mark.parametrize(("count", "dim"), [(1, 2), (5, 3), (32, 64)])
def test_agrees_with_the_paper(count: int, dim: int, margin: float, squared: bool) -> None:
    a, p, n = unit(count, dim, 1), unit(count, dim, 2), unit(count, dim, 3)
    power = 2 if squared else 1
    loss = triplet_loss(euclidean_distance(a, p) ** power, euclidean_distance(a, n) ** power, margin=margin)
    total = 0.0
    for i in range(count):
        positive, negative = math.dist(a[i].tolist(), p[i].tolist()), math.dist(a[i].tolist(), n[i].tolist())
        total += max(0.0, positive**power - negative**power + margin)
    assert loss.item() == pytest.approx(total / count, rel=1e-12)


def test_satisfied_triplets_cost_nothing() -> None:
    assert triplet_loss(torch.tensor([0.1]), torch.tensor([0.4]), margin=0.25).item() == 0.0
    assert triplet_loss(torch.tensor([0.1]), torch.tensor([0.3]), margin=0.25).item() == pytest.approx(0.05)


def test_weights_are_relative() -> None:
    positive, negative = torch.tensor([0.5, 0.2]), torch.tensor([0.1, 0.1])
    repeated = triplet_loss(positive[[0, 1, 1]], negative[[0, 1, 1]])
    assert triplet_loss(positive, negative, weight_B=torch.tensor([2.0, 4.0])).item() == pytest.approx(repeated.item())


def test_gradient() -> None:
    a, p, n = (unit(4, 5, seed).requires_grad_() for seed in (3, 4, 5))

    def loss(a: torch.Tensor, p: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
        return triplet_loss(euclidean_distance(a, p), euclidean_distance(a, n), margin=2.0)

    assert torch.autograd.gradcheck(loss, (a, p, n))
