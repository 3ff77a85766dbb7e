"""Choosing from a search into the queue, and from the queue what is sent."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from feedback import push
from feedback.desk import Desk
from ndd.candidates import read_candidates
from ndd.data.queue import QueuedPair
from ndd.types import Draw
from tests.ndd.data.builders import decision, queued
from tests.samples import small_search


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_search(tmp_path_factory.mktemp("runs"))


def test_choosing_twice_asks_nothing_twice(made: Path) -> None:
    desk, run = Desk(), read_candidates(made)
    assert push.choose(desk, run, count=6, audit_share=0.5, seed=0) == 6
    first = {pair.pair_id: pair for pair in desk.queue.waiting()}
    assert {pair.draw for pair in first.values()} == {Draw.AUDIT, Draw.UNCERTAIN}
    assert all(Path(pair.left_uri).name in pair.evidence["left"] for pair in first.values())
    push.choose(desk, run, count=6, audit_share=0.5, seed=0)
    both = [pair.pair_id for pair in desk.queue.waiting()]
    assert len(both) == len(set(both)) == 12
    some = next(iter(first.values()))
    desk.decisions.append(replace(decision(), left_id=some.left_id, right_id=some.right_id))
    push.choose(desk, run, count=500, audit_share=0.0, seed=0)
    assert some.pair_id not in {pair.pair_id for pair in desk.queue.waiting()}


def test_of_many_waiting_pairs_the_audit_draws_and_the_most_uncertain_go_first() -> None:
    waiting: list[QueuedPair] = [queued(f"a{i}", f"b{i}", score=0.5 + i / 100) for i in range(30)]
    waiting.append(queued("x", "y", draw=Draw.AUDIT, score=0.999))
    sent = list(push._most_urgent(waiting, 6))
    assert [pair.draw for pair in sent].count(Draw.AUDIT) == 1
    assert {round(pair.score, 2) for pair in sent if pair.draw is Draw.UNCERTAIN} == {0.5, 0.51, 0.52, 0.53, 0.54}
    assert list(push._most_urgent(waiting, None)) == waiting
