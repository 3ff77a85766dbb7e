"""Convolutional trunks behind one protocol: normalised picture → feature map.

Architectures are torchvision's. Pretrained weights are used where asked for and within reach; where they are not,
training starts from scratch and a warning says so.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
import torchvision
from torch import Tensor, nn

from ndd.errors import ConfigError
from ndd.model.small_maps import with_small_maps

__all__ = ["BACKBONES", "Backbone", "PretrainedWeightsUnavailable", "make_backbone"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class PretrainedWeightsUnavailable(UserWarning):
    """Pretrained weights were asked for and could not be had; training starts from scratch."""


class Backbone(nn.Module):
    """(B, 3, H, W) in [0, 1] → (B, channels, H', W')."""

    mean: Tensor
    std: Tensor

    def __init__(self, trunk: nn.Module, channels: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.channels = channels
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        features: Tensor = self.trunk((x_BCHW - self.mean) / self.std)
        return features


def _resnet(name: str, channels: int) -> Callable[[bool], Backbone]:
    def build(pretrained: bool) -> Backbone:
        net = _torchvision(name, pretrained)
        names = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
        return Backbone(with_small_maps(nn.Sequential(*(net.get_submodule(part) for part in names))), channels)

    return build


def _vgg(name: str) -> Callable[[bool], Backbone]:
    def build(pretrained: bool) -> Backbone:
        return Backbone(_torchvision(name, pretrained).get_submodule("features"), 512)

    return build


def _torchvision(name: str, pretrained: bool) -> nn.Module:
    if pretrained:
        try:
            net: nn.Module = torchvision.models.get_model(name, weights="DEFAULT")
            return net
        except OSError as error:  # URLError and HTTPError are OSErrors: no network, no such host, refused
            warnings.warn(
                f"pretrained weights of {name} are out of reach ({error}); starting from scratch",
                PretrainedWeightsUnavailable,
                stacklevel=3,
            )
    fresh: nn.Module = torchvision.models.get_model(name, weights=None)
    return fresh


BACKBONES: dict[str, Callable[[bool], Backbone]] = {
    "resnet18": _resnet("resnet18", 512),
    "resnet50": _resnet("resnet50", 2048),
    "vgg11_bn": _vgg("vgg11_bn"),
    "vgg16_bn": _vgg("vgg16_bn"),
}


def make_backbone(name: str, *, pretrained: bool = False) -> Backbone:
    """The trunk called `name`; ConfigError names those there are."""
    if name not in BACKBONES:
        raise ConfigError(f"backbone {name!r} is unknown; choose one of {', '.join(BACKBONES)}")
    return BACKBONES[name](pretrained)
