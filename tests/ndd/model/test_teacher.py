"""The MobileNetV2 teacher against a plain reading of the paper and of Keras' padding rule."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from ndd.errors import ModelError
from ndd.model.teacher import MobileNetV2, load_teacher, teacher_features, teacher_preprocess


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(7)
    weights = {}
    for name, value in MobileNetV2().state_dict().items():
        fan_in = value[0].numel() if value.ndim > 1 else 1
        weights[name] = torch.randn(value.shape, generator=generator) * (1.6 / fan_in**0.5 if value.ndim > 1 else 0.05)
    return weights


@pytest.fixture(scope="module")
def weights_file(state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("teacher") / "weights.pth"
    torch.save({name: value.half() for name, value in state.items()}, path)
    return path


def keras_same_pad(side: int, stride: int) -> tuple[int, int]:
    """Zeros before and after one axis, as TensorFlow's SAME for stride 1 and Keras' `correct_pad` for stride 2."""
    if stride == 1:
        return 1, 1
    return (0, 1) if side % 2 == 0 else (1, 1)


def plain_features(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """The paper's table 2 written out layer by layer, with no module of ours."""
    index = 0

    def conv(x: Tensor, *, stride: int = 1, depthwise: bool = False) -> Tensor:
        nonlocal index
        weight, bias = state[f"convs.{index}.weight"], state[f"convs.{index}.bias"]
        index += 1
        if weight.shape[-1] == 3:
            rows, columns = keras_same_pad(x.shape[2], stride), keras_same_pad(x.shape[3], stride)
            x = functional.pad(x, (*columns, *rows))
        return functional.conv2d(x, weight, bias, stride=stride, groups=weight.shape[0] if depthwise else 1)

    def block(x: Tensor, *, expand: bool, stride: int, residual: bool) -> Tensor:
        h = conv(x).clamp(0, 6) if expand else x
        h = conv(h, stride=stride, depthwise=True).clamp(0, 6)
        h = conv(h)
        return x + h if residual else h

    x = conv(x, stride=2).clamp(0, 6)
    x = block(x, expand=False, stride=1, residual=False)
    for first_stride, residuals in ((2, 1), (2, 2), (2, 3), (1, 2), (2, 2), (1, 0)):
        x = block(x, expand=True, stride=first_stride, residual=False)
        for _ in range(residuals):
            x = block(x, expand=True, stride=1, residual=True)
    x = conv(x).clamp(0, 6)
    assert index == 52
    return x.flatten(2).mean(2)


@pytest.mark.parametrize("size", [(64, 64), (75, 75), (50, 37)])
def test_features_equal_the_plain_reading(weights_file: Path, state: dict[str, Tensor], size: tuple[int, int]) -> None:
    model = load_teacher(weights_file)
    x = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1)) * 2 - 1
    expected = plain_features({name: value.half().float() for name, value in state.items()}, x)
    with torch.inference_mode():
        got = model.features(x)
        logits = model(x)
    assert got.shape == (2, 1280)
    assert expected.std() > 1e-3, "the random weights let a signal through"
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits, got @ model.classifier.weight.T + model.classifier.bias)


def test_the_teacher_is_frozen_float32_and_in_eval_mode(weights_file: Path) -> None:
    model = load_teacher(weights_file)
    assert not model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not any(p.requires_grad for p in model.parameters())
    assert (
        sum(p.numel() for p in model.parameters()) == 3_504_872 - 17_056
    )  # torchvision's count, one bias a channel instead of BatchNorm's two


def test_preprocess_maps_bytes_to_minus_one_and_one() -> None:
    canvas = np.zeros((1, 2, 2, 3), np.uint8)
    canvas[0, 0, 1] = (255, 0, 51)
    got = teacher_preprocess(canvas)
    assert got.shape == (1, 3, 2, 2)
    assert got[0, :, 0, 1].tolist() == pytest.approx([1.0, -1.0, -0.6])
    assert got[0, :, 1, 0].tolist() == [-1.0, -1.0, -1.0]


def test_a_read_only_canvas_is_taken_without_a_warning_and_left_alone() -> None:
    canvas = np.full((1, 2, 2, 3), 255, np.uint8)
    canvas.setflags(write=False)
    assert (teacher_preprocess(canvas) == 1.0).all()
    assert (canvas == 255).all()


def test_features_do_not_depend_on_how_the_work_is_cut(weights_file: Path) -> None:
    model = load_teacher(weights_file)
    canvas = np.random.default_rng(0).integers(0, 256, (5, 48, 48, 3), dtype=np.uint8)
    whole = teacher_features(model, canvas, batch=5)
    assert whole.shape == (5, 1280)
    assert whole.dtype == np.float32
    np.testing.assert_allclose(teacher_features(model, canvas, batch=2), whole, rtol=1e-4, atol=1e-5)
    assert teacher_features(model, canvas[:0]).shape == (0, 1280)


@pytest.mark.parametrize("shape", [(48, 48, 3), (1, 3, 48, 48)])
def test_a_canvas_of_another_shape_is_refused(weights_file: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\(N,S,S,3\)"):
        teacher_features(load_teacher(weights_file), np.zeros(shape, np.uint8))


def test_bad_weight_files_are_named(weights_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nowhere.pth"):
        load_teacher(tmp_path / "nowhere.pth")
    garbage = tmp_path / "garbage.pth"
    garbage.write_bytes(b"not a state dict at all")
    with pytest.raises(ModelError, match="garbage.pth"):
        load_teacher(garbage)
    other = tmp_path / "other.pth"
    torch.save({"layer.weight": torch.zeros(3)}, other)
    with pytest.raises(ModelError, match="not the weights of MobileNetV2"):
        load_teacher(other)
