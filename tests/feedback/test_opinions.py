"""Agreement and majority of several reviewers, against figures worked out by hand."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedback.opinions import cohen_kappa, contradicted, krippendorff_alpha, opinions, outcome, panel
from ndd.data.decisions import settle
from ndd.types import Decision, Verdict
from tests.ndd.data.builders import EPOCH, decision

SAME, OTHER, UNSURE = Verdict.DUPLICATE, Verdict.DISTINCT, Verdict.UNSURE


def word(
    reviewer: str, verdict: Verdict, *, at: float = 0, source: str = "label-studio/p/1.1", **more: object
) -> Decision:
    return decision(verdict=verdict, at=at, reviewer=reviewer, source=source, **more)


def test_kappa_of_cohens_example() -> None:
    # 50 proposals: both yes 20, both no 15, only the first 5, only the second 10: observed .7, by chance .5.
    pairs = [("y", "y")] * 20 + [("n", "n")] * 15 + [("y", "n")] * 5 + [("n", "y")] * 10
    assert cohen_kappa(pairs) == pytest.approx(0.4)
    assert cohen_kappa([]) is None
    assert cohen_kappa([("y", "y")] * 3) == 1.0


def test_alpha_of_krippendorffs_example() -> None:
    # "Computing Krippendorff's alpha-reliability" (2011), A: two observers, binary data, ten units of which four differ;
    # 14 values are 0 and 6 are 1: 1 − 19 · 4 / (14 · 6).
    meg, owen = "0100000000", "1110010010"
    assert krippendorff_alpha(list(zip(meg, owen, strict=True))) == pytest.approx(1 - 19 * 4 / (14 * 6))
    assert krippendorff_alpha([["a"], []]) is None
    assert krippendorff_alpha([["a", "a"], ["a", "a"]]) == 1.0


@given(st.lists(st.lists(st.sampled_from("ab"), max_size=4), max_size=12))
def test_alpha_by_its_definition(items: list[list[str]]) -> None:
    ours, definition = krippendorff_alpha(items), _alpha_by_definition(items)
    assert ours == (None if definition is None else pytest.approx(definition))


def _alpha_by_definition(items: list[list[str]]) -> float | None:
    """Observed disagreement within units over that of all values thrown together, by plain loops."""
    units = [unit for unit in items if len(unit) > 1]
    values = [value for unit in units for value in unit]
    if not values:
        return None
    observed = sum(
        sum(a != b for i, a in enumerate(unit) for j, b in enumerate(unit) if i != j) / (len(unit) - 1)
        for unit in units
    ) / len(values)
    expected = sum(a != b for i, a in enumerate(values) for j, b in enumerate(values) if i != j) / (
        len(values) * (len(values) - 1)
    )
    return 1.0 if expected == 0 else 1.0 - observed / expected


def test_outcome_and_contradiction() -> None:
    for said, verdict, tie in (
        ([SAME, SAME, OTHER], SAME, False),
        ([SAME, OTHER], UNSURE, True),
        ([SAME, UNSURE], SAME, False),
        ([UNSURE, UNSURE], UNSURE, False),
        ([OTHER], OTHER, False),
        ([SAME, SAME, OTHER, OTHER, UNSURE], UNSURE, True),
    ):
        given_ = [word(str(i), v) for i, v in enumerate(said)]
        assert outcome(given_) is verdict
        assert contradicted(given_) is tie


def test_the_majority_stands_and_a_tie_links_nothing() -> None:
    log = [word("ada", SAME), word("bob", SAME, at=1), word("eve", OTHER, at=2)]
    log += panel(log, project="p")
    assert [d.verdict for d in settle(log).values()] == [SAME]
    assert panel(log, project="p") == []
    log.append(word("bob", OTHER, at=10, supersedes=log[1].decision_id))
    log += panel(log, project="p")
    assert [d.verdict for d in settle(log).values()] == [OTHER]
    log.append(word("eve", Verdict.WITHDRAWN, at=11, supersedes=log[2].decision_id))
    log += panel(log, project="p")
    assert [d.verdict for d in settle(log).values()] == [UNSURE]
    assert panel(log, project="p") == []
    assert {d.reviewer for said in opinions(log).values() for d in said.values()} == {"ada", "bob"}


def test_a_last_word_from_elsewhere_is_left_alone() -> None:
    log = [word("ada", SAME), word("bob", SAME, at=1), word("chief", OTHER, at=5, source="cli")]
    assert panel(log, project="p") == []
    assert [d.verdict for d in settle(log).values()] == [OTHER]


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from([SAME, OTHER, UNSURE])), min_size=1, max_size=12))
def test_after_the_panel_the_outcome_stands(said: list[tuple[str, Verdict]]) -> None:
    log: list[Decision] = []
    for at, (who, verdict) in enumerate(said):
        log.append(word(who, verdict, at=at))
        log += panel(log, project="p")
        (standing,) = settle(log).values()
        (words,) = opinions(log).values()
        assert standing.verdict is outcome(words.values())
        assert standing.time <= EPOCH + timedelta(seconds=at + 1)
