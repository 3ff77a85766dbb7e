from __future__ import annotations

import numpy as np
import pytest

from ndd.verify.fitting import Matches, fit, transfer

CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 0.75], [0.0, 0.75]])


def scene(transform: np.ndarray, *, good: int, bad: int, noise: float = 0.002, seed: int = 0) -> Matches:
    """Matches under a 3 × 3 transform with its own scale and turn at each point, and strays."""
    rng = np.random.default_rng(seed)
    left = (rng.random(good + bad) + 0.75j * rng.random(good + bad)).astype(np.complex64)
    right = transfer(transform, left)
    step = np.complex64(1e-2)
    zoom = (transfer(transform, left + step) - right) / step
    right = right + (rng.normal(0, noise, len(left)) + 1j * rng.normal(0, noise, len(left)))
    zoom = zoom * np.exp(rng.normal(0, 0.1, len(left)) + 1j * rng.normal(0, 0.1, len(left)))
    right[good:] = rng.random(bad) + 1j * rng.random(bad)
    zoom[good:] = np.exp(rng.normal(0, 1, bad) + 1j * rng.uniform(0, 6.3, bad))
    return Matches(left=left, right=right.astype(np.complex64), zoom=zoom.astype(np.complex64))


def error(found: np.ndarray | None, truth: np.ndarray) -> float:
    assert found is not None
    inner = np.array([0.2 + 0.2j, 0.8 + 0.2j, 0.8 + 0.6j, 0.2 + 0.6j], np.complex64)
    return float(np.abs(transfer(found, inner) - transfer(truth, inner)).max())


@pytest.mark.parametrize("turn", [0.0, 0.6, 2.0, 3.1])
@pytest.mark.parametrize("scale", [0.3, 1.0, 2.5])
def test_recovers_a_similarity_among_strays(turn: float, scale: float) -> None:
    c, s = scale * np.cos(turn), scale * np.sin(turn)
    truth = np.array([[c, -s, 0.2], [s, c, 0.1], [0, 0, 1.0]])
    found = fit(scene(truth, good=25, bad=100), corners=CORNERS, seed=1)
    assert error(found, truth) < 0.01 * max(1.0, scale)


def test_recovers_an_affine_map() -> None:
    truth = np.array([[0.9, 0.25, 0.05], [-0.1, 1.2, 0.1], [0, 0, 1.0]])
    assert error(fit(scene(truth, good=40, bad=80), corners=CORNERS, seed=1), truth) < 0.01


def test_recovers_a_homography() -> None:
    truth = np.array([[0.9, 0.1, 0.05], [-0.05, 0.95, 0.1], [0.25, -0.2, 1.0]])
    assert error(fit(scene(truth, good=60, bad=60), corners=CORNERS, seed=1), truth) < 0.01


def test_the_seed_decides_nothing_but_the_draws() -> None:
    truth = np.array([[0.9, 0.25, 0.05], [-0.1, 1.2, 0.1], [0, 0, 1.0]])
    matches = scene(truth, good=40, bad=80)
    first, again = (fit(matches, corners=CORNERS, seed=7) for _ in range(2))
    assert first is not None and again is not None
    np.testing.assert_array_equal(first, again)
    other = fit(matches, corners=CORNERS, seed=8)
    assert error(other, truth) < 0.01


def test_refuses_what_no_camera_does() -> None:
    for truth in (
        np.array([[1.0, 0, 0], [0, 0.15, 0.3], [0, 0, 1]]),  # squeezed to a seventh one way
        np.array([[1.0, 0, 0], [0, 1, 0], [-1.2, 0, 1]]),  # the horizon inside the picture
        np.array([[20.0, 0, 0], [0, 20, 0], [0, 0, 1]]),  # twenty times larger
    ):
        matches = scene(truth, good=60, bad=0, noise=0.0)
        found = fit(matches, corners=CORNERS, seed=1)
        assert found is None or error(found, truth) > 0.05


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_matches_fit_nothing(count: int) -> None:
    points = np.arange(count).astype(np.complex64)
    matches = Matches(left=points, right=points, zoom=np.ones(count, np.complex64))
    assert fit(matches, corners=CORNERS, seed=0) is None


def test_matches_at_one_place_or_on_one_line_fit_nothing_wild() -> None:
    spot = np.full(12, 0.5 + 0.5j, np.complex64)
    line = np.linspace(0.1, 0.9, 12).astype(np.complex64)
    for points in (spot, line):
        matches = Matches(left=points, right=points, zoom=np.ones(12, np.complex64))
        assert fit(matches, corners=CORNERS, seed=0) is None
