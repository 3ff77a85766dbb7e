"""Pairs → tasks, annotations → decisions: pure functions, both ways."""

from __future__ import annotations

import xml.etree.ElementTree as tree
from datetime import timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from feedback.push import label_config
from feedback.tasks import Links, answers_of, follow, notes_of, question_of, task_of, view_of
from ndd.data.decisions import settle
from ndd.types import Decision, Draw, Relation, Verdict
from tests.ndd.data.builders import EPOCH, queued

LINKS = Links(left="l.jpg", right="r.jpg", aligned="a.jpg")
USERS = {1: "ada", 2: "bob"}


def task(*annotations: dict[str, Any], number: int = 7, **changes: Any) -> dict[str, Any]:
    """A task as the server tells it."""
    return {"id": number, **task_of(queued(**changes), LINKS), "annotations": list(annotations)}


def annotation(
    verdict: str | None, *, id: int = 1, user: int = 1, at: float = 0, relation: str = "", **changes: Any
) -> dict[str, Any]:
    said = {"verdict": verdict, "relation": relation}
    result = [{"from_name": name, "value": {"choices": [value]}} for name, value in said.items() if value]
    time = (EPOCH + timedelta(seconds=at)).isoformat().replace("+00:00", "Z")
    return {"id": id, "result": result, "completed_by": user, "updated_at": time, "was_cancelled": False} | changes


def told(tasks: list[dict[str, Any]], before: list[Decision]) -> list[Decision]:
    return follow(tasks, before, project="p", users=USERS)


def test_a_task_holds_all_that_a_decision_needs() -> None:
    pair = queued(draw=Draw.AUDIT, p_draw=0.125)
    question = question_of({"id": 1, **task_of(pair, LINKS)})
    assert question is not None
    assert question.pair_id == pair.pair_id
    (decision,) = told([task(annotation("duplicate", relation="edited"), draw=Draw.AUDIT, p_draw=0.125)], [])
    assert (decision.draw, decision.p_draw, decision.reviewer) == (Draw.AUDIT, 0.125, "ada")
    assert (decision.verdict, decision.relation, decision.time) == (Verdict.DUPLICATE, Relation.EDITED, EPOCH)
    assert (decision.embedding_digest, decision.scorer_digest) == (pair.embedding_digest, pair.scorer_digest)
    assert decision.source == "label-studio/p/7.1"


def test_no_answer_in_advance_and_no_score_in_audit_draws() -> None:
    for draw, suggest, chosen in (
        (Draw.AUDIT, True, False),
        (Draw.AUDIT, False, False),
        (Draw.UNCERTAIN, False, False),
        (Draw.UNCERTAIN, True, True),
    ):
        made = task_of(queued(draw=draw, score=0.625), LINKS, suggest=suggest)
        assert bool(made["predictions"][0]["result"]) == chosen
        assert ("0.625" in str(made["data"])) == (draw is Draw.UNCERTAIN)


def test_tasks_that_are_not_ours_or_damaged_are_passed_over() -> None:
    good = task(annotation("duplicate"))
    for broken in (
        {**good, "meta": {}},
        {**good, "meta": {**good["meta"], "left_id": "x"}},
        {**good, "meta": {**good["meta"], "p_draw": 0}},
        {**good, "meta": {**good["meta"], "draw": "guess"}},
        {**good, "data": {**good["data"], "pair_id": "0" * 64}},
        {**good, "meta": {**good["meta"], "left_id": good["meta"]["right_id"], "right_id": good["meta"]["left_id"]}},
    ):
        assert told([broken], []) == []


def test_what_is_no_answer() -> None:
    for nothing in (
        annotation(None),
        annotation("withdrawn"),
        annotation("perhaps"),
        annotation("duplicate", was_cancelled=True),
        annotation("duplicate", result=[{"from_name": "verdict", "value": {"choices": ["duplicate", "distinct"]}}]),
    ):
        assert answers_of(task(nothing)) == []


def test_a_relation_belongs_to_a_duplicate_alone() -> None:
    (answer,) = answers_of(task(annotation("distinct", relation="edited")))
    assert answer.relation is None


def test_following_twice_is_following_once() -> None:
    tasks = [task(annotation("duplicate"), annotation("distinct", id=2, user=2, at=3))]
    first = told(tasks, [])
    assert len(first) == 2
    assert told(tasks, first) == []
    # The server may touch an annotation without changing what it says.
    assert told([task(annotation("duplicate", at=50), annotation("distinct", id=2, user=2, at=60))], first) == []


def test_skipping_after_answering_takes_the_answer_back() -> None:
    first = told([task(annotation("duplicate"))], [])
    (back,) = told([task(annotation("duplicate", was_cancelled=True))], first)
    assert (back.verdict, back.supersedes, back.reviewer) == (Verdict.WITHDRAWN, first[0].decision_id, "ada")
    assert settle([*first, back]) == {}
    assert told([task()], [*first, back]) == []
    (again,) = told([task(annotation("duplicate", at=90))], [*first, back])
    assert settle([*first, back, again])[again.pair_id].verdict is Verdict.DUPLICATE


def test_another_project_with_the_same_numbers_withdraws_nothing() -> None:
    first = told([task(annotation("duplicate"))], [])
    assert follow([task()], first, project="q", users=USERS) == []


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("say"), st.integers(1, 3), st.sampled_from(["duplicate", "distinct", "unsure"])),
        st.tuples(st.just("delete"), st.integers(1, 3), st.just("")),
        st.tuples(st.just("pull"), st.just(0), st.just("")),
    ),
    max_size=25,
)


@given(EVENTS)
def test_whatever_people_do_the_store_says_what_the_server_says(events: list[tuple[str, int, str]]) -> None:
    """Three people on one pair, a pull now and then: after the last one each person's word is their annotation."""
    from ndd.data.decisions import words

    users = {1: "ada", 2: "bob", 3: "eve"}
    there: dict[int, dict[str, Any]] = {}  # user → annotation; numbers are never used again
    log: list[Decision] = []
    for clock, (what, who, verdict) in enumerate([*events, ("pull", 0, "")]):
        if what == "say":
            number = there[who]["id"] if who in there else clock + 1
            there[who] = annotation(verdict, id=number, user=who, at=clock)
        elif what == "delete":
            there.pop(who, None)
        else:
            fresh = follow([task(*there.values())], log, project="p", users=users)
            log += [d for d in fresh if d.decision_id not in {known.decision_id for known in log}]
    said = {word.reviewer: str(word.verdict) for word in next(iter(words(log).values()), [])}
    assert said == {users[who]: a["result"][0]["value"]["choices"][0] for who, a in there.items()}


def test_notes_are_followed_whenever_they_come() -> None:
    def written(text: str) -> dict[str, Any]:
        said = annotation("distinct")
        return task(said | {"result": [*said["result"], {"from_name": "note", "value": {"text": [text]}}]})

    (decision,) = told([written("")], [])
    assert notes_of([written("first")], [], project="p") == []  # nothing to hang it on yet
    # Of an answer that is stored already: a pull was killed, or the note was edited.
    for text in ("first", "another", ""):
        assert told([written(text)], [decision]) == []
        assert notes_of([written(text)], [decision], project="p") == [(decision.decision_id, text)]


def test_the_labelling_screen() -> None:
    screen = tree.fromstring(label_config())
    data = task_of(queued(), LINKS)["data"]
    used = {e.get("value", "")[1:] for e in screen.iter() if e.get("value", "").startswith("$")}
    assert used <= data.keys()
    choices = {c.get("value"): c.get("hotkey") for c in screen.iter("Choice")}
    assert set(choices) == (set(Verdict) - {"withdrawn"}) | (set(Relation) - {"exact"})
    assert len(set(choices.values())) == len(choices)
    assert all(image.get("zoom") == "false" for image in screen.iter("Image"))
    assert not any(e.get("selected") or e.get("default") for e in screen.iter())


def test_the_tab() -> None:
    view = view_of(reviewers=1)
    assert view["ordering"] == ["-tasks:predictions_score"]
    (only,) = view["filters"]["items"]
    assert (only["filter"], only["operator"], only["value"]) == ("filter:tasks:total_annotations", "equal", 0)
