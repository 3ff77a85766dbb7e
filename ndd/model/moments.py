"""A localization network that is affinely covariant by construction: attention, its moments, then an angle.

A small network says where to look: a weight for each place of the picture. The mean μ and the covariance Σ of the places
under these weights are a frame, input = μ + A p with A = z √3 Σ^½. If a copy T of the picture is looked at in the same
places, its frame is the same one seen through T, up to a rotation, for every affine T: squashes, shears, zooms and shifts
are undone without a single parameter that would have to learn them (moment normalisation; as affine shape adaptation,
Lindeberg & Gårding 1997, but with learnt weights in the place of gradients'). All that has to be learnt is to look at the
same places again, and the known T of two training views teaches that (`ndd.losses.frames`).

The rotation that is left is found on rings around μ, as in `PolarLocalizationNet`: turning the picture turns the answer. The
network that says where to look has kernels that are the same after quarter turns and mirroring (Cohen & Welling, ICML 2016:
scalar features of the group D4), so quarter turns are exact and a mirror image has the mirrored frame.

Shapes: B pictures, S × S pixels, A angles, G × G places of the attention.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ndd.model.grid import base_grid
from ndd.model.rings import RingScorer, disk_points

__all__ = ["Attention", "MomentLocalizationNet", "SymmetricConv", "frame_of", "square_root"]

_FLOOR = 0.1**2
"""Added to the variances: its root, times √3 and the zoom, is the least size of a frame."""

_SCALES = (2 / 3, 1 / 2, 1 / 3)
"""Sizes at which the same network looks once more: what a zoom has made larger is then found at another size."""


class SymmetricConv(nn.Module):
    """A 5 × 5 convolution whose kernels do not change under quarter turns and mirroring: six numbers each."""

    place: Tensor

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.orbits = nn.Parameter(torch.empty(outside, inside, 6))
        self.bias = nn.Parameter(torch.zeros(outside))
        nn.init.normal_(self.orbits, std=math.sqrt(2.0 / (25 * inside)))
        offsets = [sorted((abs(y), abs(x))) for y in range(-2, 3) for x in range(-2, 3)]
        kinds = [[0, 0], [0, 1], [1, 1], [0, 2], [1, 2], [2, 2]]
        self.register_buffer("place", torch.tensor([kinds.index(o) for o in offsets]), persistent=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        kernel = self.orbits[..., self.place].unflatten(-1, (5, 5))
        return F.conv2d(x_BCHW, kernel, self.bias, padding=2)


class Attention(nn.Module):
    """Where to look: (B, 3, S, S) in [0, 1] → logits (B, S/4 · S/4) of the places; all alike at the start."""

    def __init__(self, width: int, *, size: int) -> None:
        super().__init__()
        # Plain numbers: while a network is traced, shapes are tensors.
        self.side = size // 4
        self.smaller = [4 * round(share * self.side) for share in _SCALES]
        channels = [3, width // 3, 2 * width // 3, 4 * width // 3]
        self.layers = nn.ModuleList(SymmetricConv(inside, outside) for inside, outside in pairwise(channels))
        self.last = SymmetricConv(channels[-1], channels[-1])
        self.logit = nn.Conv2d(channels[-1], 1, 1)
        nn.init.zeros_(self.logit.weight)
        assert self.logit.bias is not None
        nn.init.zeros_(self.logit.bias)
        self.scale = nn.Parameter(torch.zeros(1 + len(_SCALES)))

    def forward(self, small_B3SS: Tensor) -> Tensor:
        x = small_B3SS - small_B3SS.mean(dim=(1, 2, 3), keepdim=True)
        x = x / (x.square().mean(dim=(1, 2, 3), keepdim=True).sqrt() + 0.02)
        x = x.contiguous(memory_format=torch.channels_last)
        maps = [self._at_one_scale(x)]
        for size in self.smaller:
            smaller = F.interpolate(x, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
            found = self._at_one_scale(smaller)
            maps.append(F.interpolate(found, size=(self.side, self.side), mode="bilinear", align_corners=False))
        logits = torch.cat(maps, dim=1) + self.scale[:, None, None]
        return logits.logsumexp(dim=1).flatten(1)

    def _at_one_scale(self, x_B3SS: Tensor) -> Tensor:
        """(B, 1, S/4, S/4)"""
        x = x_B3SS
        for number, layer in enumerate(self.layers):
            # Pooled by means of two by two: a stride would look at other pixels in a mirrored picture.
            x = F.relu(layer(x if number == 0 else F.avg_pool2d(x, 2)))
        logits: Tensor = self.logit(F.relu(self.last(x)))
        return logits


def frame_of(logits_BG: Tensor, places_G2: Tensor, zoom: Tensor) -> tuple[Tensor, Tensor]:
    """Centre (B, 2) and shape (B, 2, 2), symmetric, of the frame: input = centre + shape · p. In single precision.

    Attention that is the same everywhere gives the whole picture, times `zoom`.
    """
    with torch.autocast(logits_BG.device.type, enabled=False):
        weight = logits_BG.to(torch.promote_types(logits_BG.dtype, torch.float32)).softmax(dim=1)
        places_G2 = places_G2.to(weight.dtype)
        centre = weight @ places_G2
        off = places_G2 - centre[:, None]
        xx, yy, xy = ((weight * product).sum(dim=1) for product in (
            off[..., 0].square(), off[..., 1].square(), off[..., 0] * off[..., 1]
        ))  # fmt: skip
        return centre, square_root(xx + _FLOOR, yy + _FLOOR, xy) * (math.sqrt(3.0) * zoom)


def square_root(xx_B: Tensor, yy_B: Tensor, xy_B: Tensor) -> Tensor:
    """The symmetric square root (B, 2, 2) of the positive matrices [[xx, xy], [xy, yy]]: (Σ + √|Σ| I) / √(tr Σ + 2 √|Σ|)."""
    root = (xx_B * yy_B - xy_B.square()).clamp_min(1e-8).sqrt()
    scale = (xx_B + yy_B + 2 * root).rsqrt()
    return torch.stack([(xx_B + root) * scale, xy_B * scale, xy_B * scale, (yy_B + root) * scale], dim=1).view(-1, 2, 2)


class MomentLocalizationNet(RingScorer):
    """A frame from the moments of an attention, then the angle on rings in it (see the module)."""

    grid: Tensor
    places: Tensor

    def __init__(
        self,
        *,
        size: int,
        width: int,
        angles: int,
        zoom: float,
        prior: bool = False,
        trust: float = 1.0,
        apart: bool = False,
    ) -> None:
        super().__init__(width=width, angles=angles, prior=prior, trust=trust, apart=apart)
        self.register_buffer("grid", disk_points(angles), persistent=False)
        side = size // 4
        self.register_buffer("places", base_grid(side, side, like=torch.zeros(1)).reshape(-1, 2), persistent=False)
        self.attention = Attention(width, size=size)
        self.log_zoom = nn.Parameter(torch.tensor(zoom).log())

    def frame(self, small_B3SS: Tensor) -> tuple[Tensor, Tensor]:
        """Centre (B, 2) and shape (B, 2, 2): input = centre + shape · p, before any rotation."""
        return frame_of(self.attention(small_B3SS), self.places, self.log_zoom.exp())

    def angles_in(self, small_B3SS: Tensor, centre_B2: Tensor, shape_B22: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Angle, scores and what the angle follows from, of the picture seen in its frame. No gradient reaches the frame."""
        with torch.autocast(small_B3SS.device.type, enabled=False):
            points = self.grid.flatten(0, 1) @ shape_B22.detach().transpose(1, 2) + centre_B2.detach()[:, None]
        return self.score(small_B3SS, points.view(-1, *self.grid.shape).to(small_B3SS.dtype))
