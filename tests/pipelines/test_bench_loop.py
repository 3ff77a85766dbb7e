"""The parts of `bench loop` against figures worked out by hand, and the whole on a pool whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from ndd.select import Candidates
from pipelines.bench_loop import Pool, best_f1, curve, draw, fitted, labels_saved
from tests.ndd.data.builders import image


def pool(count: int, *, seed: int, shift: float = 0.0) -> Pool:
    """Pairs of two features: the first tells duplicates apart, more or less; the second does once it is weighed."""
    random = np.random.default_rng(seed)
    truth = random.random(count) < 0.2
    values = np.stack(
        [truth + random.normal(0, 0.8, count) - shift * truth, truth + random.normal(0, 0.3, count)], axis=1
    )
    return Pool(
        values=values,
        truth=truth,
        candidates=Candidates(
            pictures=[image(i) for i in range(2 * count)],
            left=np.arange(count),
            right=np.arange(count) + count,
            score=np.full(count, 0.5),
            vectors=random.normal(size=(2 * count, 8)).astype(np.float32),
        ),
    )


def test_best_f1() -> None:
    truth = np.array([True, False, True, False])
    assert best_f1(np.array([0.9, 0.1, 0.8, 0.2]), truth) == 1.0
    assert best_f1(np.array([0.9, 0.8, 0.7, 0.6]), truth) == pytest.approx(2 * 2 / (3 + 2))
    assert best_f1(np.full(4, 0.5), truth) == pytest.approx(2 * 2 / (4 + 2))  # a tie stands or falls together


def test_a_weight_counts_like_repetitions_and_the_pull_holds() -> None:
    given = pool(60, seed=0)
    weight = np.random.default_rng(1).integers(1, 4, 60)
    repeated = np.repeat(np.arange(60), weight)
    towards = np.array([0.5, -0.5, 0.1])
    once = fitted(given.values, given.truth, weight.astype(float), towards=towards)
    assert once == pytest.approx(
        fitted(given.values[repeated], given.truth[repeated], np.ones(len(repeated)), towards=towards), abs=1e-6
    )
    assert fitted(given.values, given.truth, np.zeros(60), towards=towards) == pytest.approx(towards)


@pytest.mark.parametrize("choice", ["chosen", "uncertain", "random"])
def test_no_pair_is_asked_twice_and_labels_help(choice: str) -> None:
    given = pool(300, seed=2)
    asked = np.arange(0, 300, 3)
    fresh = draw(given, np.random.default_rng(0).random(300), asked, choice=choice, count=40, seed=0)
    assert len(set(fresh.tolist())) == len(fresh) > 30
    assert not set(fresh.tolist()) & set(asked.tolist())
    told = curve(pool(200, seed=3, shift=1.5), given, pool(400, seed=4), choice=choice, seed=0, budgets=(50, 150))
    assert told[-1] > told[0]


def test_labels_saved_is_read_off_the_curves() -> None:
    curves = {"chosen": [0.5, 0.7, 0.9], "random": [0.5, 0.6, 0.7]}
    assert labels_saved(curves, budgets=(100, 200)) == {"100": pytest.approx(0.5), "200": pytest.approx(0.5)}
    assert labels_saved({"chosen": [0.5, 0.5], "random": [0.5, 0.6]}, budgets=(100,)) == {"100": None}
