"""Small maps' convolutions as matrix products: the same numbers, and only where they pay."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ndd.model import small_maps
from ndd.model.backbones import make_backbone
from ndd.model.small_maps import SmallMapConv2d, with_small_maps


def made(conv: nn.Conv2d) -> SmallMapConv2d:
    found = with_small_maps(nn.Sequential(conv))[0]  # type: ignore[index]
    assert isinstance(found, SmallMapConv2d)
    return found


def both_passes(conv: nn.Conv2d, x: Tensor, weight_of: Tensor) -> tuple[Tensor, ...]:
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = conv(x)
    g_x, g_w = torch.autograd.grad((y.float() * weight_of).sum(), (x, conv.weight))
    return y.float(), g_x.float(), g_w.float()


@pytest.mark.parametrize(
    ("channels", "kernel", "stride", "padding", "side"),
    [(16, 3, 1, 1, 2), (16, 3, 1, 1, 3), (16, 3, 2, 1, 4), (8, 3, 2, 1, 7), (8, 5, 1, 2, 4), (8, 3, 1, 0, 6)],
)
def test_it_is_the_convolution(channels: int, kernel: int, stride: int, padding: int, side: int) -> None:
    """Output and both gradients against the convolution in double precision."""
    torch.manual_seed(0)
    plain = nn.Conv2d(channels, 12, kernel, stride=stride, padding=padding, bias=False)
    x = torch.randn(5, channels, side, side).contiguous(memory_format=torch.channels_last)
    exact = nn.Conv2d(channels, 12, kernel, stride=stride, padding=padding, bias=False).double()
    exact.weight.data.copy_(plain.weight.data)
    inside = x.double().requires_grad_()
    out = exact(inside)
    weight_of = torch.randn(out.shape)
    expected = (out, *torch.autograd.grad((out * weight_of).sum(), (inside, exact.weight)))
    swapped = made(plain)
    with torch.autocast("cpu", torch.bfloat16):
        assert swapped._pays(x)
    for found, right in zip(both_passes(swapped, x, weight_of), expected, strict=True):
        assert found.shape == right.shape
        assert (found.double() - right).norm() <= 0.01 * right.norm()


def test_parameters_and_names_stay() -> None:
    net = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1, bias=False), nn.Sequential(nn.Conv2d(8, 8, 1, bias=False)))
    before = {name: value.data_ptr() for name, value in net.state_dict().items()}
    after = with_small_maps(net)
    assert {name: value.data_ptr() for name, value in after.state_dict().items()} == before
    assert type(net[0]) is SmallMapConv2d
    assert type(net[1][0]) is nn.Conv2d  # type: ignore[index]  # one pixel: a matrix product already


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 4, 3, padding=1),
        nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=False),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2, bias=False),
        nn.Conv2d(4, 4, (3, 1), padding=(1, 0), bias=False),
        nn.Conv2d(4, 4, 3, padding="same", bias=False),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular", bias=False),
    ],
)
def test_others_are_left_alone(conv: nn.Conv2d) -> None:
    assert with_small_maps(nn.Sequential(conv))[0] is conv  # type: ignore[index]


def test_only_training_in_half_precision_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    original = small_maps._Products.apply
    monkeypatch.setattr(small_maps._Products, "apply", lambda *args: taken.append(1) or original(*args))
    conv, x = made(nn.Conv2d(4, 4, 3, padding=1, bias=False)), torch.randn(2, 4, 2, 2)
    conv(x)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        conv(x)
    with torch.autocast("cpu", torch.bfloat16):
        conv(torch.randn(2, 4, 9, 9))
    assert not taken
    with torch.autocast("cpu", torch.bfloat16):
        conv(x)
    assert taken == [1]


def test_a_trunk_uses_it() -> None:
    trunk = make_backbone("resnet18")
    kinds = [type(m) for m in trunk.modules() if isinstance(m, nn.Conv2d) and m.kernel_size != (1, 1)]
    assert kinds == [SmallMapConv2d] * 17
