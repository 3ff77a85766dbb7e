"""Spatial Transformer Network: localization network → grid generator → sampler.

Source: Jaderberg, Simonyan, Zisserman, Kavukcuoglu, "Spatial Transformer Networks", NIPS 2015 (arXiv:1506.02025), eq. 1
(affine grid) and eq. 5 (bilinear sampler). Thin-plate splines: Bookstein 1989; used in an STN by Shi et al. 2016.

Shapes: B pictures, C channels, H × W pixels, K control points. Coordinates are (x, y) in [-1, 1] with the corners of the
picture, not the centres of its corner pixels, at ±1 (`align_corners=False`).

Direction: θ maps coordinates of the OUTPUT (canonical) frame to coordinates of the INPUT picture, as the sampler needs it.

A regression from pixels to θ learns poses slowly and stays near the identity: it has to see every picture at every angle.
The `polar` localization network turns that round. It looks at the picture in polar coordinates, where a rotation of the
picture is a shift along one axis, and convolves circularly along it: whatever its weights are, turning the picture by some
angle turns its answer by the same angle (Esteves et al., "Polar Transformer Networks", ICLR 2018; the idea of equivariance
by construction is that of Cohen & Welling, "Group Equivariant Convolutional Networks", ICML 2016). What is left after the
rotation (squash, shear, perspective) is read from the second moments of the gradients, which a squash changes in a known
way (affine shape adaptation: Lindeberg & Gårding 1997; Baumberg, CVPR 2000).

The `moments` localization network goes on from there: frames that follow every affine edit by construction, and the rotation
found in them (`ndd.model.moments`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ndd.config import StnConfig
from ndd.model.grid import base_grid, sample
from ndd.model.moments import MomentLocalizationNet
from ndd.model.rings import RingScorer, disk_points, peak

__all__ = [
    "AffineTransform",
    "HomographyTransform",
    "LocalizationNet",
    "MomentLocalizationNet",
    "PolarLocalizationNet",
    "Pose",
    "SpatialTransformer",
    "ThinPlateSpline",
    "Transform",
    "base_grid",
    "make_transform",
    "sample",
    "second_moments",
    "turn_points",
]


class Transform(nn.Module, ABC):
    """Grid generator of one family of transforms: `parameters_needed` numbers → where each output point reads the input."""

    parameters_needed: int

    @abstractmethod
    def map(self, theta_BP: Tensor, points_BN2: Tensor) -> Tensor:
        """Map (B, N, 2) points of the output frame to the input frame; all-zero `theta` is the identity."""

    def forward(self, theta_BP: Tensor, height: int, width: int) -> Tensor:
        """Sampling grid (B, H, W, 2)."""
        batch = theta_BP.shape[0]
        points = base_grid(height, width, like=theta_BP).reshape(1, height * width, 2).expand(batch, -1, -1)
        return self.map(theta_BP, points).reshape(batch, height, width, 2)


class AffineTransform(Transform):
    """Six numbers, offsets from the identity: [[1+a, b, c], [d, 1+e, f]] (eq. 1)."""

    parameters_needed = 6

    def matrix(self, theta_BP: Tensor) -> Tensor:
        """(B, 2, 3) affine matrices."""
        identity = theta_BP.new_tensor([1, 0, 0, 0, 1, 0])
        return (identity + theta_BP).reshape(-1, 2, 3)

    def map(self, theta_BP: Tensor, points_BN2: Tensor) -> Tensor:
        matrix = self.matrix(theta_BP)
        return points_BN2 @ matrix[:, :, :2].transpose(1, 2) + matrix[:, None, :, 2]


class HomographyTransform(Transform):
    """Eight numbers, offsets from the identity; the last entry of the 3 × 3 matrix is fixed to 1."""

    parameters_needed = 8

    def matrix(self, theta_BP: Tensor) -> Tensor:
        """(B, 3, 3) homographies."""
        identity = theta_BP.new_tensor([1, 0, 0, 0, 1, 0, 0, 0])
        last = torch.ones_like(theta_BP[:, :1])
        return torch.cat([identity + theta_BP, last], dim=1).reshape(-1, 3, 3)

    def map(self, theta_BP: Tensor, points_BN2: Tensor) -> Tensor:
        homogeneous = torch.cat([points_BN2, torch.ones_like(points_BN2[..., :1])], dim=-1)
        projected = homogeneous @ self.matrix(theta_BP).transpose(1, 2)
        # A network may predict a horizon inside the picture; keep the division finite and the sign with it.
        depth = projected[..., 2:]
        depth = torch.where(depth < 0, depth.clamp(max=-1e-3), depth.clamp(min=1e-3))
        return projected[..., :2] / depth


class ThinPlateSpline(Transform):
    """A smooth warp that moves `control` × `control` points by the predicted offsets (Bookstein 1989).

    theta: (B, 2 K) offsets of the control points, x first then y for each.
    """

    kernel_inverse_KK: Tensor
    controls_K2: Tensor

    def __init__(self, control: int) -> None:
        super().__init__()
        side = torch.linspace(-1, 1, control, dtype=torch.float64)
        controls = torch.stack(torch.meshgrid(side, side, indexing="xy"), dim=-1).reshape(-1, 2)
        count = controls.shape[0]
        affine = torch.cat([torch.ones(count, 1, dtype=torch.float64), controls], dim=1)
        system = torch.zeros(count + 3, count + 3, dtype=torch.float64)
        system[:count, :count] = _radial(torch.cdist(controls, controls))
        system[:count, count:] = affine
        system[count:, :count] = affine.T
        self.parameters_needed = 2 * count
        # The system depends on the control points alone: solve it once, in double precision.
        self.register_buffer("kernel_inverse_KK", torch.linalg.inv(system)[:, :count].float(), persistent=False)
        self.register_buffer("controls_K2", controls.float(), persistent=False)

    def map(self, theta_BP: Tensor, points_BN2: Tensor) -> Tensor:
        targets = self.controls_K2 + theta_BP.reshape(theta_BP.shape[0], -1, 2)
        weights = self.kernel_inverse_KK @ targets
        radial = _radial(torch.cdist(points_BN2, self.controls_K2.expand(points_BN2.shape[0], -1, -1)))
        basis = torch.cat([radial, torch.ones_like(points_BN2[..., :1]), points_BN2], dim=-1)
        return basis @ weights


def _radial(distance: Tensor) -> Tensor:
    """U(r) = r² log r², with U(0) = 0."""
    square = distance.square()
    return square * torch.log(square.clamp_min(1e-12))


def make_transform(config: StnConfig) -> Transform:
    """The grid generator of `config.kind`; ValueError for `none`, which has no transform."""
    if config.kind == "affine":
        return AffineTransform()
    if config.kind == "homography":
        return HomographyTransform()
    if config.kind == "tps":
        return ThinPlateSpline(config.control)
    raise ValueError(f"stn.kind {config.kind!r} has no transform; choose affine, homography or tps")


class Pose(NamedTuple):
    """Poses of B pictures. theta: (B, P) offsets from the identity, in the picture turned back by angle (B,), radians.
    scores: (B, A) of that many angles, A = 0 where none are scored; expected: with the prior of angles, if there is one."""

    theta: Tensor
    angle: Tensor
    scores: Tensor
    expected: Tensor


def turn_points(points_BN2: Tensor, angle_B: Tensor) -> Tensor:
    """Rotate points by an angle each: (x, y) → (x cos − y sin, x sin + y cos); 90° takes (1, 0) to (0, 1)."""
    # A product of matrices: apart and together again, x and y cost OpenVINO a tenth of the whole network's time. And never
    # in half precision, which autocast would take for it.
    with torch.autocast(points_BN2.device.type, enabled=False):
        kind = torch.promote_types(_single(points_BN2).dtype, _single(angle_B).dtype)
        cos, sin = angle_B.to(kind).cos(), angle_B.to(kind).sin()
        return points_BN2.to(kind) @ torch.stack([cos, sin, -sin, cos], dim=-1).reshape(-1, 2, 2)


class LocalizationNet(nn.Module):
    """The localization network of the paper: a small CNN that predicts θ. It scores no angles.

    The last layer starts at zero, so the transformer starts at the identity (arXiv:1506.02025, §3.1). The map is
    flattened, not pooled: where things are is what the pose is read from.
    """

    def __init__(self, outputs: int, *, size: int, width: int) -> None:
        super().__init__()
        channels = [3, width, 2 * width, 4 * width, 4 * width]
        layers: list[nn.Module] = []
        for inside, outside in pairwise(channels):
            layers += [
                nn.Conv2d(inside, outside, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(outside),
                nn.ReLU(inplace=True),
            ]
        self.features = nn.Sequential(*layers)
        side = size
        for _ in channels[1:]:
            side = (side + 1) // 2
        self.hidden = nn.Linear(channels[-1] * side * side, 128)
        self.theta = nn.Linear(128, outputs)
        nn.init.zeros_(self.theta.weight)
        nn.init.zeros_(self.theta.bias)

    def forward(self, small_B3SS: Tensor) -> Tensor:
        """Pictures of `size` × `size` pixels in [0, 1] → θ (B, outputs)."""
        features = self.features((small_B3SS - 0.5) / 0.25)
        theta: Tensor = self.theta(F.relu(self.hidden(features.flatten(1))))
        return theta

    def angles(self, small_B3SS: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """No angle, no scores."""
        none = small_B3SS.new_zeros(len(small_B3SS), 0)
        return small_B3SS.new_zeros(len(small_B3SS)), none, none


class PolarLocalizationNet(RingScorer):
    """Scores A angles equivariantly, then predicts θ of the picture turned back by the best of them (see the module).

    Only the disk inscribed in the picture is read: what lies outside it changes with the rotation.
    """

    grid: Tensor
    window: Tensor

    def __init__(
        self, outputs: int, *, size: int, width: int, angles: int, prior: bool = False, trust: float = 1.0
    ) -> None:
        super().__init__(width=width, angles=angles, prior=prior, trust=trust)
        self.register_buffer("grid", disk_points(angles), persistent=False)
        self.register_buffer("window", _windows(size), persistent=False)
        self.hidden = nn.Linear(2 * 3 * len(self.window), 64)
        self.theta = nn.Linear(64, outputs)
        nn.init.zeros_(self.theta.weight)
        nn.init.zeros_(self.theta.bias)

    def angles(self, small_B3SS: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Angle, scores and what the angle follows from, as `RingScorer.score`."""
        return self.score(small_B3SS, self.grid.expand(len(small_B3SS), -1, -1, -1))

    def forward(self, small_B3SS: Tensor) -> Tensor:
        """Upright pictures of `size` × `size` pixels in [0, 1] → θ (B, outputs)."""
        grey = small_B3SS.mean(dim=1, keepdim=True)
        moments = [second_moments(grey, self.window), second_moments(F.avg_pool2d(grey, 2), self.window[:, ::2, ::2])]
        theta: Tensor = self.theta(torch.tanh(self.hidden(torch.cat(moments, dim=1))))
        return theta


def _windows(size: int) -> Tensor:
    """The disk and its nine cells as weights (10, size, size) that sum to one each."""
    at = (torch.arange(size) * 2 + 1) / size - 1
    y, x = torch.meshgrid(at, at, indexing="ij")
    disk = torch.exp(-((x.square() + y.square()) / 0.8).pow(4))
    cells = [disk]
    for cy in (-0.5, 0.0, 0.5):
        for cx in (-0.5, 0.0, 0.5):
            cells.append(disk * torch.exp(-((x - cx).square() + (y - cy).square()) / (2 * 0.3**2)))
    return torch.stack([cell / cell.sum() for cell in cells])


def second_moments(grey_B1SS: Tensor, window_WSS: Tensor) -> Tensor:
    """(B, 3 W): log energy of a window relative to the disk's, log ratio of x to y gradients, their correlation."""
    window = window_WSS / window_WSS.sum(dim=(1, 2), keepdim=True)
    gx = F.pad(grey_B1SS[..., :, 2:] - grey_B1SS[..., :, :-2], (1, 1, 0, 0))[:, 0]
    gy = F.pad(grey_B1SS[..., 2:, :] - grey_B1SS[..., :-2, :], (0, 0, 1, 1))[:, 0]
    products = torch.stack([gx * gx, gy * gy, gx * gy], dim=1)
    xx, yy, xy = torch.einsum("bcij,wij->cbw", products, window)
    floor = 1e-4
    energy = (xx + yy + floor).log()
    ratio = (xx + floor).log() - (yy + floor).log()
    correlation = xy / ((xx + floor) * (yy + floor)).sqrt()
    return torch.cat([energy - energy[:, :1], ratio, 2 * correlation], dim=1)


class SpatialTransformer(nn.Module):
    """Localization network, grid generator and sampler in one: picture → picture in its canonical pose."""

    def __init__(self, config: StnConfig) -> None:
        super().__init__()
        self.size = config.size
        self.second = config.second
        self.transform = make_transform(config)
        outputs = self.transform.parameters_needed
        self.localization: LocalizationNet | PolarLocalizationNet | MomentLocalizationNet
        if config.localization == "moments":
            self.localization = MomentLocalizationNet(
                size=config.size,
                width=config.width,
                angles=config.angles,
                zoom=config.zoom,
                prior=config.prior,
                trust=config.trust,
                apart=config.second > 0,
            )
        elif config.localization == "polar":
            self.localization = PolarLocalizationNet(
                outputs,
                size=config.size,
                width=config.width,
                angles=config.angles,
                prior=config.prior,
                trust=config.trust,
            )
        else:
            self.localization = LocalizationNet(outputs, size=config.size, width=config.width)

    def shrink(self, x_BCHW: Tensor) -> Tensor:
        """What the localization network looks at: (B, C, size, size)."""
        side = (self.size, self.size)
        return F.interpolate(x_BCHW, size=side, mode="bilinear", antialias=True, align_corners=False)

    def predict(self, x_BCHW: Tensor) -> Pose:
        """The pose of each picture."""
        small = self.shrink(x_BCHW)
        if isinstance(self.localization, MomentLocalizationNet):
            return self._in_frame(self.localization, small)
        angle, scores, expected = self.localization.angles(small)
        theta = self.predict_theta(small, angle)
        return Pose(theta=theta, angle=_single(angle), scores=_single(scores), expected=_single(expected))

    @staticmethod
    def _in_frame(localization: MomentLocalizationNet, small_B3SS: Tensor) -> Pose:
        """θ of the picture turned back is what the frame is after that: R(−a) shape R(a), R(−a) centre."""
        centre, shape = localization.frame(small_B3SS)
        angle, scores, expected = (_single(x) for x in localization.angles_in(small_B3SS, centre, shape))
        theta = _turned(_offsets(shape, centre), -angle)
        return Pose(theta=theta, angle=angle, scores=scores, expected=expected)

    @property
    def has_frames(self) -> bool:
        """Does the localization network find frames that follow the picture (`moments`)?"""
        return isinstance(self.localization, MomentLocalizationNet)

    @staticmethod
    def frames(pose: Pose) -> Pose:
        """The same poses with the angle 0, and θ the frames as they are before any rotation: what their losses are told of."""
        return pose._replace(theta=_turned(pose.theta, pose.angle), angle=torch.zeros_like(pose.angle))

    def predict_theta(self, small_BCSS: Tensor, angle_B: Tensor) -> Tensor:
        """θ (B, P) of pictures that are turned by a known angle. ValueError where θ follows from frames, whatever the angle."""
        if isinstance(self.localization, MomentLocalizationNet):
            raise ValueError("stn.localization 'moments' has no θ beside its frames; use `predict` and `frames`")
        if isinstance(self.localization, PolarLocalizationNet):
            grid = base_grid(self.size, self.size, like=small_BCSS).reshape(1, -1, 2).expand(len(angle_B), -1, -1)
            grid = turn_points(grid, angle_B.detach()).view(-1, self.size, self.size, 2)
            small_BCSS = sample(small_BCSS, grid.to(small_BCSS.dtype))
        theta: Tensor = self.localization(small_BCSS)
        return _single(theta)

    def warp(
        self, x_BCHW: Tensor, theta_BP: Tensor, angle_B: Tensor | None = None, *, side: int | None = None
    ) -> Tensor:
        """The picture resampled under θ and, after it, a rotation (none if it is left out): (B, C, side, side), or the
        same shape as `x`."""
        # Coordinates in float32 whatever the autocast: half precision moves them by half a pixel.
        with torch.autocast(x_BCHW.device.type, enabled=False):
            grid = self.transform(theta_BP, side or x_BCHW.shape[-2], side or x_BCHW.shape[-1])
            if angle_B is not None:
                grid = turn_points(grid.flatten(1, 2), angle_B).view_as(grid)
            return sample(x_BCHW, grid.to(x_BCHW.dtype))

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Pose]:
        """The picture in its canonical pose, and the pose."""
        pose = self.predict(x_BCHW)
        return self.warp(x_BCHW, pose.theta, pose.angle), pose

    def looks(self, x_BCHW: Tensor, pose: Pose) -> list[Tensor]:
        """The pictures that the descriptor is made of: that in its canonical pose and, where there is a `second` look, that
        in its frame turned upright as far as can be told, smaller: (B, C, s, s) with s = second · W."""
        sides = (None, int(self.second * int(x_BCHW.shape[-1]) + 0.5))
        return [self.warp(x_BCHW, p.theta, p.angle, side=s) for p, s in zip(self.poses(pose), sides, strict=False)]

    def poses(self, pose: Pose) -> list[Pose]:
        """The poses of the looks, `pose` and, where there is a second look, that of the same frame turned upright."""
        if not self.second:
            return [pose]
        upright = peak(pose.expected)
        return [pose, pose._replace(theta=_turned(self.frames(pose).theta, -upright), angle=upright)]

    def corners(self, theta_BP: Tensor, angle_B: Tensor | None = None) -> Tensor:
        """Where the four corners of the canonical frame lie in the input picture: (B, 4, 2) in [-1, 1]."""
        frame = theta_BP.new_tensor([[-1, -1], [1, -1], [1, 1], [-1, 1]]).expand(theta_BP.shape[0], 4, 2)
        corners = self.transform.map(theta_BP, frame)
        return corners if angle_B is None else turn_points(corners, angle_B)


def _offsets(shape_B22: Tensor, centre_B2: Tensor) -> Tensor:
    """θ (B, 6) of the affine map: offsets from the identity."""
    identity = torch.eye(2, device=shape_B22.device)
    return torch.cat([shape_B22 - identity, centre_B2[:, :, None]], dim=2).flatten(1)


def _turned(theta_B6: Tensor, angle_B: Tensor) -> Tensor:
    """θ with R(a) before and R(−a) after it: R(a) L R(−a) for the linear part, R(a) t for the shift."""
    identity = torch.eye(2, device=theta_B6.device)
    matrix = theta_B6.view(-1, 2, 3)
    linear = turn_points(turn_points(matrix[:, :, :2] + identity, angle_B).transpose(1, 2), angle_B).transpose(1, 2)
    return _offsets(linear, turn_points(matrix[:, None, :, 2], angle_B)[:, 0])


def _single(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
