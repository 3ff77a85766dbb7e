"""Losses for frames that follow their picture: what two views of one picture must agree on, whatever is in it.

A frame is input = centre + shape · p, given by its four corners (B, 4, 2) in [-1, 1] of its view. Seen through the known T
from view a to view b, the frame of a should be that of b up to a rotation, or, where one of the views is mirrored, up to a
rotation of its mirror image: T a(p) = b(Q p) with Q = R(φ), or R(φ) F and F = diag(−1, 1).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ndd.losses.alignment import map_points, shifted_target

__all__ = ["Turn", "area_loss", "frame_agreement_loss", "frame_loss", "turn_between", "turn_to_upright"]


_FAR = 16.0
"""Frames; farther corners count as being there."""


class Turn(NamedTuple):
    """From one frame to another. angle: φ (B,) radians. mirrored: (B,) bool. error: (B,) root mean square distance of the
    corners that no rotation removes, in units of the second frame; turning either frame does not change it."""

    angle: Tensor
    mirrored: Tensor
    error: Tensor


def turn_between(corners_a_B42: Tensor, corners_b_B42: Tensor, a_to_b_B33: Tensor) -> Turn:
    """The rotation nearest to what leads from frame a, seen through T, to frame b."""
    return _turn(map_points(a_to_b_B33, corners_a_B42), corners_b_B42)


def turn_to_upright(corners_B42: Tensor, pose_B33: Tensor) -> Turn:
    """The rotation, in the frame, that makes it the known upright pose (B, 3, 3): canonical → view."""
    upright = _corners(corners_B42).expand_as(corners_B42)
    return _turn(map_points(pose_B33, upright), corners_B42)


def _turn(points_B42: Tensor, corners_B42: Tensor) -> Turn:
    frame = _corners(corners_B42)
    # The corners of a square satisfy Σ p pᵀ = 4 I, so least squares are a mean of products.
    centre, shape = corners_B42.mean(dim=1), torch.einsum("bni,nj->bij", corners_B42, frame) / 4
    # A corner near a horizon lies anywhere; nothing is learnt from one that is many frames away.
    seen = torch.linalg.solve(shape, (points_B42 - centre[:, None]).mT).mT.clamp(-_FAR, _FAR)
    linear = torch.einsum("bni,nj->bij", seen, frame) / 4
    mirrored = torch.linalg.det(linear.detach()) < 0
    flip = torch.where(mirrored, -1.0, 1.0)
    # L F for mirror images: the rotation nearest to it is φ.
    column = linear[:, :, 0] * flip[:, None]
    angle = torch.atan2(column[:, 1] - linear[:, 0, 1], column[:, 0] + linear[:, 1, 1])
    expected = _rotated(torch.stack([frame[:, 0] * flip[:, None], frame[:, 1].expand(len(flip), -1)], dim=-1), angle)
    return Turn(
        angle=angle, mirrored=mirrored, error=(seen - expected).square().sum(dim=2).mean(dim=1).add(1e-8).sqrt()
    )


def _rotated(points_BN2: Tensor, angle_B: Tensor) -> Tensor:
    cos, sin = angle_B.cos()[:, None], angle_B.sin()[:, None]
    x, y = points_BN2.unbind(dim=-1)
    return torch.stack([x * cos - y * sin, x * sin + y * cos], dim=-1)


def _corners(like: Tensor) -> Tensor:
    return like.new_tensor([[-1, -1], [1, -1], [1, 1], [-1, 1]])


def frame_loss(there: Turn, back: Turn) -> Tensor:
    """(B,) log(1 + error), both ways: a pair that shares too little to agree on must not outweigh those that can.

    In units of the frames, so that no common zoom makes it smaller; both ways, so that no larger frame on one side does.
    """
    return 0.5 * (there.error.log1p() + back.error.log1p())


def area_loss(corners_B42: Tensor, *, zoom: float) -> Tensor:
    """(B,) how far the size of each frame lies from `zoom` of the picture's: the square of its logarithm."""
    shape = torch.einsum("bni,nj->bij", corners_B42, _corners(corners_B42)) / 4
    size = 0.5 * torch.linalg.det(shape).abs().clamp_min(1e-6).log()
    loss: Tensor = (size - math.log(zoom)).square()
    return loss


def frame_agreement_loss(scores_a_BA: Tensor, scores_b_BA: Tensor, there: Turn) -> Tensor:
    """(B,) Both views must be turned to the same angle in their frames, as `angle_agreement_loss`: a to b by φ, and a mirror
    image from α to φ − α. Pairs count by exp(−error): where frames do not agree, neither can angles."""
    steps = there.angle.detach() / (2 * torch.pi) * scores_a_BA.shape[1]
    a, b = (torch.where(there.mirrored[:, None], _reversed(s), s) for s in (scores_a_BA, scores_b_BA))
    forward = -(shifted_target(a, steps) * scores_b_BA.log_softmax(dim=1)).sum(dim=1)
    backward = -(shifted_target(b, torch.where(there.mirrored, steps, -steps)) * scores_a_BA.log_softmax(dim=1)).sum(
        dim=1
    )
    return 0.5 * (forward + backward) * (-there.error.detach()).exp()


def _reversed(scores_BA: Tensor) -> Tensor:
    """Scores of −α where those of α were."""
    return scores_BA.roll(-1, dims=1).flip(1)
