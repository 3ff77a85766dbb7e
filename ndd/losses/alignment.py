"""Losses for the spatial transformer. The edit that made a view is known, so its pose is known too.

Notation: a view V of a picture was made by sampling it under H_V, a homography from view to picture coordinates. The STN
predicts θ_V, a map from its canonical frame to the view; `corners` are θ_V of the frame's four corners, (B, 4, 2), in
[-1, 1]. If both views are brought into the same canonical form, corresponding corners show the same place of the picture.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "alignment_loss",
    "angle_agreement_loss",
    "angle_loss",
    "derivative_at_centre",
    "map_points",
    "pose_loss",
    "rotation_of",
    "shifted_target",
]


def map_points(homography_B33: Tensor, points_BN2: Tensor) -> Tensor:
    """Apply (B, 3, 3) homographies to (B, N, 2) points."""
    projected = torch.cat([points_BN2, torch.ones_like(points_BN2[..., :1])], dim=-1) @ homography_B33.mT
    depth = projected[..., 2:]
    depth = torch.where(depth.abs() < 1e-3, torch.full_like(depth, 1e-3).copysign(depth), depth)
    return projected[..., :2] / depth


def alignment_loss(
    corners_a_B42: Tensor, corners_b_B42: Tensor, view_to_picture_a_B33: Tensor, view_to_picture_b_B33: Tensor
) -> Tensor:
    """θ_A and θ_B must agree up to the known T = H_B⁻¹ H_A: mean Huber error, both directions, in view coordinates.

    A constant θ cannot satisfy it unless T is the identity. It is indifferent to a common zoom, which shrinks the error
    without better poses, so it is used together with `pose_loss`.
    """
    a_to_b = torch.linalg.solve(view_to_picture_b_B33, view_to_picture_a_B33)
    b_to_a = torch.linalg.solve(view_to_picture_a_B33, view_to_picture_b_B33)
    forward = F.smooth_l1_loss(corners_b_B42, map_points(a_to_b, corners_a_B42).clamp(-4, 4), beta=0.1)
    backward = F.smooth_l1_loss(corners_a_B42, map_points(b_to_a, corners_b_B42).clamp(-4, 4), beta=0.1)
    return 0.5 * (forward + backward)


def pose_loss(corners_B42: Tensor, pose_B33: Tensor) -> Tensor:
    """Mean Huber distance of the predicted corners to those of the known pose.

    pose: (B, 3, 3) canonical → view, the inverse of the edit's recoverable part (rotation, quarter turn, squash,
    perspective). What no network can see in the picture, how much was cropped and whether it was mirrored, is not asked for.
    """
    frame = corners_B42.new_tensor([[-1, -1], [1, -1], [1, 1], [-1, 1]]).expand(corners_B42.shape[0], 4, 2)
    return F.smooth_l1_loss(corners_B42, map_points(pose_B33, frame).clamp(-4, 4), beta=0.1)


def derivative_at_centre(homography_B33: Tensor) -> Tensor:
    """(B, 2, 2) how the homographies map the neighbourhood of the origin; their scale does not matter."""
    h = homography_B33 / homography_B33[:, 2:, 2:]
    return h[:, :2, :2] - h[:, :2, 2:] * h[:, 2:, :2]


def rotation_of(pose_B33: Tensor) -> Tensor:
    """Angle (B,) of the rotation nearest to a known pose, radians: that of the polar decomposition of its derivative at
    the centre."""
    derivative = derivative_at_centre(pose_B33)
    return torch.atan2(derivative[:, 1, 0] - derivative[:, 0, 1], derivative[:, 0, 0] + derivative[:, 1, 1])


def angle_loss(scores_BA: Tensor, angle_B: Tensor) -> Tensor:
    """Cross-entropy of the scored angles against the known one, which is shared by the two angles around it."""
    count = scores_BA.shape[1]
    place = (angle_B / (2 * torch.pi) * count) % count
    below = place.floor()
    share = place - below
    known = scores_BA.log_softmax(dim=1)
    first, second = below.long() % count, (below.long() + 1) % count
    rows = torch.arange(len(scores_BA), device=scores_BA.device)
    return -((1 - share) * known[rows, first] + share * known[rows, second]).mean()


def angle_agreement_loss(scores_a_BA: Tensor, scores_b_BA: Tensor, turn_B: Tensor) -> Tensor:
    """Two views of a picture must be turned back to the same angle, whichever that is: upright or not.

    turn: (B,) known angle from view a to view b, radians. Each view's scores are asked to be those of the other, shifted by
    the turn and sharpened (a target without gradient, as in self-distillation: Caron et al. 2021, arXiv:2104.14294), so
    that the highest of them wins in both. Uprightness must be learnt from what is in the pictures; this needs no such
    knowledge, only features that survive the edits.
    """
    steps = turn_B / (2 * torch.pi) * scores_a_BA.shape[1]
    there = -(shifted_target(scores_a_BA, steps) * scores_b_BA.log_softmax(dim=1)).sum(dim=1).mean()
    back = -(shifted_target(scores_b_BA, -steps) * scores_a_BA.log_softmax(dim=1)).sum(dim=1).mean()
    return 0.5 * (there + back)


@torch.no_grad()
def shifted_target(scores_BA: Tensor, steps_B: Tensor) -> Tensor:
    """Sharpened probabilities (B, A), moved up by a number of angles that need not be whole."""
    count = scores_BA.shape[1]
    probability = (scores_BA.float() / 0.5).softmax(dim=1)
    below = steps_B.floor()
    share = (steps_B - below)[:, None]
    source = (torch.arange(count, device=steps_B.device) - below.long()[:, None]) % count
    return (1 - share) * probability.gather(1, source) + share * probability.gather(1, (source - 1) % count)
