"""Losses for the spatial transformer. The edit that made a view is known, so its pose is known too.

Notation: a view V of a picture was made by sampling it under H_V, a homography from view to picture coordinates. The STN
predicts θ_V, a map from its canonical frame to the view; `corners` are θ_V of the frame's four corners, (B, 4, 2), in
[-1, 1]. If both views are brought into the same canonical form, corresponding corners show the same place of the picture.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["alignment_loss", "map_points", "pose_loss"]


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
