"""Drawing the training edits: what the numbers mean, and that a row's draw is its own."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndd.data.edits import EditConfig, Edits, draw_edits
from ndd.errors import ConfigError

NOTHING = EditConfig(
    min_area=1.0, squash=1.0, rotate=0.0, quarter=0.0, mirror=0.0, perspective=0.0, pad=0.0, overlay=0.0,
    colour=0.0, grey=0.0, blur=0.0, noise=0.0, jpeg=0.0,
)  # fmt: skip


def only(**settings: float) -> EditConfig:
    return dataclasses.replace(NOTHING, **settings)


def drawn(config: EditConfig, count: int = 256, *, seed: int = 0, strength: float = 1.0) -> Edits:
    return draw_edits(np.random.default_rng(seed), np.full(count, strength), config)


def apply(homography: np.ndarray, points: np.ndarray) -> np.ndarray:
    projected = np.concatenate([points, np.ones((len(points), 1))], axis=1) @ homography.T
    return projected[:, :2] / projected[:, 2:]


def test_the_same_seed_draws_the_same() -> None:
    first, second, other = drawn(EditConfig()), drawn(EditConfig()), drawn(EditConfig(), seed=1)
    for field in dataclasses.fields(Edits):
        np.testing.assert_array_equal(getattr(first, field.name), getattr(second, field.name))
    assert not np.array_equal(first.view_to_picture, other.view_to_picture)


def test_rows_are_selected_together() -> None:
    edits = drawn(EditConfig(), 10)
    some = edits[3:5]
    assert len(some) == 2
    for field in dataclasses.fields(Edits):
        np.testing.assert_array_equal(getattr(some, field.name), getattr(edits, field.name)[3:5])


def test_strength_zero_leaves_the_picture_as_it_is() -> None:
    edits = drawn(EditConfig(), strength=0.0)
    np.testing.assert_allclose(edits.view_to_picture, np.broadcast_to(np.eye(3), (256, 3, 3)), atol=1e-6)
    np.testing.assert_allclose(edits.pose, np.broadcast_to(np.eye(3), (256, 3, 3)), atol=1e-6)
    np.testing.assert_allclose(edits.colour, np.broadcast_to([1, 1, 1, 0, 1, 1, 1], (256, 7)))
    assert not edits.rectangles[:, :, 4].any()
    assert not edits.blur.any()
    assert not edits.noise.any()
    assert not edits.jpeg.any()


def test_nothing_is_drawn_from_a_config_without_edits() -> None:
    edits = drawn(NOTHING)
    np.testing.assert_allclose(edits.view_to_picture, np.broadcast_to(np.eye(3), (256, 3, 3)), atol=1e-6)
    assert not edits.blur.any()


@pytest.mark.parametrize(
    "name", ["rotate", "quarter", "mirror", "perspective", "pad", "overlay", "blur", "noise", "jpeg"]
)
def test_shares_are_those_of_the_config(name: str) -> None:
    count = 4000
    edits = drawn(only(**{name: 0.3}), count)
    touched = {
        "overlay": edits.rectangles[:, :, 4].any(axis=1),
        "blur": edits.blur > 0,
        "noise": edits.noise > 0,
        "jpeg": edits.jpeg > 0,
    }.get(name, np.abs(edits.view_to_picture - np.eye(3)).max(axis=(1, 2)) > 1e-4)
    # An overlay has three rectangles, each there with probability 0.6.
    expected = 0.3 * (1 - 0.4**3) if name == "overlay" else 0.3
    assert touched.mean() == pytest.approx(expected, abs=4 * (0.3 * 0.7 / count) ** 0.5)


def test_crops_leave_the_least_area_and_stay_inside() -> None:
    edits = drawn(only(min_area=0.3), 2000)
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], float)
    seen = np.stack([apply(h, corners) for h in edits.view_to_picture])
    assert np.abs(seen).max() <= 1 + 1e-6
    area = (seen[:, 2] - seen[:, 0]).prod(axis=1) / 4
    assert area.min() >= 0.3 - 1e-6
    assert area.min() < 0.35
    assert np.mean(area < 0.65) == pytest.approx(0.5, abs=0.05)  # uniform in area


def test_quarter_turns_are_exact() -> None:
    edits = drawn(only(quarter=1.0))
    turns = np.round(edits.view_to_picture[:, :2, :2]).astype(int)
    np.testing.assert_allclose(edits.view_to_picture[:, :2, :2], turns, atol=1e-6)
    assert {tuple(t.flatten()) for t in turns} == {(0, -1, 1, 0), (-1, 0, 0, -1), (0, 1, -1, 0)}


def test_mirrors_turn_left_to_right() -> None:
    edits = drawn(only(mirror=1.0), 4)
    np.testing.assert_allclose(edits.view_to_picture, np.broadcast_to(np.diag([-1, 1, 1]), (4, 3, 3)))
    # No pixel tells that a view is mirrored: nobody is asked to undo it.
    np.testing.assert_allclose(edits.pose, np.broadcast_to(np.eye(3), (4, 3, 3)), atol=1e-6)


def test_rotations_keep_within_their_limit() -> None:
    edits = drawn(only(rotate=1.0, rotation=30.0, aspect=1.0), 2000)
    angle = np.degrees(np.arctan2(edits.view_to_picture[:, 1, 0], edits.view_to_picture[:, 0, 0]))
    assert np.abs(angle).max() <= 30
    assert np.abs(angle).max() > 29


def test_the_hidden_aspect_puts_a_rotation_between_two_squashes() -> None:
    """What is left of the angle is the trace, 2 cos; what shows the squash is that the matrix is no rotation any more."""
    edits = drawn(only(rotate=1.0, rotation=30.0, aspect=1.6), 2000)
    linear = edits.view_to_picture[:, :2, :2].astype(np.float64)
    linear /= np.sqrt(np.linalg.det(linear))[:, None, None]
    angle = np.degrees(np.arccos(np.clip(np.trace(linear, axis1=1, axis2=2) / 2, -1, 1)))
    assert 29 < angle.max() <= 30 + 1e-3
    turned = angle > 5
    ratio = np.sqrt(-linear[turned, 0, 1] / linear[turned, 1, 0])
    assert ratio.max() == pytest.approx(1.6, abs=0.02)
    assert ratio.min() == pytest.approx(1 / 1.6, abs=0.02)


def test_pose_undoes_turns_and_pads() -> None:
    """View to picture, seen through the pose: upright and unpadded, whatever the angle, the border and the mirror."""
    edits = drawn(only(rotate=1.0, rotation=40.0, quarter=0.5, pad=0.6))
    for h, pose in zip(edits.view_to_picture, edits.pose, strict=True):
        canonical = h @ pose
        canonical = canonical / canonical[2, 2]
        scale = canonical[0, 0]
        assert 0.5 < scale <= 1 + 1e-5  # the zoom that hides a turned picture's corners is not asked for
        np.testing.assert_allclose(canonical, np.diag([scale, scale, 1]), atol=1e-5)


def test_perspective_keeps_inside_the_picture() -> None:
    edits = drawn(only(perspective=1.0, perspective_extent=0.6), 500)
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], float)
    seen = np.stack([apply(h, corners) for h in edits.view_to_picture])
    assert np.abs(seen).max() <= 1 + 1e-5
    assert np.abs(seen - corners).max() > 0.4


@given(seed=st.integers(0, 2**32 - 1), strength=st.floats(0, 1))
def test_everything_drawn_is_usable(seed: int, strength: float) -> None:
    edits = drawn(EditConfig(), 8, seed=seed, strength=strength)
    for field in dataclasses.fields(Edits):
        assert np.isfinite(getattr(edits, field.name)).all(), field.name
    assert (np.abs(np.linalg.det(edits.view_to_picture)) > 1e-3).all()
    assert ((edits.fill >= 0) & (edits.fill <= 1)).all()
    assert ((edits.jpeg == 0) | ((edits.jpeg >= 1) & (edits.jpeg <= 100))).all()
    assert (edits.rectangles[:, :, 2:4] > 0).all()
    assert (edits.rectangles[:, :, 12:] > 0).all()


@pytest.mark.parametrize(
    ("name", "value"),
    [("min_area", 0.0), ("min_area", 1.1), ("squash", 0.9), ("perspective_extent", 0.9), ("jpeg", 1.5), ("blur", -0.1)],
)
def test_settings_out_of_range_are_named(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=name):
        EditConfig.from_dict({name: value})
