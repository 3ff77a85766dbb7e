"""Carrying out the training edits on a batch of pictures, on CPU or GPU. `ndd.data.edits` draws them.

Shapes: V views, H × W pixels of the stored picture, S pixels of the view. Every step acts on each row by itself.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from ndd.data.edits import RECTANGLES, Edits
from ndd.losses.alignment import derivative_at_centre, map_points
from ndd.model.stn import base_grid, sample

__all__ = ["make_views"]


_REDUCE = 1.6
"""Stored pixels to a pixel of the view from which pictures are reduced to half their size first."""


def make_views(pictures_V3HW: Tensor, edits: Edits, *, size: int, others_V3HW: Tensor | None = None) -> Tensor:
    """Views of the pictures: (V, 3, H, W) uint8 → (V, 3, S, S) uint8.

    others: (V, 3, H, W) pictures that overlays of kind 3 show (default: none are pasted). ValueError if rows differ.
    """
    if len(edits) != len(pictures_V3HW):
        raise ValueError(f"{len(pictures_V3HW)} pictures but {len(edits)} edits")
    device = pictures_V3HW.device

    def on_device(values: object) -> Tensor:
        return torch.tensor(values, device=device)

    x = _geometry(pictures_V3HW, on_device(edits.view_to_picture), on_device(edits.fill), size)
    x = _colour(x, on_device(edits.colour))
    x = _overlays(x, on_device(edits.rectangles), on_device(edits.texture), others_V3HW)
    x = _on_some(x, on_device(edits.blur), _blur)
    noisy = on_device(edits.noise)
    rows = noisy.nonzero().flatten()
    x = x.index_add(0, rows, noisy[rows, None, None, None] * _noise(on_device(edits.texture)[rows], size))
    x = _on_some(x.clamp(0, 1), on_device(edits.jpeg), _jpeg)
    return x.clamp_(0, 1).mul_(255).round_().to(torch.uint8)


def _on_some(x: Tensor, amount_V: Tensor, edit: object) -> Tensor:
    """Apply `edit(rows, amounts)` to the rows whose amount is not zero: most views are spared the expensive ones."""
    assert callable(edit)
    rows = amount_V.nonzero().flatten()
    if len(rows) > 0:
        x = x.index_copy(0, rows, edit(x[rows], amount_V[rows]))
    return x


def _geometry(pictures_V3HW: Tensor, view_to_picture_V33: Tensor, fill_V4: Tensor, size: int) -> Tensor:
    points = base_grid(size, size, like=view_to_picture_V33).reshape(1, -1, 2).expand(len(pictures_V3HW), -1, -1)
    grid = map_points(view_to_picture_V33, points).reshape(len(pictures_V3HW), size, size, 2)
    view = torch.empty(len(grid), 3, size, size, device=grid.device)
    # Bilinear sampling looks at four pixels only: a view that shrinks its picture would alias without a first reduction,
    # one that enlarges a part of it would be blurred by it, as no crop is that people make.
    reduced = _shrink(view_to_picture_V33) * pictures_V3HW.shape[-1] >= _REDUCE * size
    for rows, reduce in ((reduced.nonzero().flatten(), True), ((~reduced).nonzero().flatten(), False)):
        if len(rows) > 0:
            x = pictures_V3HW[rows].float().div_(255)
            x = F.avg_pool2d(x, 2) if reduce else x
            view[rows] = F.grid_sample(x, grid[rows], mode="bilinear", padding_mode="border", align_corners=False)
    outside = (grid.abs().amax(dim=-1) > 1.0) & (fill_V4[:, 3] > 0)[:, None, None]
    return torch.where(outside[:, None], fill_V4[:, :3, None, None], view)


def _shrink(view_to_picture_V33: Tensor) -> Tensor:
    """(V,) how much of the picture's side the view's side shows, at its centre: √|det| of the map's derivative."""
    shrink: Tensor = torch.linalg.det(derivative_at_centre(view_to_picture_V33)).abs().sqrt()
    return shrink


def _colour(x: Tensor, colour_V7: Tensor) -> Tensor:
    gain, rest = colour_V7[:, :3, None, None], colour_V7[:, 3:, None, None, None]
    brightness, contrast, saturation, gamma = rest.unbind(dim=1)
    grey = _luma(x)
    x = grey + saturation * (x - grey)
    mean = grey.mean(dim=(2, 3), keepdim=True)
    x = ((x * gain - mean) * contrast + mean + brightness).clamp(1e-4, 1)
    return x.pow(gamma)


def _luma(x: Tensor) -> Tensor:
    return (x * x.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(dim=1, keepdim=True)


def _overlays(x: Tensor, rectangles_VRP: Tensor, texture_V: Tensor, others_V3HW: Tensor | None) -> Tensor:
    used = (rectangles_VRP[:, :, 4] > 0).any(dim=1).nonzero().flatten()
    if len(used) == 0:
        return x
    size = x.shape[-1]
    part = x[used]
    grid = base_grid(size, size, like=x)
    grid_x, grid_y = grid.unbind(dim=-1)
    other = None
    if others_V3HW is not None:
        # Not F.interpolate: its last bits depend on the number of threads, and views must not.
        other = sample(others_V3HW[used].float().div_(255), grid.expand(len(used), -1, -1, -1))
    for index in range(RECTANGLES):
        values = rectangles_VRP[used, index][:, :, None, None]
        u = (grid_x - values[:, 0]) / values[:, 2]
        v = (grid_y - values[:, 1]) / values[:, 3]
        kind = values[:, 4]
        inside = (u.abs() <= 1) & (v.abs() <= 1) & (kind > 0)
        first, second = values[:, 6:9], values[:, 9:12]
        ink = _lettering(grid_x, grid_y, values[:, 12], values[:, 13], texture_V[used][:, None, None]) & (kind == 2)
        content = torch.where(ink[:, None], second, first)
        if other is not None:
            content = torch.where((kind == 3)[:, None], other, content)
        else:
            inside = inside & (kind != 3)
        mask = inside[:, None] * values[:, 5][:, None]
        part = part * (1 - mask) + content * mask
    return x.index_copy(0, used, part)


def _lettering(x: Tensor, y: Tensor, cell_x: Tensor, cell_y: Tensor, texture: Tensor) -> Tensor:
    """Lines of pseudo-random marks with gaps between the lines: what small text looks like."""
    column, line = torch.floor(x / cell_x * 2), torch.floor(y / cell_y)
    phase = (texture % 1000).to(x.dtype) * 0.37
    mark = torch.sin(column * 12.9898 + line * 78.233 + phase) * 43758.5453
    return ((mark - torch.floor(mark)) < 0.55) & ((y / cell_y - line) < 0.65)


def _blur(x: Tensor, sigma_V: Tensor) -> Tensor:
    """Gaussian of standard deviation `sigma` (share of the side), separable."""
    count, channels, height, width = x.shape
    radius = max(1, round(0.06 * width))
    offsets = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    kernel = torch.exp(-0.5 * (offsets / (sigma_V[:, None] * width).clamp_min(0.05)).square())
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(channels, dim=0)
    flat = F.pad(x.reshape(1, count * channels, height, width), (radius,) * 4, mode="reflect")
    flat = F.conv2d(flat, kernel[:, None, None, :], groups=count * channels)
    flat = F.conv2d(flat, kernel[:, None, :, None], groups=count * channels)
    return flat.reshape(x.shape)


@lru_cache(maxsize=8)
def _noise_bank(size: int) -> Tensor:
    return torch.randn(32, 3, size, size, generator=torch.Generator().manual_seed(0))


def _noise(texture_V: Tensor, size: int) -> Tensor:
    # A bank of noise instead of fresh noise: reproducible for a row whatever its batch, and quick.
    return _noise_bank(size).to(texture_V.device)[texture_V % 32]


_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
# Annex K of ITU-T T.81: the tables most encoders scale.
_LUMA_TABLE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMA_TABLE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)


def _jpeg(x: Tensor, quality_V: Tensor) -> Tensor:
    """The loss of a JPEG of `quality` 1…100: 8 × 8 DCT, quantised and back (no chroma subsampling, no entropy coding)."""
    ycc = x.new_tensor(_YCC)
    width = x.shape[-1]
    pad = -width % 8
    planes = torch.einsum("ij,vjhw->vihw", ycc, x * 255 - 128)
    if pad:
        planes = F.pad(planes, (0, pad, 0, pad), mode="replicate")
    scale = torch.where(quality_V < 50, 5000 / quality_V.clamp_min(1), 200 - 2 * quality_V) / 100
    tables = torch.stack([x.new_tensor(_LUMA_TABLE), *[x.new_tensor(_CHROMA_TABLE)] * 2])
    steps = (tables[None] * scale[:, None, None, None]).round().clamp(1, 255)[:, :, None, :, None, :]
    dct = _dct_matrix(x)
    side = planes.shape[-1] // 8
    blocks = planes.reshape(len(x), 3, side, 8, side, 8)
    frequencies = torch.einsum("ik,vcakbl,jl->vcaibj", dct, blocks, dct)
    frequencies = (frequencies / steps).round() * steps
    blocks = torch.einsum("ki,vcakbl,lj->vcaibj", dct, frequencies, dct)
    planes = blocks.reshape(planes.shape)[..., :width, :width]
    return torch.einsum("ij,vjhw->vihw", torch.linalg.inv(ycc), planes).add_(128).div_(255)


def _dct_matrix(like: Tensor) -> Tensor:
    k = torch.arange(8, dtype=torch.float64)
    matrix = torch.cos((2 * k[None] + 1) * k[:, None] * torch.pi / 16) * 0.5
    matrix[0] /= 2**0.5
    return matrix.to(like)
