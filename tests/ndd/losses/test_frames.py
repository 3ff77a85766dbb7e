"""Frames that follow their picture: what is measured of two of them, against frames that are known to agree."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from ndd.losses import area_loss, frame_agreement_loss, frame_loss, turn_between, turn_to_upright
from ndd.losses.alignment import map_points
from ndd.losses.frames import Turn

FRAME = torch.tensor([[-1.0, -1], [1, -1], [1, 1], [-1, 1]])


def rotation(angle: float) -> Tensor:
    return torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def corners(shape: Tensor, centre: tuple[float, float] = (0.0, 0.0)) -> Tensor:
    return (FRAME @ shape.T + torch.tensor(centre))[None]


def homography(linear: Tensor, shift: tuple[float, float] = (0.0, 0.0)) -> Tensor:
    matrix = torch.eye(3)
    matrix[:2, :2], matrix[:2, 2] = linear, torch.tensor(shift)
    return matrix[None]


@pytest.mark.parametrize("angle", [-2.5, -0.4, 0.0, 1.1, 3.0])
@pytest.mark.parametrize("mirrored", [False, True])
def test_the_turn_of_a_frame_that_followed_is_found(angle: float, mirrored: bool) -> None:
    """b(Q p) = T a(p) by construction: φ comes back and no error is left."""
    a = corners(torch.tensor([[0.8, 0.1], [0.1, 0.5]]), (0.2, -0.1))
    t = homography(torch.tensor([[1.4, 0.3], [-0.2, 0.7]]), (0.1, 0.05))
    if mirrored:
        t = t @ torch.diag(torch.tensor([-1.0, 1, 1]))
    q = rotation(angle) @ (torch.diag(torch.tensor([-1.0, 1])) if mirrored else torch.eye(2))
    # The frame b whose corners, turned by Q, are those of a seen through T.
    seen = map_points(t, a)[0]
    centre, linear = seen.mean(dim=0), seen.T @ FRAME / 4
    b = (FRAME @ (linear @ torch.linalg.inv(q)).T + centre)[None]
    found = turn_between(a, b, t)
    assert found.mirrored.item() is mirrored
    assert math.remainder(found.angle.item() - angle, 2 * math.pi) == pytest.approx(0, abs=1e-4)
    assert found.error.item() == pytest.approx(0, abs=1e-3)


def test_a_frame_that_stays_where_it_is_has_an_error() -> None:
    still = corners(torch.eye(2))
    squash = homography(torch.diag(torch.tensor([1.6, 1.0])))
    assert turn_between(still, still, squash).error.item() > 0.5
    turned = turn_between(still, still, homography(rotation(0.7)))
    assert turned.error.item() == pytest.approx(0, abs=1e-3)
    assert turned.angle.item() == pytest.approx(0.7, abs=1e-5)


def test_no_common_zoom_makes_the_loss_smaller() -> None:
    t = homography(torch.diag(torch.tensor([1.6, 1.0])))
    back = torch.linalg.inv(t)

    def loss(zoom: float) -> float:
        frame = corners(zoom * torch.eye(2))
        return frame_loss(turn_between(frame, frame, t), turn_between(frame, frame, back)).item()

    assert loss(0.5) == pytest.approx(loss(1.0), rel=1e-3)
    assert loss(2.0) == pytest.approx(loss(1.0), rel=1e-3)


def test_nor_does_a_larger_frame_on_one_side() -> None:
    t = homography(torch.diag(torch.tensor([1.6, 1.0])))
    frame = corners(torch.eye(2))

    def loss(zoom: float) -> float:
        other = corners(zoom * torch.eye(2))
        return frame_loss(turn_between(frame, other, t), turn_between(other, frame, torch.linalg.inv(t))).item()

    fitting = min(loss(zoom) for zoom in (1.0, 1.25, 1.5))
    assert loss(4.0) > fitting
    assert loss(0.25) > fitting


def test_the_known_pose_as_an_angle_in_the_frame() -> None:
    frame = corners(0.7 * torch.eye(2))
    assert turn_to_upright(frame, homography(rotation(-1.2))).angle.item() == pytest.approx(-1.2, abs=1e-5)


def test_the_area_is_held() -> None:
    assert area_loss(corners(0.9 * torch.eye(2)), zoom=0.9).item() == pytest.approx(0, abs=1e-6)
    assert area_loss(corners(0.3 * torch.eye(2)), zoom=0.9).item() > 1.0
    wide = corners(torch.diag(torch.tensor([1.8, 0.45])))  # what counts is the size, not the shape
    assert area_loss(wide, zoom=0.9).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("mirrored", [False, True])
def test_scores_agree_where_one_is_the_other_turned(mirrored: bool) -> None:
    count, steps = 48, 7
    a = torch.from_numpy(np.random.default_rng(0).normal(size=(1, count)) * 3).float()
    alpha = torch.arange(count)
    b = a[:, (steps - alpha) % count] if mirrored else a[:, (alpha - steps) % count]

    def loss(of: Tensor, shift: float, error: float = 0.0) -> float:
        angle = torch.tensor([shift * 2 * math.pi / count])
        turn = Turn(angle=angle, mirrored=torch.tensor([mirrored]), error=torch.tensor([error]))
        return frame_agreement_loss(a, of, turn).item()

    assert loss(b, steps) < min(loss(b, shift) for shift in range(count) if shift != steps)
    assert loss(b, steps, error=1.0) == pytest.approx(loss(b, steps) / math.e, rel=1e-4)


def test_gradients_reach_both_frames() -> None:
    a, b = (corners(torch.eye(2)).requires_grad_() for _ in range(2))
    t = homography(torch.diag(torch.tensor([1.5, 1.0])))
    frame_loss(turn_between(a, b, t), turn_between(b, a, torch.linalg.inv(t))).sum().backward()
    assert a.grad is not None and b.grad is not None
    assert a.grad.abs().sum() > 0.1 and b.grad.abs().sum() > 0.1
