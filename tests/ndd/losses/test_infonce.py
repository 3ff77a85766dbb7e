"""InfoNCE against its definition (arXiv:1807.03748, eq. 4; symmetric as in arXiv:2002.05709, eq. 1) in plain Python."""

from __future__ import annotations

import math

import pytest
import torch

from ndd.losses import entropy_loss, info_nce_loss, prototype_loss
from tests.ndd.losses.test_contrastive import unit

Vector = list[float]


def dot(a: Vector, b: Vector) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def info_nce_in_python(a: list[Vector], b: list[Vector], *, temperature: float, anchors: range | None = None) -> float:
    """Every view of `anchors` against all others: its partner must stand out."""
    views = a + b
    count = len(a)
    total, asked = 0.0, 0
    for i in range(2 * count):
        if anchors is not None and i % count not in anchors:
            continue
        partner = (i + count) % (2 * count)
        others = [math.exp(dot(views[i], views[j]) / temperature) for j in range(2 * count) if j != i]
        total -= math.log(math.exp(dot(views[i], views[partner]) / temperature) / sum(others))
        asked += 1
    return total / asked


@pytest.mark.parametrize("temperature", [0.05, 0.07, 0.5, 2.0])
@pytest.mark.parametrize(("count", "dim"), [(1, 4), (2, 2), (5, 8), (24, 32)])
def test_agrees_with_the_paper(count: int, dim: int, temperature: float) -> None:
    a, b = unit(count, dim, 1), unit(count, dim, 2)
    expected = info_nce_in_python(a.tolist(), b.tolist(), temperature=temperature)
    assert info_nce_loss(a, b, temperature=temperature).item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_both_directions_count_the_same() -> None:
    a, b = unit(6, 5, 1), unit(6, 5, 2)
    swapped = info_nce_loss(b, a, temperature=0.1)
    assert info_nce_loss(a, b, temperature=0.1).item() == pytest.approx(swapped.item(), rel=1e-12)


@pytest.mark.parametrize("workers", [2, 3])
def test_negatives_of_other_workers(workers: int) -> None:
    """Each worker's loss is that of its own anchors among everybody's views; their mean is the loss of the whole batch."""
    share = 4
    a, b = unit(share * workers, 8, 1), unit(share * workers, 8, 2)
    losses = []
    for rank in range(workers):
        mine = slice(rank * share, (rank + 1) * share)
        loss = info_nce_loss(a[mine], b[mine], temperature=0.1, all_a_ND=a, all_b_ND=b, offset=rank * share)
        anchors = range(mine.start, mine.stop)
        expected = info_nce_in_python(a.tolist(), b.tolist(), temperature=0.1, anchors=anchors)
        assert loss.item() == pytest.approx(expected, rel=1e-9)
        losses.append(loss.item())
    assert sum(losses) / workers == pytest.approx(info_nce_loss(a, b, temperature=0.1).item(), rel=1e-12)


def test_gradient() -> None:
    a, b = unit(4, 5, 3).requires_grad_(), unit(4, 5, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: info_nce_loss(x, y, temperature=0.3), (a, b))


@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_prototypes(temperature: float) -> None:
    z, prototypes = unit(5, 6, 1), unit(9, 6, 2)
    target = torch.tensor([8, 0, 3, 3, 5])
    total = 0.0
    for vector, own in zip(z.tolist(), target.tolist(), strict=True):
        weights = [math.exp(dot(vector, p) / temperature) for p in prototypes.tolist()]
        total -= math.log(weights[own] / sum(weights))
    loss = prototype_loss(z, prototypes, target, temperature=temperature)
    assert loss.item() == pytest.approx(total / 5, rel=1e-9)


def test_entropy_loss_is_minus_the_log_of_the_nearest_other_picture() -> None:
    z = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-1.0, 0.0]])
    pictures = torch.tensor([5, 5, 6, 7])
    # Nearest of another picture: 0 → 2 (cosine 0), 1 → 2 (.6), 2 → 1 (.6), 3 → 2 (0).
    distances = [math.sqrt(2 - 2 * c) for c in (0.0, 0.6, 0.6, 0.0)]
    assert entropy_loss(z, pictures).item() == pytest.approx(-sum(map(math.log, distances)) / 4, rel=1e-6)


def test_entropy_loss_of_one_picture_is_nothing_and_of_equal_vectors_is_finite() -> None:
    z = torch.tensor([[1.0, 0.0], [1.0, 0.0]], requires_grad=True)
    assert entropy_loss(z, torch.tensor([1, 1])).item() == 0.0
    loss = entropy_loss(z, torch.tensor([1, 2]))
    loss.backward()
    assert torch.isfinite(loss)
    assert z.grad is not None
    assert torch.isfinite(z.grad).all()
