"""The frozen ImageNet MobileNetV2: a baseline to beat and a teacher to distil from; never a backbone of the product.

Sandler et al. 2018, "MobileNetV2: Inverted Residuals and Linear Bottlenecks" (arXiv:1801.04381), width 1.0, with
BatchNorm folded into the convolutions. The weights come from a Keras model, so strides pad the way Keras does.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ndd.errors import ModelError

__all__ = ["MobileNetV2", "load_teacher", "teacher_features", "teacher_preprocess"]

# (expansion, channels, repeats, stride of the first repeat): table 2 of the paper
_BLOCKS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
_FEATURES = 1280
_CLASSES = 1000


class MobileNetV2(nn.Module):
    """MobileNetV2 with folded BatchNorm; parameter names `convs.N` in execution order and `classifier`."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(_convolutions())
        self.classifier = nn.Linear(_FEATURES, _CLASSES)

    def features(self, x: Tensor) -> Tensor:
        """(B,3,S,S) RGB in [-1,1] → (B,1280): the last activation, averaged over space."""
        convs = iter(self.convs)
        x = functional.relu6(_same_pad_conv(x, next(convs)))
        for expansion, channels, repeats, first_stride in _BLOCKS:
            for repeat in range(repeats):
                entry = x
                if expansion != 1:
                    x = functional.relu6(next(convs)(x))
                x = functional.relu6(_same_pad_conv(x, next(convs)))
                x = next(convs)(x)  # linear bottleneck: no activation
                stride = first_stride if repeat == 0 else 1
                if stride == 1 and entry.shape[1] == channels:
                    x = x + entry
        x = functional.relu6(next(convs)(x))
        return x.mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """(B,3,S,S) RGB in [-1,1] → (B,1000) ImageNet logits."""
        logits: Tensor = self.classifier(self.features(x))
        return logits


def load_teacher(path: str | os.PathLike[str]) -> MobileNetV2:
    """The network with the weights of `path` (a torch state dict), float32, frozen, in eval mode.

    Raises ModelError if the file is missing, is not a state dict, or belongs to another network.
    """
    path = Path(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ModelError(f"{path}: cannot read the teacher's weights ({error.strerror or error})") from error
    except Exception as error:  # torch raises half a dozen kinds for a file that is not a state dict
        raise ModelError(f"{path}: not a file of network weights; expected a torch state dict of tensors") from error
    model = MobileNetV2()
    try:
        model.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    except (AttributeError, RuntimeError) as error:
        raise ModelError(f"{path}: not the weights of MobileNetV2 (1.0, folded BatchNorm)") from error
    return model.requires_grad_(False).eval()


def teacher_preprocess(canvas: NDArray[np.uint8]) -> Tensor:
    """(N,S,S,3) uint8 RGB → (N,3,S,S) float32 in [-1,1]; raises ValueError on any other kind of array."""
    if canvas.dtype != np.uint8 or canvas.ndim != 4 or canvas.shape[3] != 3:
        raise ValueError(f"canvas must be (N,S,S,3) uint8, got {canvas.shape} {canvas.dtype}")
    # Pictures straight from Pillow are read-only, which torch warns of.
    tensor = torch.from_numpy(np.require(canvas, requirements=("C", "W"))).permute(0, 3, 1, 2)
    return tensor.float().div_(127.5).sub_(1.0)


def teacher_features(module: MobileNetV2, canvas: NDArray[np.uint8], *, batch: int = 32) -> NDArray[np.float32]:
    """(N,S,S,3) uint8 RGB → (N,1280) float32 features, not normalised, on the module's own device."""
    device = next(module.parameters()).device
    out = np.empty((len(canvas), _FEATURES), np.float32)
    with torch.inference_mode():
        for start in range(0, len(canvas), batch):
            x = teacher_preprocess(canvas[start : start + batch]).to(device)
            out[start : start + batch] = module.features(x).float().cpu().numpy()
    return out


def _convolutions() -> Iterator[nn.Conv2d]:
    """The 52 convolutions in the order they run; those that `_same_pad_conv` runs carry no padding of their own."""
    yield nn.Conv2d(3, 32, 3, stride=2)
    width = 32
    for expansion, channels, repeats, first_stride in _BLOCKS:
        for repeat in range(repeats):
            hidden = width * expansion
            if expansion != 1:
                yield nn.Conv2d(width, hidden, 1)
            yield nn.Conv2d(hidden, hidden, 3, stride=first_stride if repeat == 0 else 1, groups=hidden)
            yield nn.Conv2d(hidden, channels, 1)
            width = channels
    yield nn.Conv2d(width, _FEATURES, 1)


def _same_pad_conv(x: Tensor, conv: nn.Module) -> Tensor:
    """3×3 convolution padded as Keras does: at stride 2 an even side gets (0,1) and an odd side (1,1)."""
    assert isinstance(conv, nn.Conv2d)
    height, width = x.shape[2], x.shape[3]
    strided = conv.stride[0] == 2
    top = 0 if strided and height % 2 == 0 else 1
    left = 0 if strided and width % 2 == 0 else 1
    padded: Tensor = conv(functional.pad(x, (left, 1, top, 1)))
    return padded
