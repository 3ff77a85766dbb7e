"""The STN's losses: zero exactly where the poses are right, and blind to what no picture shows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ndd.data.edits import EditConfig, draw_edits
from ndd.losses import alignment_loss, pose_loss
from ndd.losses.alignment import map_points

FRAME = torch.tensor([[-1.0, -1], [1, -1], [1, 1], [-1, 1]])


def corners_of(pose_B33: torch.Tensor) -> torch.Tensor:
    return map_points(pose_B33, FRAME.to(pose_B33).expand(len(pose_B33), 4, 2))


def huber_in_python(difference: float, beta: float = 0.1) -> float:
    return 0.5 * difference**2 / beta if abs(difference) < beta else abs(difference) - 0.5 * beta


def test_pose_loss_is_the_huber_distance_of_corners() -> None:
    pose = torch.eye(3).expand(2, 3, 3).clone()
    pose[1, 0, 2] = 0.25  # the canonical frame lies a quarter to the right in the second view
    corners = FRAME.expand(2, 4, 2) + torch.tensor([[[0.05, 0.0]], [[0.0, 0.0]]])
    expected = (4 * huber_in_python(0.05) + 4 * huber_in_python(0.25)) / 16
    assert pose_loss(corners, pose).item() == pytest.approx(expected, rel=1e-6)


def test_map_points_divides_by_the_depth() -> None:
    homography = torch.tensor([[[1.0, 0, 0.5], [0, 2, 0], [0.5, 0, 1]]])
    assert map_points(homography, torch.tensor([[[1.0, 0.5]]])).tolist() == [[[1.0, pytest.approx(2 / 3)]]]


def test_known_poses_of_turns_agree_with_each_other() -> None:
    """Two views that were only turned: their known poses bring both to the same frame, so nothing is left to align."""
    turned = EditConfig(
        min_area=1.0, squash=1.0, perspective=0.0, pad=0.0, mirror=0.0, rotate=1.0, rotation=30.0, quarter=0.5
    )
    views = draw_edits(np.random.default_rng(0), np.ones(64), turned)
    to_picture, pose = torch.from_numpy(views.view_to_picture), torch.from_numpy(views.pose)
    # A rotation shrinks the picture to fit its frame in most views; the pose is told without that zoom.
    zoom = to_picture[:, :2, :2].det().sqrt()[:, None, None]
    exact = torch.linalg.inv(to_picture)
    assert torch.allclose(pose[:, :2, :2], (exact * zoom)[:, :2, :2], atol=1e-5)
    a, b = slice(0, 32), slice(32, 64)
    assert alignment_loss(corners_of(exact[a]), corners_of(exact[b]), to_picture[a], to_picture[b]).item() < 1e-9
    still = FRAME.expand(32, 4, 2)
    assert alignment_loss(still, still, to_picture[a], to_picture[b]).item() > 0.05


def test_alignment_is_symmetric() -> None:
    views = draw_edits(np.random.default_rng(1), np.ones(16), EditConfig())
    h = torch.from_numpy(views.view_to_picture)
    a = FRAME + 0.1 * torch.randn(8, 4, 2, generator=torch.Generator().manual_seed(0))
    b = FRAME + 0.1 * torch.randn(8, 4, 2, generator=torch.Generator().manual_seed(1))
    there, back = alignment_loss(a, b, h[:8], h[8:]), alignment_loss(b, a, h[8:], h[:8])
    assert there.item() == pytest.approx(back.item(), rel=1e-6)


def test_gradients() -> None:
    views = draw_edits(np.random.default_rng(2), np.ones(4), EditConfig())
    h, pose = torch.from_numpy(views.view_to_picture).double(), torch.from_numpy(views.pose).double()
    a = FRAME.double() + 0.05 * torch.randn(2, 4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    b = a.clone() * 0.9
    inputs = (a.requires_grad_(), b.requires_grad_())
    assert torch.autograd.gradcheck(lambda x, y: alignment_loss(x, y, h[:2], h[2:]), inputs)
    assert torch.autograd.gradcheck(lambda x: pose_loss(x, pose[:2]), (a,))
