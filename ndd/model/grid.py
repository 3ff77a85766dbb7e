"""Where pixels lie, and reading a picture between them (see `ndd.model.stn` for shapes and coordinates)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["base_grid", "sample"]


def base_grid(height: int, width: int, *, like: Tensor) -> Tensor:
    """Centres of the output pixels, (H, W, 2) as (x, y) in [-1, 1], on the device and dtype of `like`."""
    ys = (torch.arange(height, device=like.device, dtype=like.dtype) * 2 + 1) / height - 1
    xs = (torch.arange(width, device=like.device, dtype=like.dtype) * 2 + 1) / width - 1
    return torch.stack(torch.meshgrid(xs, ys, indexing="xy"), dim=-1)


def sample(x_BCHW: Tensor, grid_BHW2: Tensor) -> Tensor:
    """Bilinear sampler (eq. 5). Outside the picture its border is repeated: black corners would be a cue of their own."""
    return F.grid_sample(x_BCHW, grid_BHW2, mode="bilinear", padding_mode="border", align_corners=False)
