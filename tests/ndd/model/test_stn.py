"""The spatial transformer against torchvision's warps for known parameters, and against what its sources promise.

Convention: the corners of the picture lie at ±1 (`align_corners=False`), θ maps the output frame to the input picture.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.interpolate import RBFInterpolator
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from ndd.config import StnConfig
from ndd.model.stn import (
    SpatialTransformer,
    ThinPlateSpline,
    base_grid,
    make_transform,
    sample,
    second_moments,
    turn_points,
)

KINDS = ("affine", "homography", "tps")
SIZES = [(24, 24), (20, 33), (31, 17)]
BILINEAR = InterpolationMode.BILINEAR


def picture(height: int, width: int, count: int = 1) -> Tensor:
    rough = torch.rand(count, 3, 6, 5, generator=torch.Generator().manual_seed(height), dtype=torch.float64)
    return torch.nn.functional.interpolate(rough, (height, width), mode="bicubic", align_corners=False).clamp(0, 1)


def transformer(kind: str, **settings: int) -> SpatialTransformer:
    return SpatialTransformer(StnConfig.from_dict({"kind": kind, "size": 16, "width": 4, **settings})).double()


def differences_inside(ours: Tensor, theirs: Tensor, grid_HW2: Tensor) -> Tensor:
    """Torchvision fills the outside with black, we repeat the border: compare what reads inside the picture, and enough."""
    height, width = ours.shape[-2:]
    margin = torch.tensor([1 - 1 / width, 1 - 1 / height], dtype=grid_HW2.dtype)
    inside = (grid_HW2.abs() <= margin - 1e-9).all(dim=-1)
    assert inside.float().mean() > 0.2
    return (ours - theirs).abs()[..., inside]


def affine_matrix(angle: float, translate: tuple[float, float], scale: float, shear: tuple[float, float]) -> Tensor:
    """Input → output pixels around the centre, y down, as torchvision documents it: T · rotation · shear · scale."""
    a, sx, sy = math.radians(angle), math.radians(shear[0]), math.radians(shear[1])
    rss = [
        [math.cos(a - sy) / math.cos(sy), -math.cos(a - sy) * math.tan(sx) / math.cos(sy) - math.sin(a)],
        [math.sin(a - sy) / math.cos(sy), -math.sin(a - sy) * math.tan(sx) / math.cos(sy) + math.cos(a)],
    ]
    rows = [[scale * row[0], scale * row[1], t] for row, t in zip(rss, translate, strict=True)]
    return torch.tensor([*rows, [0, 0, 1]], dtype=torch.float64)


@pytest.mark.parametrize("kind", ["affine", "homography"])
@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize(
    ("angle", "translate", "scale", "shear"),
    [
        (0.0, (0, 0), 1.0, (0.0, 0.0)),
        (30.0, (0, 0), 1.0, (0.0, 0.0)),
        (-75.0, (3, -2), 0.8, (0.0, 0.0)),
        (90.0, (0, 0), 1.0, (0.0, 0.0)),
        (180.0, (0, 0), 1.0, (0.0, 0.0)),
        (12.0, (-2, 4), 1.4, (10.0, -5.0)),
    ],
)
def test_affine_as_torchvision(
    height: int,
    width: int,
    angle: float,
    translate: tuple[int, int],
    scale: float,
    shear: tuple[float, float],
    kind: str,
) -> None:
    x = picture(height, width)
    theirs = tv.affine(x, angle, list(translate), scale, list(shear), interpolation=BILINEAR)
    to_pixels = torch.diag(torch.tensor([width / 2, height / 2, 1], dtype=torch.float64))
    output_to_input = torch.linalg.inv(affine_matrix(angle, translate, scale, shear))
    theta = torch.linalg.inv(to_pixels) @ output_to_input @ to_pixels - torch.eye(3)
    stn = transformer(kind)
    flat = theta.flatten()[None, : stn.transform.parameters_needed]
    grid = stn.transform(flat, height, width)[0]
    assert differences_inside(stn.warp(x, flat), theirs, grid).max() < 1e-9


def homography(source: list[list[int]], target: list[list[int]]) -> Tensor:
    """The 3 × 3 matrix that takes four points to four points."""
    rows, right = [], []
    for (x, y), (u, v) in zip(source, target, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        right += [u, v]
    solved = np.linalg.solve(np.array(rows, float), np.array(right, float))
    return torch.tensor([*solved, 1.0], dtype=torch.float64).reshape(3, 3)


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("seed", range(4))
def test_homography_as_torchvision(height: int, width: int, seed: int) -> None:
    x = picture(height, width)
    rng = np.random.default_rng(seed)
    start = [[0, 0], [width, 0], [width, height], [0, height]]
    end = [[int(px + rng.integers(-5, 6)), int(py + rng.integers(-5, 6))] for px, py in start]
    theirs = tv.perspective(x, start, end, interpolation=BILINEAR)
    normalise = torch.tensor([[2 / width, 0, -1], [0, 2 / height, -1], [0, 0, 1]], dtype=torch.float64)
    output_to_input = normalise @ homography(end, start) @ torch.linalg.inv(normalise)
    theta = (output_to_input / output_to_input[2, 2] - torch.eye(3)).flatten()[None, :8]
    stn = transformer("homography")
    grid = stn.transform(theta, height, width)[0]
    # Torchvision solves for its coefficients in single precision.
    assert differences_inside(stn.warp(x, theta), theirs, grid).max() < 1e-4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_starts_as_the_identity(kind: str, height: int, width: int) -> None:
    x = picture(height, width, count=2)
    stn = transformer(kind)
    warped, (theta, angle, scores, _) = stn(x)
    assert not angle.any()
    assert scores.shape == (2, 0)
    assert not theta.any()
    assert torch.allclose(warped, x, atol=1e-5)
    frame = torch.tensor([[-1, -1], [1, -1], [1, 1], [-1, 1]], dtype=torch.float64)
    assert torch.allclose(stn.corners(theta), frame.expand(2, 4, 2), atol=1e-5)


def test_pixel_centres_and_border() -> None:
    assert base_grid(2, 4, like=torch.zeros(1)).tolist() == [
        [[-0.75, -0.5], [-0.25, -0.5], [0.25, -0.5], [0.75, -0.5]],
        [[-0.75, 0.5], [-0.25, 0.5], [0.25, 0.5], [0.75, 0.5]],
    ]
    ramp = torch.tensor([[[[1.0, 2.0, 3.0, 4.0]]]])
    outside = torch.tensor([[[[-5.0, 0.0], [-1.0, 0.0], [0.0, 0.0], [1.0, 0.0], [9.0, 0.0]]]])
    assert sample(ramp, outside).flatten().tolist() == [1.0, 1.0, 2.5, 4.0, 4.0]


def test_theta_maps_the_output_to_the_input() -> None:
    """A frame half as wide, around the centre, shows the middle of the picture twice as large."""
    stn = transformer("affine")
    zoom = torch.tensor([[-0.5, 0, 0, 0, -0.5, 0]], dtype=torch.float64)
    x = picture(16, 16)
    middle = torch.nn.functional.interpolate(x[..., 4:12, 4:12], scale_factor=2, mode="bilinear", align_corners=False)
    assert torch.allclose(stn.warp(x, zoom)[..., 1:-1, 1:-1], middle[..., 1:-1, 1:-1], atol=1e-12)


@pytest.mark.parametrize("control", [2, 3, 5])
def test_spline_reproduces_affine_maps_and_hits_its_targets(control: int) -> None:
    spline = ThinPlateSpline(control).double()
    generator = torch.Generator().manual_seed(control)
    points = torch.rand(1, 200, 2, generator=generator, dtype=torch.float64) * 3 - 1.5
    matrix = torch.tensor([[0.9, -0.4], [0.3, 1.2]], dtype=torch.float64)
    shift = torch.tensor([0.2, -0.1], dtype=torch.float64)
    targets = spline.controls_K2 @ matrix.T + shift
    mapped = spline.map((targets - spline.controls_K2).reshape(1, -1), points)
    assert torch.allclose(mapped, points @ matrix.T + shift, atol=2e-6)
    offsets = 0.3 * torch.randn(1, 2 * control**2, generator=generator, dtype=torch.float64)
    moved = spline.map(offsets, spline.controls_K2[None])
    assert torch.allclose(moved, spline.controls_K2 + offsets.reshape(1, -1, 2), atol=2e-6)


def test_spline_bends_as_scipys_does() -> None:
    spline = ThinPlateSpline(4).double()
    generator = torch.Generator().manual_seed(7)
    offsets = 0.2 * torch.randn(1, 32, generator=generator, dtype=torch.float64)
    points = torch.rand(1, 300, 2, generator=generator, dtype=torch.float64) * 2 - 1
    controls = spline.controls_K2.numpy()
    targets = controls + offsets.reshape(-1, 2).numpy()
    theirs = RBFInterpolator(controls, targets, kernel="thin_plate_spline", degree=1)(points[0].numpy())
    np.testing.assert_allclose(spline.map(offsets, points)[0].numpy(), theirs, atol=5e-6)


def test_a_horizon_inside_the_picture_stays_finite() -> None:
    transform = make_transform(StnConfig(kind="homography"))
    theta = torch.tensor([[0.0, 0, 0, 0, 0, 0, 2.0, 0]])  # depth 1 + 2x is zero at x = -1/2
    grid = transform(theta, 9, 8)
    assert torch.isfinite(grid).all()


@pytest.mark.parametrize("kind", KINDS)
def test_gradients(kind: str) -> None:
    stn = transformer(kind, control=3)
    generator = torch.Generator().manual_seed(0)
    x = picture(7, 6, count=2).requires_grad_()
    shape = (2, stn.transform.parameters_needed)
    theta = (0.07 * torch.randn(shape, generator=generator, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(stn.warp, (x, theta))
    assert torch.autograd.gradcheck(stn.corners, (theta,))


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_does_not_move_the_grid(kind: str) -> None:
    stn = transformer(kind).float()
    theta = 0.05 * torch.randn(1, stn.transform.parameters_needed, generator=torch.Generator().manual_seed(0))
    x = picture(64, 64).float()
    with torch.autocast("cpu", torch.bfloat16):
        warped = stn.warp(x, theta)
    assert torch.equal(warped, stn.warp(x, theta))


def test_none_has_no_transform() -> None:
    with pytest.raises(ValueError, match="none"):
        make_transform(StnConfig(kind="none"))


@pytest.mark.parametrize("kind", KINDS)
def test_learns_to_undo_a_shift(kind: str) -> None:
    """The whole transformer, its localization network included, has gradients that lead somewhere."""
    torch.manual_seed(0)
    stn = SpatialTransformer(StnConfig.from_dict({"kind": kind, "size": 16, "width": 4, "control": 2}))
    x = picture(16, 16, count=8).float()
    target = torch.roll(x, 2, dims=3)
    optimizer = torch.optim.Adam(stn.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        loss = (stn(x)[0] - target)[..., 3:-3].square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def polar(kind: str) -> SpatialTransformer:
    """A polar localization network with weights that are not the identity's, in double precision."""
    torch.manual_seed(3)
    settings = {"kind": kind, "size": 32, "width": 4, "control": 3, "localization": "polar", "angles": 24}
    stn = SpatialTransformer(StnConfig.from_dict(settings))
    torch.nn.init.normal_(stn.localization.theta.weight, std=0.02)
    torch.nn.init.normal_(stn.localization.theta.bias, std=0.02)
    return stn.double().eval()


def degrees(angle: Tensor) -> Tensor:
    return torch.rad2deg(angle) % 360


def apart(a: Tensor, b: Tensor) -> Tensor:
    """Difference of angles in degrees, in 0…180."""
    return 180 - ((a - b) % 360 - 180).abs()


@pytest.mark.parametrize("turn", [0, 1, 2, 3])
def test_turned_points_are_where_rot90_takes_their_pixels(turn: int) -> None:
    x = picture(4, 4)
    turned = torch.rot90(x, turn, (2, 3))
    centres = base_grid(4, 4, like=x).reshape(1, 16, 2)
    angle = torch.tensor([turn * math.pi / 2], dtype=torch.float64)
    assert torch.allclose(sample(x, turn_points(centres, angle).view(1, 4, 4, 2)), turned, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_a_quarter_turn_is_undone_whatever_the_weights(kind: str) -> None:
    stn = polar(kind)
    x = picture(32, 32, count=6)
    upright, pose = stn(x)
    assert apart(degrees(pose.angle)[1:], degrees(pose.angle)[:1]).max() > 20, "else this says nothing"
    for turn in range(1, 4):
        again, turned = stn(torch.rot90(x, turn, (2, 3)))
        assert apart(degrees(turned.angle) + 90 * turn, degrees(pose.angle)).max() < 1e-6
        assert torch.allclose(again, upright, atol=1e-6)
    assert not torch.allclose(upright, x, atol=0.1)


@torch.no_grad()
def test_any_rotation_is_followed_whatever_the_weights() -> None:
    """Between the scored angles (every 15 degrees here) and through resampling the answer follows for most pictures."""
    stn = polar("affine")
    x = picture(64, 64, count=32)
    before = degrees(stn.predict(x).angle)
    for degree in (10.0, 37.0, -63.0):
        angle = torch.full((32,), math.radians(degree), dtype=torch.float64)
        grid = turn_points(base_grid(64, 64, like=x).reshape(1, -1, 2).expand(32, -1, -1), angle).view(32, 64, 64, 2)
        after = degrees(stn.predict(sample(x, grid)).angle)
        # By chance 16 of 360 degrees would do: .04.
        assert (apart(after + degree, before) < 8).double().mean() > 0.4


@torch.no_grad()
def test_corners_follow_the_angle() -> None:
    stn = polar("affine")
    x = picture(32, 32)
    warped, pose = stn(x)
    corners = stn.corners(pose.theta, pose.angle)
    cos, sin = float(pose.angle.cos()), float(pose.angle.sin())
    by_hand = [[cos * u - sin * v, sin * u + cos * v] for u, v in stn.corners(pose.theta)[0].tolist()]
    assert torch.allclose(corners[0], torch.tensor(by_hand, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(warped, stn.warp(x, pose.theta, pose.angle), atol=1e-12)


@torch.no_grad()
def test_second_moments_tell_a_squash() -> None:
    """A picture of waves, the same in both directions: a squash by s multiplies the gradients along x by s, their squares
    by s², so the log ratio of x to y moves by 2 log s (Lindeberg & Gårding 1997, eq. 14)."""
    at = base_grid(64, 64, like=torch.zeros(1, dtype=torch.float64))

    def waves(stretch: float) -> Tensor:
        return (0.5 + 0.2 * torch.sin(9 * stretch * at[..., 0]) * torch.sin(9 * at[..., 1]))[None, None]

    window = polar("affine").localization.window
    window = torch.nn.functional.interpolate(window[:, None], (64, 64))[:, 0]
    before, after = second_moments(waves(1.0), window), second_moments(waves(1.25), window)
    assert before[0, len(window)].item() == pytest.approx(0.0, abs=1e-9)
    assert after[0, len(window)].item() == pytest.approx(2 * math.log(1.25), abs=0.08)


@torch.no_grad()
def test_brightness_and_contrast_do_not_turn_a_picture() -> None:
    stn = polar("affine")
    x = picture(32, 32, count=6) * 0.5 + 0.2
    before = degrees(stn.predict(x).angle)
    assert apart(degrees(stn.predict(0.7 * x + 0.1).angle), before).max() < 10


def test_points_are_turned_in_single_precision_under_autocast() -> None:
    points, angle = (
        base_grid(8, 8, like=torch.zeros(1)).reshape(1, 64, 2).expand(3, -1, -1),
        torch.tensor([0.3, 2.0, -1.0]),
    )
    expected = turn_points(points, angle)
    with torch.autocast("cpu", torch.bfloat16):
        found = turn_points(points, angle)
        half = turn_points(points.bfloat16(), angle)
    assert found.dtype == half.dtype == torch.float32
    assert torch.equal(found, expected)


def test_a_prior_of_angles_leaves_what_shows_no_direction_as_it_is() -> None:
    """Without it the highest of scores that say next to nothing wins; with it they have to outweigh what is usual."""
    x = torch.full((6, 3, 32, 32), 0.5) + 1e-3 * torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    settings = {"size": 32, "width": 4, "localization": "polar", "angles": 24}
    torch.manual_seed(1)
    plain = SpatialTransformer(StnConfig.from_dict(settings)).eval()
    prior = SpatialTransformer(StnConfig.from_dict({**settings, "prior": True})).eval()
    missing, unexpected = prior.load_state_dict(plain.state_dict(), strict=False)
    assert missing == ["localization.prior"] and not unexpected
    before, after = plain.predict(x), prior.predict(x)
    assert torch.equal(before.scores, after.scores), "what is seen is the same"
    assert torch.equal(before.expected, before.scores)
    assert (before.angle.abs() > 0.3).any()
    assert after.angle.abs().max() < 0.3, "about one step of 15 degrees"
    with torch.no_grad():
        prior.localization.prior.mul_(0.0)
    assert torch.equal(prior.predict(x).angle, before.angle)
