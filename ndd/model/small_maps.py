"""Convolutions of small feature maps as matrix products, for training on a processor.

oneDNN's convolutions are made for maps with many places. On the 2 × 2 and 4 × 4 maps that the last stages of a ResNet see at
64 pixels, the gradient of the weights alone takes eight times as long as the same product of matrices, and these few layers
are half of a training step. Here the patches are laid out once (im2col) and both passes are products of matrices.

The numbers are those of the convolution up to the order of sums. Only training in half precision on a processor takes this
way: everything else, exports too, sees an ordinary `nn.Conv2d`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

__all__ = ["SmallMapConv2d", "with_small_maps"]

_PLACES = 16
"""Places of the output up to which the products are quicker (measured for 128 to 512 channels: 16 are, 36 are not)."""


class SmallMapConv2d(nn.Conv2d):
    """An `nn.Conv2d` with the same parameters and the same result, quicker where maps are small (see the module)."""

    def forward(self, input: Tensor) -> Tensor:
        if not self._pays(input):
            return super().forward(input)
        half = torch.get_autocast_dtype("cpu")
        with torch.autocast("cpu", enabled=False):
            result: Tensor = _Products.apply(input.to(half), self.weight.to(half), self.stride[0], int(self.padding[0]))
        return result

    def _pays(self, x_BCHW: Tensor) -> bool:
        if not (torch.is_grad_enabled() and self.weight.requires_grad and x_BCHW.device.type == "cpu"):
            return False
        if not torch.is_autocast_enabled("cpu"):
            return False
        reach = self.kernel_size[0] - 2 * int(self.padding[0])
        high, wide = ((side - reach) // self.stride[0] + 1 for side in x_BCHW.shape[-2:])
        return high * wide <= _PLACES


class _Products(torch.autograd.Function):
    """y = patches · Wᵀ; gradients Wᵀ: gᵀ · patches, patches: g · W, laid back onto the map."""

    @staticmethod
    def forward(ctx: Any, x_BCHW: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        batch, channels, height, width = x_BCHW.shape
        kernel = weight.shape[-1]
        high, wide = ((side + 2 * padding - kernel) // stride + 1 for side in (height, width))
        # Channels last in memory: the entries of a patch lie as those of the weights do.
        padded = F.pad(x_BCHW.permute(0, 2, 3, 1), (0, 0, padding, padding, padding, padding))
        of_batch, of_row, of_column, of_channel = padded.stride()
        patches = padded.as_strided(
            (batch, high, wide, kernel, kernel, channels),
            (of_batch, of_row * stride, of_column * stride, of_row, of_column, of_channel),
        ).reshape(batch * high * wide, kernel * kernel * channels)
        matrix = weight.permute(0, 2, 3, 1).reshape(weight.shape[0], -1)
        ctx.save_for_backward(patches, matrix)
        ctx.shape = (batch, channels, height, width, high, wide, kernel, stride, padding)
        return (patches @ matrix.t()).view(batch, high, wide, -1).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        patches, matrix = ctx.saved_tensors
        batch, channels, height, width, high, wide, kernel, stride, padding = ctx.shape
        gradient = gradients[0].permute(0, 2, 3, 1).reshape(batch * high * wide, -1)
        of_weight = (gradient.t() @ patches).view(-1, kernel, kernel, channels).permute(0, 3, 1, 2)
        of_patches = (gradient @ matrix).view(batch, high, wide, kernel, kernel, channels)
        padded = gradient.new_zeros(batch, height + 2 * padding, width + 2 * padding, channels)
        for row in range(kernel):
            for column in range(kernel):
                rows = slice(row, row + stride * high, stride)
                columns = slice(column, column + stride * wide, stride)
                padded[:, rows, columns] += of_patches[:, :, :, row, column]
        inside = padded[:, padding : padding + height, padding : padding + width]
        return inside.permute(0, 3, 1, 2), of_weight, None, None


def with_small_maps(net: nn.Module) -> nn.Module:
    """`net` with its square, dense convolutions of more than one pixel made `SmallMapConv2d`; parameters and names stay."""
    for name, part in net.named_children():
        if type(part) is nn.Conv2d and _fits(part):
            made = SmallMapConv2d(
                part.in_channels,
                part.out_channels,
                part.kernel_size[0],
                stride=part.stride[0],
                padding=int(part.padding[0]),
                bias=False,
                device="meta",
            )
            made.weight = part.weight
            setattr(net, name, made)
        else:
            with_small_maps(part)
    return net


def _fits(conv: nn.Conv2d) -> bool:
    square = len({*conv.kernel_size}) == len({*conv.stride}) == 1 and not isinstance(conv.padding, str)
    plain = conv.groups == 1 and conv.dilation == (1, 1) and conv.bias is None and conv.padding_mode == "zeros"
    return square and plain and conv.padding[0] == conv.padding[1] and conv.kernel_size[0] > 1
