"""The STN's losses: zero exactly where the poses are right, and blind to what no picture shows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ndd.data.edits import EditConfig, draw_edits
from ndd.losses import alignment_loss, angle_agreement_loss, angle_loss, pose_loss, rotation_of
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


def rotations(degrees: list[float]) -> torch.Tensor:
    angle = torch.deg2rad(torch.tensor(degrees))
    pose = torch.zeros(len(angle), 3, 3)
    pose[:, 0, 0] = pose[:, 1, 1] = angle.cos()
    pose[:, 1, 0], pose[:, 0, 1], pose[:, 2, 2] = angle.sin(), -angle.sin(), 1
    return pose


def test_rotation_of_a_known_pose() -> None:
    degrees = [0.0, 44, 90, 134, -44, -100]
    squash = torch.diag(torch.tensor([1.3, 0.8, 1.0]))
    for pose in (rotations(degrees), 2.0 * rotations(degrees), rotations(degrees) @ squash):
        assert torch.rad2deg(rotation_of(pose)).tolist() == pytest.approx(degrees, abs=1e-3)


def test_rotation_of_an_edit_undoes_its_quarter_turn() -> None:
    """Also of mirrored views: the picture is turned, then mirrored, and stays mirrored in its canonical frame."""
    only_quarters = EditConfig(
        min_area=1.0, squash=1.0, perspective=0.0, pad=0.0, mirror=0.5, rotate=0.0, quarter=1.0, overlay=0.0, colour=0.0,
        grey=0.0, blur=0.0, noise=0.0, jpeg=0.0,
    )  # fmt: skip
    drawn = draw_edits(np.random.default_rng(5), np.ones(24), only_quarters)
    angle = torch.rad2deg(rotation_of(torch.from_numpy(drawn.pose))) % 360
    assert sorted({round(a) for a in angle.tolist()}) == [90, 180, 270]
    upright = corners_of(torch.from_numpy(drawn.pose))
    for corners, degree in zip(upright, angle.tolist(), strict=True):
        assert torch.allclose(corners, FRAME.roll(-round(degree / 90), dims=0), atol=1e-5)


def test_angle_loss_is_the_cross_entropy_of_the_two_angles_around() -> None:
    scores = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    known = torch.deg2rad(torch.tensor([100.0, -9.0]))  # between 90 and 135; between 315 and 360 = 0
    log = scores.log_softmax(dim=1)
    first = (35 * log[0, 2] + 10 * log[0, 3]) / 45
    second = (9 * log[1, 7] + 36 * log[1, 0]) / 45
    assert angle_loss(scores, known).item() == pytest.approx(-float(first + second) / 2, rel=1e-5)


def test_angle_agreement_is_least_for_scores_that_are_shifted_by_the_turn() -> None:
    a = torch.full((1, 12), 0.0)
    a[0, 4] = 20.0
    turn = torch.deg2rad(torch.tensor([90.0]))  # three of twelve angles
    losses = [angle_agreement_loss(a, a.roll(shift, dims=1), turn).item() for shift in range(12)]
    assert min(range(12), key=losses.__getitem__) == 3
    assert losses[3] == pytest.approx(0.0, abs=1e-4)
    assert sorted(losses)[1] > 5


def test_angle_agreement_between_two_angles_shares_the_target() -> None:
    a, b = torch.randn(1, 8, generator=torch.Generator().manual_seed(1)), torch.randn(1, 8)
    turn = torch.deg2rad(torch.tensor([45.0 * 2.25]))
    mixed = 0.75 * torch.softmax(2 * a, 1).roll(2, 1) + 0.25 * torch.softmax(2 * a, 1).roll(3, 1)
    back = 0.25 * torch.softmax(2 * b, 1).roll(-3, 1) + 0.75 * torch.softmax(2 * b, 1).roll(-2, 1)
    expected = -(mixed * b.log_softmax(1)).sum() / 2 - (back * a.log_softmax(1)).sum() / 2
    assert angle_agreement_loss(a, b, turn).item() == pytest.approx(expected.item(), rel=1e-5)


def test_uniform_scores_are_no_way_out_of_the_agreement() -> None:
    """An equivariant network could agree by scoring all angles alike; a peak that agrees must be better."""
    flat, peak = torch.zeros(1, 12), torch.zeros(1, 12)
    peak[0, 0] = 20.0
    nothing = torch.zeros(1)
    assert angle_agreement_loss(peak, peak, nothing) < angle_agreement_loss(flat, flat, nothing)
