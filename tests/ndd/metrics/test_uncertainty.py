"""Intervals, calibration, bootstrap and the counting of strangers, against SciPy, plain loops and hand counts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from ndd.metrics.bootstrap import WeightedRanking, group_draws, percentile_interval, weighted_mean
from ndd.metrics.calibration import expected_calibration_error, reliability
from ndd.metrics.intervals import MILLION_PAIRS, beta_quantile, binomial_interval, incomplete_beta, per_million_images
from ndd.metrics.retrieval import evaluate_groups, precision_recall
from ndd.metrics.strangers import count_strangers

FEW = settings(deadline=None, max_examples=40)


@FEW
@given(st.floats(0.2, 2000), st.floats(0.2, 2000), st.floats(0, 1))
def test_the_beta_function_is_that_of_scipy(a: float, b: float, x: float) -> None:
    assert incomplete_beta(a, b, x) == pytest.approx(float(scipy.special.betainc(a, b, x)), abs=1e-9)


@FEW
@given(st.integers(0, 200), st.integers(1, 200), st.sampled_from([0.8, 0.95, 0.99]))
def test_the_interval_is_that_of_clopper_and_pearson(hits: int, trials: int, confidence: float) -> None:
    hits = min(hits, trials)
    expected = scipy.stats.binomtest(hits, trials).proportion_ci(confidence, method="exact")
    got = binomial_interval(hits, trials, confidence=confidence)
    assert (got.value, got.low, got.high) == pytest.approx((hits / trials, expected.low, expected.high), abs=1e-9)


def test_quantiles_and_errors() -> None:
    assert beta_quantile(0.5, 1, 1) == pytest.approx(0.5)
    assert math.isnan(binomial_interval(0, 0).value)
    for hits, trials in ((3, 2), (-1, 2)):
        with pytest.raises(ValueError, match="successes"):
            binomial_interval(hits, trials)
    with pytest.raises(ValueError, match="confidence"):
        binomial_interval(1, 2, confidence=1.0)


def test_a_million_images() -> None:
    """Nothing wrong in 5 million pairs still leaves room for some 370,000 false ones in a million images."""
    said = per_million_images(0, 5_000_000)
    assert said.value == 0
    assert said.high == pytest.approx(-math.log(0.025) / 5_000_000 * MILLION_PAIRS, rel=1e-3)
    assert per_million_images(1, 1000).value == pytest.approx(MILLION_PAIRS / 1000)


def test_calibration_by_hand() -> None:
    found = reliability([0.1, 0.15, 0.9, 1.0], [False, True, True, True], bins=2)
    np.testing.assert_array_equal(found.count, [2, 2])
    np.testing.assert_allclose(found.score, [0.125, 0.95])
    np.testing.assert_allclose(found.frequency, [0.5, 1.0])
    assert found.error == pytest.approx((2 * 0.375 + 2 * 0.05) / 4)
    assert expected_calibration_error([], []) == 0.0
    for bad in (1.5, -0.1, float("nan")):
        with pytest.raises(ValueError, match="score 1"):
            reliability([0.5, bad], [True, False])


def test_draws_are_paired_and_whole() -> None:
    draws = group_draws(7, draws=50, seed=3)
    np.testing.assert_array_equal(draws.sum(axis=1), 7)
    np.testing.assert_array_equal(draws, group_draws(7, draws=50, seed=3))
    with pytest.raises(ValueError, match="at least one"):
        group_draws(0, draws=1, seed=0)


def test_a_weighted_mean_is_the_mean_of_what_was_drawn() -> None:
    values, groups = np.array([1.0, 2.0, np.nan, 5.0]), np.array([0, 0, 1, 2])
    draws = np.array([[1, 1, 1], [2, 0, 1], [0, 3, 0]])
    got = weighted_mean(values, groups, draws)
    np.testing.assert_allclose(got, [8 / 3, (2 * 3 + 5) / 5, np.nan])
    assert percentile_interval(1.0, [np.nan]).value == 1.0


@FEW
@given(st.data())
def test_a_weighted_ranking_is_that_of_repeated_pairs(data: st.DataObject) -> None:
    """Weighing groups gives what scikit-learn says of the pairs repeated as often."""
    rng = np.random.default_rng(data.draw(st.integers(0, 10_000)))
    positives = rng.integers(0, 5, 6).astype(np.float64), rng.integers(0, 4, 6)
    negatives = rng.integers(0, 5, 12).astype(np.float64), rng.integers(0, 4, 12), rng.integers(0, 4, 12)
    weights = rng.multinomial(4, [0.25] * 4)
    times = np.concatenate((weights[positives[1]], weights[negatives[1]] * weights[negatives[2]]))
    ranking = WeightedRanking.of(positives, negatives)
    micro, recalls, caught, wrong = ranking.figures(weights, precisions=(0.5,), thresholds=(2.0,))
    scores = np.repeat(np.concatenate((positives[0], negatives[0])), times)
    labels = np.repeat(np.arange(18) < 6, times)
    if not labels.any():
        assert math.isnan(micro)
        assert math.isnan(ranking.false_at_recall(weights, 1.0))
        return
    assert micro == pytest.approx(average_precision_score(labels, scores))
    assert recalls[0] == pytest.approx(
        precision_recall(scores[labels], [scores[~labels]]).recall_at_precision(0.5).recall
    )
    assert caught[0] == pytest.approx((scores[labels] >= 2).mean())
    assert wrong[0] == (scores[~labels] >= 2).sum()
    for recall in {float((scores[labels] >= t).mean()) for t in scores[labels]}:
        highest = max(t for t in scores[labels] if (scores[labels] >= t).mean() >= recall)
        assert ranking.false_at_recall(weights, recall) == (scores[~labels] >= highest).sum()


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_strangers_are_counted_as_if_all_were_held(chunk: int) -> None:
    rng = np.random.default_rng(1)
    groups = ["a", "a", "b", "b", "b", "c", "d", "e"]
    scores = rng.integers(0, 7, (8, 8)).astype(np.float32)
    scores = np.triu(scores) + np.triu(scores, 1).T
    labels = np.array([[x == y for y in groups] for x in groups])
    upper = np.triu(np.ones((8, 8), bool), 1)
    positives, negatives = scores[labels & upper], scores[~labels & upper]
    edges = np.array([1.0, 3.0, 5.0])
    told: list[tuple[int, int]] = []
    found = count_strangers(
        lambda start, stop: scores[start:stop],
        groups,
        positives.astype(np.float64),
        edges=edges,
        most=5,
        chunk=chunk,
        progress=lambda done, total: told.append((done, total)),
    )
    assert found.pairs == len(negatives)
    truth = np.concatenate((np.ones(len(positives)), np.zeros(len(negatives))))
    assert found.roc_auc == pytest.approx(roc_auc_score(truth, np.concatenate((positives, negatives))))
    np.testing.assert_array_equal(found.histogram, [(negatives < 3).sum(), (negatives >= 3).sum()])
    np.testing.assert_array_equal(found.scores, np.sort(negatives)[::-1][:5])
    for left, right, score in zip(found.left, found.right, found.scores, strict=True):
        assert left < right
        assert groups[left] != groups[right]
        assert scores[left, right] == score
    assert told[-1] == (8, 8)


def test_a_missing_score_is_an_error() -> None:
    rows = np.full((3, 3), np.nan, np.float32)
    with pytest.raises(ValueError, match="NaN"):
        count_strangers(lambda a, b: rows[a:b], ["a", "b", "c"], np.array([1.0]), edges=np.array([0.0, 1.0]))


def test_recall_at_k_of_a_whole_album() -> None:
    scores = np.array([[1, 0.9, 0.2, 0.1], [0.9, 1, 0.3, 0.8], [0.2, 0.3, 1, 0.5], [0.1, 0.8, 0.5, 1]], np.float32)
    found = evaluate_groups(lambda a, b: scores[a:b], ["x", "x", "y", "y"], ks=(1, 2))
    np.testing.assert_allclose(found.query_recall[1], [1, 1, 1, 0])
    np.testing.assert_allclose(found.query_recall[2], [1, 1, 1, 1])
