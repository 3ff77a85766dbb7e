"""What a series of memory samples says: made-up series whose growth is known."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.bench_soak import slope, verdict


def series(*, minutes: float, growth: float, noise: float, seed: int) -> list[tuple[float, float]]:
    """Samples every two seconds; growth: MiB per minute. Neighbours are alike, as memory is: noise that wanders back."""
    random, at, drift = np.random.default_rng(seed), np.arange(0.0, 60 * minutes, 2.0), 0.0
    samples = []
    for second in at:
        drift = 0.8 * drift + random.normal(0, noise)
        samples.append((float(second), 1000.0 + growth * second / 60 + drift))
    return samples


@pytest.mark.parametrize("growth", [0.0, 2.0, 14.5, -3.0])
def test_the_slope_of_a_line_is_its_slope(growth: float) -> None:
    found = slope(series(minutes=7, growth=growth, noise=0.0, seed=0))
    assert found["low"] == found["high"] == found["mib_per_minute"] == pytest.approx(growth, abs=1e-3)


def test_a_leak_is_told_from_noise() -> None:
    leaks = [verdict(slope(series(minutes=7, growth=3.0, noise=2.0, seed=seed))) for seed in range(20)]
    assert leaks == ["grows"] * 20


def test_noise_is_rarely_taken_for_a_leak() -> None:
    flat = [verdict(slope(series(minutes=7, growth=0.0, noise=2.0, seed=seed))) for seed in range(40)]
    assert flat.count("flat") >= 34


def test_one_step_is_no_growth_and_a_short_run_says_nothing() -> None:
    step = [(float(at), 1000.0 if at < 60 else 1040.0) for at in range(0, 420, 2)]
    assert verdict(slope(step)) == "flat"
    assert verdict(slope(series(minutes=0.5, growth=0.0, noise=20.0, seed=1))) == "unsure"
