"""Trunks: torchvision's own weights fit, and their absence is said, not hidden. Nothing is fetched."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch
import torchvision

from ndd.errors import ConfigError
from ndd.model.backbones import PretrainedWeightsUnavailable, make_backbone


@pytest.mark.parametrize(("name", "channels"), [("resnet18", 512), ("resnet50", 2048), ("vgg11_bn", 512)])
@torch.no_grad()
def test_feature_map(name: str, channels: int) -> None:
    trunk = make_backbone(name).eval()
    assert trunk.channels == channels
    assert trunk(torch.rand(1, 3, 64, 64)).shape == (1, channels, 2, 2)


@torch.no_grad()
def test_features_are_torchvisions() -> None:
    """With torchvision's weights the trunk gives what torchvision's network has before its classifier."""
    theirs = torchvision.models.resnet18(weights=None).eval()
    trunk = make_backbone("resnet18").eval()
    names = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
    for ours, name in zip(trunk.trunk, names, strict=True):
        ours.load_state_dict(theirs.get_submodule(name).state_dict())
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    mean, std = torch.tensor([0.485, 0.456, 0.406])[:, None, None], torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    logits = theirs.fc(trunk(x).mean(dim=(2, 3)))
    assert torch.allclose(logits, theirs((x - mean) / std), atol=1e-5)


def test_unknown_name() -> None:
    with pytest.raises(ConfigError, match="alexnet.*resnet18"):
        make_backbone("alexnet")


def test_pretrained_weights_within_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in torch's cache is what a download leaves there."""
    weights = torchvision.models.resnet18(weights=None).state_dict()
    name = torchvision.models.ResNet18_Weights.DEFAULT.url.rsplit("/", 1)[1]
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    torch.save(weights, cache / name)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    trunk = make_backbone("resnet18", pretrained=True)
    assert torch.equal(trunk.trunk[0].weight, weights["conv1.weight"])


def test_pretrained_weights_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    for name in ("https_proxy", "HTTPS_PROXY"):  # every request ends at a port of this machine where nobody listens
        monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
    with pytest.warns(PretrainedWeightsUnavailable, match="starting from scratch"):
        trunk = make_backbone("resnet18", pretrained=True)
    assert trunk.channels == 512
