"""Scoring angles on rings around a point: a rotation of the picture is a shift along one axis (see `ndd.model.stn`).

Shapes: B pictures, R radii, A angles.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["RingScorer", "disk_points", "peak"]

_RADII = 12


def disk_points(angles: int) -> Tensor:
    """(R, A, 2) points on rings, the outermost just inside the circle that touches ±1."""
    alpha = torch.arange(angles) * (2 * math.pi / angles)
    # From the rim inwards; the innermost ring would sample the same few pixels over and over.
    radius = torch.linspace(0.12, 0.97, _RADII)
    return torch.stack([radius[:, None] * alpha.cos(), radius[:, None] * alpha.sin()], dim=-1)


class RingScorer(nn.Module):
    """Scores A angles equivariantly, whatever its weights are: turning what is seen turns the scores."""

    def __init__(self, *, width: int, angles: int, prior: bool, trust: float = 1.0, apart: bool = False) -> None:
        """apart: which way is up has a template of its own; that of the scores is free to find the same angle twice."""
        super().__init__()
        self.trust = trust
        self.rings = nn.Sequential(
            _RingConv(3, width, kernel=(3, 5), stride=1),
            _RingConv(width, 2 * width, kernel=(3, 5), stride=2),
            _RingConv(2 * width, 2 * width, kernel=(3, 3), stride=2),
        )
        self.across = nn.Sequential(
            nn.Conv2d(2 * width, 2 * width, (_RADII // 4, 1), bias=False),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(inplace=True),
        )
        # One template as long as the circle: the score of an angle sees all of them.
        self.template = nn.Conv1d(2 * width, 2 if apart else 1, angles, bias=False)
        nn.init.normal_(self.template.weight, std=0.02)
        # Most pictures are upright: log odds of about seven to one to begin with.
        self.prior = nn.Parameter(2.0 * F.one_hot(torch.tensor(0), angles).float()) if prior else None

    def score(self, small_B3SS: Tensor, points_BRA2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The angle (B,) of what is seen at the points; the scores (B, A) of what is seen; and the log odds of each angle:
        scores (of which way is up, where they are apart) with what is known before a look, of which the choice takes the
        share `trust`."""
        # Frames may reach beyond the picture: its border is repeated there, since black would tell where the picture ends.
        ring = F.grid_sample(small_B3SS, points_BRA2, padding_mode="border", align_corners=False)
        ring = ring - ring.mean(dim=(1, 2, 3), keepdim=True)
        ring = ring / (ring.square().mean(dim=(1, 2, 3), keepdim=True).sqrt() + 0.02)
        line = self.across(self.rings(ring)).squeeze(2)
        count = line.shape[2]
        found = self.template(torch.cat([line, line[..., : count - 1]], dim=2))
        scores, upright = found[:, 0], found[:, -1]
        if self.prior is None:
            return peak(scores), scores, upright
        return peak(scores + self.trust * self.prior), scores, upright + self.prior


class _RingConv(nn.Module):
    """Convolution of (B, C, radii, angles), circular along the angles; `stride` thins the radii."""

    def __init__(self, inside: int, outside: int, *, kernel: tuple[int, int], stride: int) -> None:
        super().__init__()
        self.reach = kernel[1] // 2
        self.conv = nn.Conv2d(inside, outside, kernel, stride=(stride, 1), padding=(1, 0), bias=False)
        self.norm = nn.BatchNorm2d(outside)

    def forward(self, x_BCRA: Tensor) -> Tensor:
        wrapped = F.pad(x_BCRA, (self.reach, self.reach, 0, 0), mode="circular")
        return F.relu(self.norm(self.conv(wrapped)))


def peak(scores_BA: Tensor) -> Tensor:
    """Angle of the highest score, refined between its neighbours by their softmax: turns with the scores."""
    count = scores_BA.shape[1]
    best = scores_BA.argmax(dim=1, keepdim=True)
    beside = torch.arange(-2, 3, device=scores_BA.device)
    weights = scores_BA.gather(1, (best + beside) % count).softmax(dim=1)
    return (best[:, 0] + (weights * beside).sum(dim=1)) * (2 * math.pi / count)
