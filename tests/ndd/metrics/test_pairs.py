"""Decision measures against hand counts and scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, precision_score, recall_score, roc_auc_score

from ndd.metrics.pairs import Confusion, compare_pairs, confusion, pairs_of_groups, roc_auc

FEW = settings(deadline=None, max_examples=40)  # scikit-learn takes milliseconds a call
decided = st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=1, max_size=40)


def test_counts_by_hand() -> None:
    counts = confusion([1, 1, 1, 0, 0, 0, 0], [0.9, 0.5, 0.1, 0.5, 0.4, 0.3, 0.2], threshold=0.5)
    assert counts == Confusion(true_positive=2, false_positive=1, false_negative=1, true_negative=3)
    assert counts.precision == pytest.approx(2 / 3)
    assert counts.recall == pytest.approx(2 / 3)
    assert counts.f1 == pytest.approx(2 / 3)
    assert counts.false_positive_rate == pytest.approx(1 / 4)
    assert counts.accuracy == pytest.approx(5 / 7)


@FEW
@given(decided, st.integers(0, 7))
def test_ratios_are_those_of_scikit_learn(rows: list[tuple[bool, int]], threshold: int) -> None:
    labels, scores = np.array(rows).T
    counts = confusion(labels, scores, threshold=threshold)
    accepted = scores >= threshold
    for ours, theirs in ((counts.precision, precision_score), (counts.recall, recall_score), (counts.f1, f1_score)):
        expected = theirs(labels, accepted, zero_division=np.nan)
        assert ours == pytest.approx(expected, nan_ok=True)


@FEW
@given(decided.filter(lambda rows: len({label for label, _ in rows}) == 2))
def test_auc_is_that_of_scikit_learn(rows: list[tuple[bool, int]]) -> None:
    labels, scores = np.array(rows).T
    assert roc_auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores))


def test_auc_by_hand_and_without_one_class() -> None:
    assert roc_auc([1, 0, 1, 0], [4, 3, 2, 2]) == pytest.approx((2 + 0.5) / 4)
    assert math.isnan(roc_auc([1, 1], [0.5, 0.6]))


def test_nothing_accepted_gives_no_flattering_precision() -> None:
    counts = confusion([1, 0], [0.1, 0.2], threshold=0.9)
    assert math.isnan(counts.precision)
    assert counts.recall == 0.0


def test_sets_of_pairs() -> None:
    counts = compare_pairs([("a", "b"), ("d", "c"), ("a", "e")], [("b", "a"), ("c", "d"), ("c", "e")], images=5)
    assert counts == Confusion(true_positive=2, false_positive=1, false_negative=1, true_negative=6)


@pytest.mark.parametrize("twice", [[("a", "b"), ("a", "b")], [("a", "b"), ("b", "a")]])
def test_a_pair_named_twice_is_refused(twice: list[tuple[str, str]]) -> None:
    with pytest.raises(ValueError, match="predicted.*twice"):
        compare_pairs(twice, [("a", "b")], images=3)
    with pytest.raises(ValueError, match="true.*twice"):
        compare_pairs([("a", "b")], twice, images=3)


def test_impossible_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="itself"):
        compare_pairs([("a", "a")], [], images=3)
    with pytest.raises(ValueError, match="2 pictures have 1 pairs"):
        compare_pairs([("a", "b")], [("a", "c")], images=2)
    with pytest.raises(ValueError, match="one length"):
        confusion([1, 0], [0.5], threshold=0.5)
    with pytest.raises(ValueError, match="NaN"):
        roc_auc([1, 0], [0.5, float("nan")])


def test_pairs_of_groups() -> None:
    assert pairs_of_groups([("a", "b", "c"), ("d", "e")]) == [("a", "b"), ("a", "c"), ("b", "c"), ("d", "e")]
    with pytest.raises(ValueError, match="'b' is in two groups"):
        pairs_of_groups([("a", "b"), ("b", "c")])
