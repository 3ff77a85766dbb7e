"""How far a counted share may be from the true one: exact binomial intervals, also for weighted samples.

Pure functions of numbers; no library beyond the standard one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Interval", "beta_quantile", "binomial_interval", "incomplete_beta", "per_million_images"]

MILLION_PAIRS = 1_000_000 * 999_999 // 2
"""Pairs of a million pictures."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and where the truth lies with the stated confidence."""

    value: float
    low: float
    high: float


def binomial_interval(successes: float, trials: float, *, confidence: float = 0.95) -> Interval:
    """Share of successes with its two-sided interval (Clopper & Pearson 1934): never too short, whatever the truth.

    Numbers need not be whole: with an effective sample size it is the interval of Korn & Graubard (1998) for samples drawn
    with unequal probabilities. Raises ValueError unless 0 ≤ successes ≤ trials and confidence lies in (0, 1).
    """
    if not 0.0 <= successes <= trials:
        raise ValueError(f"successes must lie in 0…trials, got {successes} of {trials}")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must lie in (0, 1), got {confidence}")
    if trials == 0.0:
        return Interval(float("nan"), 0.0, 1.0)
    tail = (1.0 - confidence) / 2.0
    failures = trials - successes
    low = 0.0 if successes == 0.0 else beta_quantile(tail, successes, failures + 1.0)
    high = 1.0 if failures == 0.0 else beta_quantile(1.0 - tail, successes + 1.0, failures)
    return Interval(successes / trials, low, high)


def per_million_images(false: int, strangers: int, *, confidence: float = 0.95) -> Interval:
    """False pairs to be expected among a million pictures, from `false` accepted ones of `strangers` pairs compared.

    A million pictures have 5·10¹¹ pairs. Nothing seen is not nothing there: the upper end says how much the test could
    have missed.
    """
    share = binomial_interval(false, strangers, confidence=confidence)
    return Interval(*(MILLION_PAIRS * value for value in (share.value, share.low, share.high)))


def beta_quantile(p: float, a: float, b: float) -> float:
    """x with P(X ≤ x) = p for X ~ Beta(a, b), by bisection: 1e-15 absolute."""
    low, high = 0.0, 1.0
    while high - low > 1e-15 * max(1.0, high):
        middle = 0.5 * (low + high)
        if middle in (low, high):
            break
        if incomplete_beta(a, b, middle) < p:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)


def incomplete_beta(a: float, b: float, x: float) -> float:
    """Regularised incomplete beta function I_x(a, b): the continued fraction of DLMF 8.17.22, by Lentz's method."""
    if x <= 0.0 or x >= 1.0:
        return float(x >= 1.0)
    if x > (a + 1.0) / (a + b + 2.0):  # where the other end's fraction converges quickly
        return 1.0 - incomplete_beta(b, a, 1.0 - x)
    front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    tiny = 1e-300
    c, d = 1.0, 1.0 / _away(1.0 - (a + b) * x / (a + 1.0), tiny)
    total = d
    for m in range(1, 2000):
        even = m * (b - m) * x / ((a + 2 * m - 1.0) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1.0))
        before = total
        for term in (even, odd):
            d = 1.0 / _away(1.0 + term * d, tiny)
            c = _away(1.0 + term / c, tiny)
            total *= c * d
        if abs(total - before) <= 1e-15 * abs(total):
            break
    return math.exp(front) * total / a


def _away(value: float, tiny: float) -> float:
    return value if abs(value) > tiny else tiny
