"""The contrastive loss against equation 4 of Hadsell, Chopra, LeCun 2006, written out in plain Python."""

from __future__ import annotations

import math

import pytest
import torch

from ndd.losses import contrastive_loss, cosine_distance, euclidean_distance

Vector = list[float]


def distance_in_python(a: Vector, b: Vector, kind: str) -> float:
    if kind == "euclidean":
        return math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)))
    return 1 - sum(x * y for x, y in zip(a, b, strict=True))


def contrastive_in_python(a: list[Vector], b: list[Vector], labels: list[int], *, margin: float, kind: str) -> float:
    total = 0.0
    for left, right, y in zip(a, b, labels, strict=True):
        d = distance_in_python(left, right, kind)
        total += (1 - y) * 0.5 * d**2 + y * 0.5 * max(0.0, margin - d) ** 2
    return total / len(a)


def unit(count: int, dim: int, seed: int) -> torch.Tensor:
    x = torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x / x.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("kind", ["euclidean", "cosine"])
@pytest.mark.parametrize("margin", [0.1, 0.5, 1.0, 1.9])
@pytest.mark.parametrize(("count", "dim"), [(1, 2), (2, 8), (7, 3), (32, 64)])
def test_agrees_with_the_paper(count: int, dim: int, margin: float, kind: str) -> None:
    a, b = unit(count, dim, 1), unit(count, dim, 2)
    labels = torch.arange(count) % 2
    measure = euclidean_distance if kind == "euclidean" else cosine_distance
    loss = contrastive_loss(measure(a, b), labels, margin=margin)
    expected = contrastive_in_python(a.tolist(), b.tolist(), labels.tolist(), margin=margin, kind=kind)
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_label_zero_is_a_duplicate_and_pulls() -> None:
    near, far = torch.tensor([0.1]), torch.tensor([0.9])
    duplicate, distinct = torch.tensor([0]), torch.tensor([1])
    assert contrastive_loss(far, duplicate) > contrastive_loss(near, duplicate)
    assert contrastive_loss(near, distinct) > contrastive_loss(far, distinct)


def test_values_by_hand() -> None:
    distance = torch.tensor([0.6, 0.6, 1.4])
    assert contrastive_loss(distance[:1], torch.tensor([0])).item() == pytest.approx(0.18)
    assert contrastive_loss(distance[1:2], torch.tensor([1])).item() == pytest.approx(0.08)
    assert contrastive_loss(distance[2:], torch.tensor([1])).item() == 0.0


def test_weights_are_relative() -> None:
    distance, labels = torch.tensor([0.2, 0.7, 0.4]), torch.tensor([0, 1, 0])
    weights = torch.tensor([1.0, 3.0, 0.0])
    repeated = contrastive_loss(distance[[0, 1, 1, 1]], labels[[0, 1, 1, 1]])
    assert contrastive_loss(distance, labels, weight_B=weights).item() == pytest.approx(repeated.item())
    assert contrastive_loss(distance, labels, weight_B=10 * weights).item() == pytest.approx(repeated.item())


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"\(2,\).*\(3,\)"):
        contrastive_loss(torch.zeros(2), torch.zeros(3))


def test_identical_vectors_have_a_finite_gradient() -> None:
    a = unit(3, 4, 0).requires_grad_()
    contrastive_loss(euclidean_distance(a, a.detach().clone()), torch.tensor([0, 1, 1])).backward()
    assert a.grad is not None
    assert torch.isfinite(a.grad).all()


@pytest.mark.parametrize("label", [0, 1])
def test_gradient(label: int) -> None:
    a, b = unit(4, 5, 3).requires_grad_(), unit(4, 5, 4).requires_grad_()
    labels = torch.full((4,), label)
    assert torch.autograd.gradcheck(lambda x, y: contrastive_loss(euclidean_distance(x, y), labels, margin=1.8), (a, b))
