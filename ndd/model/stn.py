"""Spatial Transformer Network: localization network → grid generator → sampler.

Source: Jaderberg, Simonyan, Zisserman, Kavukcuoglu, "Spatial Transformer Networks", NIPS 2015 (arXiv:1506.02025), eq. 1
(affine grid) and eq. 5 (bilinear sampler). Thin-plate splines: Bookstein 1989; used in an STN by Shi et al. 2016.

Shapes: B pictures, C channels, H × W pixels, K control points. Coordinates are (x, y) in [-1, 1] with the corners of the
picture, not the centres of its corner pixels, at ±1 (`align_corners=False`).

Direction: θ maps coordinates of the OUTPUT (canonical) frame to coordinates of the INPUT picture, as the sampler needs it.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ndd.config import StnConfig

__all__ = [
    "AffineTransform",
    "HomographyTransform",
    "LocalizationNet",
    "SpatialTransformer",
    "ThinPlateSpline",
    "Transform",
    "base_grid",
    "make_transform",
    "sample",
]


def base_grid(height: int, width: int, *, like: Tensor) -> Tensor:
    """Centres of the output pixels, (H, W, 2) as (x, y) in [-1, 1], on the device and dtype of `like`."""
    ys = (torch.arange(height, device=like.device, dtype=like.dtype) * 2 + 1) / height - 1
    xs = (torch.arange(width, device=like.device, dtype=like.dtype) * 2 + 1) / width - 1
    return torch.stack(torch.meshgrid(xs, ys, indexing="xy"), dim=-1)


def sample(x_BCHW: Tensor, grid_BHW2: Tensor) -> Tensor:
    """Bilinear sampler (eq. 5). Outside the picture its border is repeated: black corners would be a cue of their own."""
    return F.grid_sample(x_BCHW, grid_BHW2, mode="bilinear", padding_mode="border", align_corners=False)


class Transform(nn.Module):
    """Grid generator of one family of transforms: `parameters_needed` numbers → where each output point reads the input."""

    parameters_needed: int

    def map(self, theta_BP: Tensor, points_BN2: Tensor) -> Tensor:
        """Map (B, N, 2) points of the output frame to the input frame; all-zero `theta` is the identity."""
        raise NotImplementedError  # pragma: no cover - the three families below implement it

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
        projected = torch.cat([points_BN2, torch.ones_like(points_BN2[..., :1])], dim=-1) @ self.matrix(theta_BP).mT
        # A network may predict a horizon inside the picture; keep the division finite and the sign with it.
        depth = projected[..., 2:]
        depth = torch.where(depth.abs() < 1e-3, torch.full_like(depth, 1e-3).copysign(depth), depth)
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


class LocalizationNet(nn.Module):
    """A small CNN that looks at a low-resolution copy of the picture and predicts θ.

    (B, 3, H, W) → (B, P). The last layer starts at zero, so the transformer starts at the identity (arXiv:1506.02025, §3.1).
    The map is flattened, not pooled: where things are is what the pose is read from.
    """

    def __init__(self, outputs: int, *, size: int, width: int) -> None:
        super().__init__()
        self.size = size
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

    def forward(self, x_BCHW: Tensor) -> Tensor:
        small = F.interpolate(x_BCHW, size=(self.size, self.size), mode="bilinear", antialias=True, align_corners=False)
        features = self.features((small - 0.5) / 0.25)
        theta: Tensor = self.theta(F.relu(self.hidden(features.flatten(1))))
        return theta


class SpatialTransformer(nn.Module):
    """Localization network, grid generator and sampler in one: picture → picture in its canonical pose."""

    def __init__(self, config: StnConfig) -> None:
        super().__init__()
        self.transform = make_transform(config)
        self.localization = LocalizationNet(self.transform.parameters_needed, size=config.size, width=config.width)

    def predict(self, x_BCHW: Tensor) -> Tensor:
        """θ, (B, P) offsets from the identity."""
        theta: Tensor = self.localization(x_BCHW)
        return theta.to(torch.promote_types(theta.dtype, torch.float32))

    def warp(self, x_BCHW: Tensor, theta_BP: Tensor) -> Tensor:
        """The picture resampled under θ, same shape as `x`."""
        # Coordinates in float32 whatever the autocast: half precision moves them by half a pixel.
        with torch.autocast(x_BCHW.device.type, enabled=False):
            grid = self.transform(theta_BP, x_BCHW.shape[-2], x_BCHW.shape[-1])
            return sample(x_BCHW, grid.to(x_BCHW.dtype))

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        theta = self.predict(x_BCHW)
        return self.warp(x_BCHW, theta), theta

    def corners(self, theta_BP: Tensor) -> Tensor:
        """Where the four corners of the canonical frame lie in the input picture: (B, 4, 2) in [-1, 1]."""
        frame = theta_BP.new_tensor([[-1, -1], [1, -1], [1, 1], [-1, 1]]).expand(theta_BP.shape[0], 4, 2)
        return self.transform.map(theta_BP, frame)
