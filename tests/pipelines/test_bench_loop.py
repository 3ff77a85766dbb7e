"""The parts of `bench loop` against figures worked out by hand, and the whole on a pool whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from ndd.select import Candidates
from ndd.verify.score import VERIFIED_FEATURES
from pipelines.bench_loop import _turns, best_of_all, labels_saved
from pipelines.bench_loop_curve import CHOICES, curve, draw, f1_at_even_odds
from pipelines.bench_loop_data import Pool
from tests.ndd.data.builders import image


def pool(count: int, *, seed: int, strange: float) -> Pool:
    """Pairs of which, among the known kinds, agreement tells duplicates from others, and among the strange ones hash and core
    alone do; the share of strange pairs is given."""
    random = np.random.default_rng(seed)
    truth, odd = random.random(count) < 0.2, random.random(count) < strange
    values = random.random((count, len(VERIFIED_FEATURES))) * 0.2
    for name, telling in (("agreement", ~odd), ("hash", odd), ("core", odd)):
        values[:, VERIFIED_FEATURES.index(name)] += np.where(telling & truth, 0.3, 0.0) + random.normal(0, 0.1, count)
    return Pool(
        values=values,
        truth=truth,
        edits=["wave: x original" if each else "crop original" for each in odd],
        candidates=Candidates(
            pictures=[image(i) for i in range(2 * count)],
            left=np.arange(count),
            right=np.arange(count) + count,
            score=np.full(count, 0.5),
            vectors=random.normal(size=(2 * count, 8)).astype(np.float32),
        ),
    )


def test_f1_at_even_odds_is_that_of_the_likelier_ones() -> None:
    truth = np.array([True, True, False, False, False, False])
    told = f1_at_even_odds(np.array([0.99, 0.01, 0.98, 0.02, 0.01, 0.01]), truth)
    assert told == pytest.approx(2 * 1 / (2 + 2))
    assert f1_at_even_odds(np.full(6, 1e-6), truth) == 0.0


def test_the_threshold_knows_the_share_of_duplicates_of_this_album() -> None:
    """Scores made under a prior of a half, in an album where one pair of 50 is a duplicate: the middling are strangers."""
    truth = np.arange(1000) < 20
    score = np.where(truth, 0.9999, np.where(np.arange(1000) % 2, 0.6, 0.01))
    assert f1_at_even_odds(score, truth) == 1.0


@pytest.mark.parametrize("choice", CHOICES)
def test_no_pair_is_asked_twice_and_labels_teach_what_was_not_seen(choice: str) -> None:
    given = pool(600, seed=2, strange=0.3)
    asked = np.arange(0, 600, 3)
    fresh = draw(given, np.random.default_rng(0).random(600), asked, choice=choice, count=40, seed=0)
    assert len(set(fresh.tolist())) == len(fresh) > 30
    assert not set(fresh.tolist()) & set(asked.tolist())
    first, test = pool(600, seed=3, strange=0.3), pool(600, seed=4, strange=0.3)
    told = curve(first, given, test, without="wave", choice=choice, seed=0, budgets=(50, 150))
    assert told[-1] > told[0] + 0.02
    assert best_of_all(first, given, test, without="wave") > told[0] + 0.1


def test_each_album_takes_each_part() -> None:
    assert [set(part) for part in zip(*_turns(3), strict=True)] == [{0, 1, 2}] * 3
    assert len(set(_turns(6))) == 6
    assert len(_turns(8)) == 8


def test_labels_saved_is_read_off_the_curves() -> None:
    curves = {"chosen": [0.5, 0.7, 0.9], "random": [0.5, 0.6, 0.7]}
    assert labels_saved(curves, budgets=(100, 200)) == {"100": pytest.approx(0.5), "200": pytest.approx(0.5)}
    assert labels_saved({"chosen": [0.5, 0.5], "random": [0.5, 0.6]}, budgets=(100,)) == {"100": None}
