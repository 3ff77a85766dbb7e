"""Ranking measures against hand-computed rankings, scikit-learn and plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, precision_recall_curve

from ndd.metrics.retrieval import (
    average_precision,
    evaluate_groups,
    mean_average_precision,
    micro_average_precision,
    precision_recall,
    recall_at_k,
    rows_of_pairs,
)

FEW = settings(deadline=None, max_examples=40)  # scikit-learn takes milliseconds a call
# Few distinct values: ties are the rule, as with Hamming distances.
rankings = st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=40).filter(
    lambda ranking: any(flag for _, flag in ranking)
)


def unzip(ranking: list[tuple[int, bool]]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    scores, flags = zip(*ranking, strict=True)
    return np.array(scores, float), np.array(flags, bool)


def test_a_ranking_worked_out_by_hand() -> None:
    # true, false, true, false, true → precision 1, 2/3, 3/5 at the three hits
    assert average_precision([9, 8, 7, 6, 5], [1, 0, 1, 0, 1]) == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)


def test_ties_enter_together() -> None:
    # two true and two false share the first place: precision 2/4 at recall 2/3; then a true one at rank 5: 3/5
    expected = 2 / 3 * 2 / 4 + 1 / 3 * 3 / 5
    for order in ([1, 1, 0, 0, 1], [0, 0, 1, 1, 1]):
        assert average_precision([5, 5, 5, 5, 1], order) == pytest.approx(expected)


def test_a_method_that_scores_all_alike_gets_the_base_rate() -> None:
    assert micro_average_precision(np.zeros(50), np.arange(50) < 3) == pytest.approx(3 / 50)


@FEW
@given(rankings)
def test_average_precision_is_that_of_scikit_learn(ranking: list[tuple[int, bool]]) -> None:
    scores, flags = unzip(ranking)
    assert average_precision(scores, flags) == pytest.approx(average_precision_score(flags, scores))


@FEW
@given(rankings, st.integers(1, 5), st.sampled_from([0.3, 0.5, 0.75, 0.9, 1.0]))
def test_recall_at_precision_is_the_best_of_all_thresholds(
    ranking: list[tuple[int, bool]], parts: int, wanted: float
) -> None:
    scores, flags = unzip(ranking)
    curve = precision_recall(scores[flags], np.array_split(scores[~flags], parts))
    point = curve.recall_at_precision(wanted)
    best = 0.0
    for threshold in set(scores):
        accepted = scores >= threshold
        if (accepted & flags).sum() / accepted.sum() >= wanted:
            best = max(best, (accepted & flags).sum() / flags.sum())
    assert point.recall == pytest.approx(best)
    if point.threshold is None:
        assert best == 0
    else:
        accepted = scores >= point.threshold
        assert (accepted & flags).sum() / accepted.sum() == pytest.approx(point.precision)
        assert point.precision >= wanted
        assert (accepted & flags).sum() / flags.sum() == pytest.approx(point.recall)


@FEW
@given(rankings)
def test_the_curve_is_that_of_scikit_learn_where_a_positive_stands(ranking: list[tuple[int, bool]]) -> None:
    scores, flags = unzip(ranking)
    precision, recall, thresholds = precision_recall_curve(flags, scores)
    theirs = {t: (p, r) for t, p, r in zip(thresholds, precision[:-1], recall[:-1], strict=True)}
    curve = precision_recall(scores[flags], [scores[~flags]])
    assert list(curve.thresholds) == sorted(set(scores[flags]), reverse=True)
    for threshold, p, r in zip(curve.thresholds, curve.precision, curve.recall, strict=True):
        assert (p, r) == pytest.approx(theirs[threshold])


def test_mean_average_precision_leaves_out_queries_without_a_partner() -> None:
    scores = [[3, 2, 1], [3, 2, 1], [1, 2, 3]]
    relevant = [[0, 1, 0], [0, 0, 0], [0, 0, 1]]
    assert mean_average_precision(scores, relevant) == pytest.approx((1 / 2 + 1) / 2)
    assert np.isnan(mean_average_precision([[1.0, 2.0]], [[0, 0]]))


def test_recall_at_k_by_hand() -> None:
    scores, relevant = [[9, 8, 7, 6]], [[0, 1, 0, 1]]
    assert [recall_at_k(scores, relevant, k) for k in (1, 2, 3, 4)] == [0.0, 0.5, 0.5, 1.0]
    assert recall_at_k([[9, 5, 5, 1]], [[0, 1, 0, 0]], 2) == 0.5, "half of the tie fits"
    assert recall_at_k([[5, 4], [5, 4]], [[1, 0], [0, 0]], 1) == 1.0, "a query without partners does not count"


def brute_force(scores: NDArray[np.float32], groups: list[str]) -> tuple[float, float]:
    n, each, pair_scores, labels = len(groups), [], [], []
    for i in range(n):
        others = [j for j in range(n) if j != i]
        flags = [groups[i] == groups[j] for j in others]
        if any(flags):
            each.append(average_precision_score(flags, scores[i, others]))
        for j in range(i + 1, n):
            pair_scores.append(scores[i, j])
            labels.append(groups[i] == groups[j])
    return float(np.mean(each)), float(average_precision_score(labels, pair_scores))


@FEW
@given(st.integers(0, 1000), st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=18), st.integers(1, 20))
def test_groups_are_evaluated_as_by_brute_force_however_the_work_is_cut(
    seed: int, groups: list[str], chunk: int
) -> None:
    scores = np.random.default_rng(seed).integers(0, 5, (len(groups), len(groups))).astype(np.float32)
    scores = scores + scores.T
    if len(set(groups)) == len(groups):
        with pytest.raises(ValueError, match="nothing to find"):
            evaluate_groups(lambda a, b: scores[a:b], groups, chunk=chunk)
        return
    result = evaluate_groups(lambda a, b: scores[a:b], groups, chunk=chunk)
    expected_map, expected_micro = brute_force(scores, groups)
    assert result.mean_average_precision == pytest.approx(expected_map)
    assert result.micro_average_precision == pytest.approx(expected_micro)
    wanted = {(i, j) for i in range(len(groups)) for j in range(i + 1, len(groups)) if groups[i] == groups[j]}
    assert {(int(i), int(j)) for i, j in result.pairs} == wanted
    assert len(result.pairs) == len(wanted)
    np.testing.assert_array_equal(result.pair_scores, [scores[i, j] for i, j in result.pairs])


def test_a_picture_does_not_answer_itself() -> None:
    scores = np.array([[100, 1, 2], [1, 100, 3], [2, 3, 100]], np.float32)
    result = evaluate_groups(lambda a, b: scores[a:b], ["x", "x", "y"])
    assert list(result.query_ap[:2]) == [0.5, 0.5]
    assert np.isnan(result.query_ap[2])
    assert result.micro_average_precision == pytest.approx(1 / 3)


def test_what_cannot_be_ranked_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        average_precision([1.0, float("nan")], [1, 0])
    with pytest.raises(ValueError, match="at least one positive"):
        average_precision([1.0, 2.0], [0, 0])
    with pytest.raises(ValueError, match="shape"):
        average_precision([1.0, 2.0], [1])
    with pytest.raises(ValueError, match="precision lies"):
        precision_recall([1.0], []).recall_at_precision(0.0)
    with pytest.raises(ValueError, match="gave"):
        evaluate_groups(lambda a, b: np.zeros((b - a, 1), np.float32), ["x", "x"])


def test_a_pair_that_a_search_did_not_give_scores_zero() -> None:
    rows = rows_of_pairs(["a", "b", "c"], [("c", "a", 0.5)])
    assert rows(0, 3).tolist() == [[0.0, 0.0, 0.5], [0.0, 0.0, 0.0], [0.5, 0.0, 0.0]]
    assert rows(2, 3).tolist() == [[0.5, 0.0, 0.0]]
    assert not rows_of_pairs(["a", "b"], [])(0, 2).any()
