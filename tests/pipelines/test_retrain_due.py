"""When it is time to retrain, and from which decisions."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from ndd.types import Decision, Draw, ImageId, Verdict, image_id
from pipelines.retrain_due import Due, Rules, due

NOW = datetime(2026, 11, 22, tzinfo=UTC)
RULES = Rules(least=6, days=30, few=2, judged=3, contradicted=0.25)


def picture(number: int) -> ImageId:
    return image_id(str(number).encode())


def said(
    number: int,
    verdict: Verdict = Verdict.DUPLICATE,
    *,
    draw: Draw = Draw.UNCERTAIN,
    reviewer: str = "ann",
    hour: int = 0,
) -> Decision:
    left, right = sorted((picture(2 * number), picture(2 * number + 1)))
    return Decision(
        left_id=left,
        right_id=right,
        verdict=verdict,
        relation=None,
        reviewer=reviewer,
        time=NOW - timedelta(days=1) + timedelta(hours=hour),
        embedding_digest="e",
        scorer_digest="s",
        draw=draw,
        p_draw=0.5 if draw is Draw.AUDIT else 1.0,
    )


def both_kinds(count: int) -> list[Decision]:
    return [said(i, Verdict.DUPLICATE if i % 2 else Verdict.DISTINCT) for i in range(count)]


def asked(decisions: list[Decision], *, known: set[str] | None = None, last: datetime | None = None) -> Due:
    there = {picture(i) for i in range(1000)}
    return due(decisions, there=there, known=known or set(), last=last, now=NOW, rules=RULES)


def test_enough_new_decisions_of_both_kinds() -> None:
    found = asked(both_kinds(6))
    assert found.why_not is None
    assert len(found.train) == len(found.fresh) == 6


def test_too_few_new_ones() -> None:
    decisions = both_kinds(9)
    found = asked(decisions, known={d.decision_id for d in decisions[:4]})
    assert found.why_not == "5 new decisions since the last retraining, 6 are wanted"
    assert len(found.train) == 9  # all of them would teach


def test_after_a_month_a_few_will_do() -> None:
    decisions = both_kinds(5)
    known = {d.decision_id for d in decisions[:3]}
    assert asked(decisions, known=known, last=NOW - timedelta(days=29)).why_not is not None
    assert asked(decisions, known=known, last=NOW - timedelta(days=31)).why_not is None
    known = {d.decision_id for d in decisions[:4]}
    assert asked(decisions, known=known, last=NOW - timedelta(days=31)).why_not is not None


def test_a_month_counts_from_the_oldest_answer_before_the_first_retraining() -> None:
    decisions = both_kinds(2)
    assert asked(decisions).why_not is not None
    old = [replace(d, time=d.time - timedelta(days=31)) for d in decisions[:1]]
    assert asked([*old, *decisions[1:]]).why_not is None


def test_audits_measure_and_never_teach() -> None:
    audits = [said(100 + i, draw=Draw.AUDIT) for i in range(20)]
    found = asked([*both_kinds(5), *audits])
    assert found.why_not is not None
    assert "5 new decisions" in found.why_not
    assert len(found.audit) == 20
    assert not {d.draw for d in found.train} & {Draw.AUDIT}


def test_unsure_and_withdrawn_answers_say_nothing() -> None:
    withdrawn = said(0, Verdict.WITHDRAWN, hour=2)
    unsure = said(1, Verdict.UNSURE, hour=2)
    found = asked([*both_kinds(8), withdrawn, unsure])
    assert {d.pair_id for d in found.train} == {said(i).pair_id for i in range(2, 8)}


def test_pictures_that_are_not_there() -> None:
    decisions = both_kinds(8)
    there = {picture(i) for i in range(10)}  # those of the first five decisions
    found = due(decisions, there=there, known=(), last=None, now=NOW, rules=RULES)
    assert (len(found.train), found.absent) == (5, 3)


def test_answers_on_held_out_pictures_neither_teach_nor_count() -> None:
    decisions = both_kinds(8)
    there = {picture(i) for i in range(1000)}
    found = due(
        decisions, there=there, trainable=there - {picture(0), picture(3)}, known=(), last=None, now=NOW, rules=RULES
    )
    assert (len(found.train), len(found.fresh), found.kept_out, found.absent) == (6, 6, 2, 0)


def test_one_kind_alone_teaches_nothing() -> None:
    found = asked([said(i) for i in range(10)])
    assert found.why_not is not None
    assert "none is distinct" in found.why_not


@pytest.mark.parametrize(("disagreed", "goes_on"), [(1, True), (2, False)])
def test_contradictory_reviewers_are_sent_back(disagreed: int, goes_on: bool) -> None:
    decisions = both_kinds(12)
    for at in range(4):
        other = Verdict.DISTINCT if decisions[at].verdict is Verdict.DUPLICATE else Verdict.DUPLICATE
        verdict = other if at < disagreed else decisions[at].verdict
        decisions.append(replace(decisions[at], reviewer="bob", verdict=verdict))
    found = asked(decisions)
    assert (found.disagreed, found.judged_twice) == (disagreed, 4)
    assert (found.why_not is None) is goes_on


def test_two_pairs_judged_twice_are_no_pattern() -> None:
    decisions = both_kinds(12)
    for at in range(2):
        other = Verdict.DISTINCT if decisions[at].verdict is Verdict.DUPLICATE else Verdict.DUPLICATE
        decisions.append(replace(decisions[at], reviewer="bob", verdict=other))
    assert asked(decisions).why_not is None
