"""The paper's protocol: who is compared with whom, where the threshold comes from, and the measures by other means."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from ndd.errors import InputError
from pipelines.album import Album, AlbumImage
from pipelines.evaluate_pairs import (
    FOLDS,
    VALIDATION,
    PairSet,
    _mean_over_pictures,
    _small_ap,
    best_threshold,
    draw_pairs,
    figures,
)

scored = st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=2, max_size=30)


def album(groups: int = 20, singles: int = 15) -> Album:
    rows = [AlbumImage(f"{g}-{k}", f"g{g}", "") for g in range(groups) for k in range(3)]
    return Album(Path("nowhere"), (*rows, *(AlbumImage(f"s{k}", f"s{k}", "single") for k in range(singles))))


def neutral(count: int) -> np.ndarray:
    vectors = np.random.default_rng(0).normal(size=(count, 8)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_the_pairs_are_balanced_and_stay_within_their_fold() -> None:
    made = album()
    vectors = neutral(len(made.images))
    pairs = draw_pairs(made, vectors, most=40)
    groups = np.array([row.group for row in made.images])
    same = groups[pairs.left] == groups[pairs.right]
    np.testing.assert_array_equal(same, pairs.label)
    assert {kind: int((pairs.kind == kind).sum()) for kind in ("duplicate", "hard", "random")} == {
        "duplicate": 40,
        "hard": 20,
        "random": 20,
    }
    assert len({frozenset(pair) for pair in zip(pairs.left.tolist(), pairs.right.tolist(), strict=True)}) == 80
    fold = {}
    for left, right, number in zip(pairs.left, pairs.right, pairs.fold, strict=True):
        for end in (left, right):
            assert fold.setdefault(groups[end], number) == number, "a photograph is on one side of a split only"
    assert set(fold.values()) == set(range(FOLDS))
    for at in np.flatnonzero(pairs.kind == "hard")[:5]:
        left, right = pairs.left[at], pairs.right[at]
        nearer = [
            other
            for other in range(len(groups))
            if groups[other] != groups[left] and vectors[other] @ vectors[left] > vectors[right] @ vectors[left]
        ]
        assert all(fold.get(groups[other]) != fold[groups[left]] or _taken(pairs, left, other) for other in nearer)
    again = draw_pairs(made, vectors, most=40)
    np.testing.assert_array_equal(again.right, pairs.right)


def _taken(pairs: PairSet, left: int, other: int) -> bool:
    return any({int(a), int(b)} == {int(left), other} for a, b in zip(pairs.left, pairs.right, strict=True))


def test_too_few_groups_are_an_error() -> None:
    with pytest.raises(InputError, match="too few"):
        draw_pairs(album(groups=4), neutral(27))


@settings(deadline=None, max_examples=60)
@given(scored.filter(lambda rows: any(label for label, _ in rows)))
def test_the_threshold_is_the_best_there_is(rows: list[tuple[bool, int]]) -> None:
    labels, scores = np.array([r[0] for r in rows]), np.array([float(r[1]) for r in rows])
    threshold = best_threshold(labels, scores)
    best = max(f1_score(labels, scores >= t) for t in np.unique(scores))
    assert f1_score(labels, scores >= threshold) == pytest.approx(best)


@settings(deadline=None, max_examples=60)
@given(scored.filter(lambda rows: any(label for label, _ in rows)))
def test_the_quick_average_precision_is_that_of_scikit_learn(rows: list[tuple[bool, int]]) -> None:
    labels, scores = np.array([r[0] for r in rows]), np.array([float(r[1]) for r in rows])
    assert _small_ap(scores, labels) == pytest.approx(average_precision_score(labels, scores))


def pair_set() -> PairSet:
    """A duplicate and a stranger pair of each of ten groups, two groups to a fold."""
    at = np.arange(20)
    return PairSet(at, at + 20, at % 2 == 0, np.where(at % 2 == 0, "duplicate", "random"), at // 2, (at // 2) % FOLDS)


def test_figures_are_those_of_the_test_part_at_the_threshold_of_the_other() -> None:
    pairs = pair_set()
    scores = np.where(pairs.label, 0.8, 0.2).astype(np.float64)
    scores[pairs.fold == VALIDATION] += 1.0  # its threshold is 1.5 or so: nothing else is accepted there
    found = figures(pairs, scores)
    assert 1.2 < found["threshold"] < 1.8
    assert found["recall"]["value"] == 0.0
    test = pairs.fold != VALIDATION
    assert found["roc_auc"]["value"] == pytest.approx(roc_auc_score(pairs.label[test], scores[test]))
    assert found["confusion"] == {"true_positive": 0, "false_positive": 0, "false_negative": 8, "true_negative": 8}
    assert found["pairs"] == {"duplicate": 8, "random": 8}


def test_a_perfect_method_has_no_doubt() -> None:
    pairs = pair_set()
    found = figures(pairs, np.where(pairs.label, 0.8, 0.2))
    for name in ("accuracy", "precision", "recall", "f1", "roc_auc", "pr_auc"):
        assert found[name] == {"value": 1.0, "low": 1.0, "high": 1.0}
        assert found["folds"][name] == {"mean": 1.0, "sd": 0.0}


def test_map_by_hand() -> None:
    """Picture 0 has a duplicate at .5 and strangers at .9 and .5; picture 1 a duplicate only, so it asks nothing."""
    pairs = PairSet(
        np.array([0, 0, 0]),
        np.array([1, 2, 3]),
        np.array([True, False, False]),
        np.array(["duplicate", "random", "random"]),
        np.zeros(3, np.int64),
        np.zeros(3, np.int64),
    )
    assert _mean_over_pictures(pairs, np.array([0.5, 0.9, 0.5]), np.arange(3)) == pytest.approx(1 / 3)


def test_a_missing_score_is_named() -> None:
    pairs = pair_set()
    scores = np.ones(20)
    scores[7] = np.nan
    with pytest.raises(ValueError, match="pair 7"):
        figures(pairs, scores)
    with pytest.raises(ValueError, match="19 of 20"):
        figures(pairs, np.ones(19))
