"""The queue: nothing asked twice, nothing decided asked, nothing lost."""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ndd.data.decisions import DecisionStore
from ndd.data.queue import QueueStore
from ndd.errors import SchemaError, StoreError
from ndd.types import Draw, ImageId, Verdict
from tests.ndd.data.builders import EPOCH, child_environment, decision, image, queued

HOUR = timedelta(hours=1)


@pytest.fixture
def decisions(tmp_path: Path) -> DecisionStore:
    return DecisionStore(tmp_path / "decisions")


@pytest.fixture
def queue(tmp_path: Path, decisions: DecisionStore) -> QueueStore:
    return QueueStore(tmp_path / "queue", decisions=decisions)


def again(queue: QueueStore, decisions: DecisionStore) -> QueueStore:
    """The same queue as another process finds it."""
    return QueueStore(queue.path.parent, decisions=DecisionStore(decisions.path.parent))


def test_pairs_come_back_whole_and_in_order(queue: QueueStore, decisions: DecisionStore) -> None:
    pairs = [
        queued("c", "d", score=0.1 + 0.2, draw=Draw.AUDIT, p_draw=1e-7, evidence={"inliers": 3, "ü": [0.1, None]}),
        queued("a", "b", left_uri=os.fsdecode(b"/album/\xff\n.jpg"), right_uri='/album/"x", y.jpg'),
    ]
    assert queue.put(pairs) == 2
    assert queue.waiting() == again(queue, decisions).waiting() == pairs


def test_looking_creates_nothing(queue: QueueStore, tmp_path: Path) -> None:
    assert (queue.waiting(), queue.damage()) == ([], [])
    assert list(tmp_path.iterdir()) == []


def test_a_pair_is_queued_once(queue: QueueStore, decisions: DecisionStore) -> None:
    first = queued(score=0.5)
    assert queue.put([first, queued("c", "d"), queued(score=0.6)]) == 2
    assert again(queue, decisions).put([queued(score=0.7)]) == 0
    assert queue.waiting() == [first, queued("c", "d")]


@pytest.mark.parametrize("verdict", [Verdict.DUPLICATE, Verdict.DISTINCT, Verdict.UNSURE])
def test_a_decided_pair_is_neither_put_nor_shown_nor_given_out(
    queue: QueueStore, decisions: DecisionStore, verdict: Verdict
) -> None:
    decisions.append(decision("a", "b", verdict))
    assert queue.put([queued("a", "b"), queued("c", "d")]) == 1
    decisions.append(decision("c", "d", verdict))  # by another way, while it waits
    assert queue.waiting() == []
    assert queue.take(9, by="me") == []
    decisions.append(decision("a", "b", Verdict.WITHDRAWN, at=1))
    assert queue.put([queued("a", "b")]) == 1
    decisions.append(decision("c", "d", Verdict.WITHDRAWN, at=1))
    assert [p.pair_id for p in queue.take(9, by="me")] == [queued("c", "d").pair_id, queued("a", "b").pair_id]


def test_taken_pairs_go_to_nobody_else_until_the_lease_ends(queue: QueueStore, decisions: DecisionStore) -> None:
    pairs = [queued("x", i) for i in range(5)]
    queue.put(pairs)
    other = again(queue, decisions)
    assert queue.take(2, by="ada", lease=HOUR, now=EPOCH) == pairs[:2]
    assert other.take(1, by="bob", now=EPOCH) == pairs[2:3]
    assert other.take(9, by="bob", now=EPOCH + HOUR - timedelta(microseconds=1)) == pairs[3:]
    assert other.take(9, by="bob", now=EPOCH + HOUR) == pairs[:2]  # the lease ended; bob's have none
    assert queue.take(9, by="ada", now=EPOCH + 1000 * HOUR) == []
    assert queue.waiting() == pairs  # taken is not answered
    assert queue.take(0, by="ada") == queue.take(-1, by="ada") == []


def test_released_pairs_are_given_out_again(queue: QueueStore) -> None:
    pairs = [queued("x", i) for i in range(3)]
    queue.put(pairs)
    queue.take(2, by="ada")
    assert queue.release([pairs[1].pair_id, pairs[2].pair_id, "unknown"]) == 1
    assert queue.take(9, by="bob") == pairs[1:]


def test_answered_pairs_leave_the_queue(queue: QueueStore, decisions: DecisionStore) -> None:
    pairs = [queued("x", i) for i in range(3)]
    queue.put(pairs)
    done = pairs[0].pair_id
    assert queue.answered([done, done, "unknown"]) == 1
    assert queue.answered([done]) == 0
    assert again(queue, decisions).waiting() == pairs[1:]
    assert queue.put([pairs[0]]) == 1  # nobody's decision stands: it may be asked again, behind the others
    assert queue.waiting() == [*pairs[1:], pairs[0]]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"score": float("nan")}, "score is nan"),
        ({"score": 1.5}, "score is 1.5"),
        ({"p_draw": 0.0}, "p_draw is 0.0"),
        ({"enqueued": datetime(2026, 1, 1)}, "time zone"),
        ({"right_id": image("a"), "left_id": image("a")}, "left_id is not below right_id"),
        ({"left_id": ImageId("1"), "right_id": ImageId("2")}, "no sha256"),
        ({"evidence": {"x": float("inf")}}, "cannot be stored"),
        ({"evidence": {"x": object()}}, "cannot be stored"),
        ({"source": "two\nlines"}, "cannot be stored"),
    ],
)
def test_what_cannot_be_stored_is_refused_and_nothing_with_it_is(
    queue: QueueStore, changes: dict[str, Any], problem: str
) -> None:
    with pytest.raises(SchemaError, match=problem):
        queue.put([queued("c", "d"), dataclasses.replace(queued(), **changes)])
    assert queue.waiting() == []
    with pytest.raises(SchemaError, match="by:"):
        queue.put([queued()])
        queue.take(1, by="two\nlines")
    assert queue.take(1, by="me") == [queued()]


def test_a_torn_event_did_not_happen(
    queue: QueueStore, decisions: DecisionStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    pairs = [queued("x", i) for i in range(2)]
    queue.put(pairs)
    size = queue.path.stat().st_size
    queue.take(1, by="ada")
    os.truncate(queue.path, queue.path.stat().st_size - 5)
    found = again(queue, decisions)
    assert [d.line for d in found.damage()] == [4]
    assert found.take(9, by="bob") == pairs
    assert "cut short by a crash" in caplog.text
    assert found.damage() == []
    os.truncate(queue.path, size)
    assert again(queue, decisions).take(9, by="cyd") == pairs


def test_a_file_that_is_no_queue_is_left_alone(queue: QueueStore) -> None:
    queue.path.parent.mkdir()
    queue.path.write_text("left,right\na,b\n")
    with pytest.raises(StoreError, match="not a log of ndd"):
        queue.put([queued()])
    assert queue.path.read_text() == "left,right\na,b\n"


TAKER = """
import sys
from ndd.data.decisions import DecisionStore
from ndd.data.queue import QueueStore
queue = QueueStore(sys.argv[1], decisions=DecisionStore(sys.argv[2]))
print("ready", flush=True)
sys.stdin.readline()
while pairs := queue.take(3, by=sys.argv[3]):
    for pair in pairs:
        print(pair.pair_id, flush=True)
"""


def test_takers_in_several_processes_never_get_the_same_pair(queue: QueueStore, decisions: DecisionStore) -> None:
    pairs = [queued("x", i) for i in range(100)]
    queue.put(pairs)
    command = [sys.executable, "-c", TAKER, str(queue.path.parent), str(decisions.path.parent)]
    children = [
        subprocess.Popen([*command, n], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=child_environment())
        for n in ("ada", "bob", "cyd")
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
    taken = [line for child in children for line in child.communicate(b"go\n", timeout=120)[0].decode().split()]
    assert sorted(taken) == sorted(p.pair_id for p in pairs)


PUTTER = """
import itertools, sys
from ndd.data.decisions import DecisionStore
from ndd.data.queue import QueueStore
from tests.ndd.data.builders import queued
queue = QueueStore(sys.argv[1], decisions=DecisionStore(sys.argv[2]))
for i in itertools.count():
    pair = queued(sys.argv[3], i)
    queue.put([pair])
    print(pair.pair_id, flush=True)
"""


def test_killed_while_putting_no_acknowledged_pair_is_missing(queue: QueueStore, decisions: DecisionStore) -> None:
    for i in range(3):
        child = subprocess.Popen(
            [sys.executable, "-c", PUTTER, str(queue.path.parent), str(decisions.path.parent), f"round {i}"],
            stdout=subprocess.PIPE,
            env=child_environment(),
        )
        assert child.stdout is not None
        acknowledged = [child.stdout.readline().decode().strip() for _ in range(2 + 9 * i)]
        child.send_signal(signal.SIGKILL)
        acknowledged += child.stdout.read().decode().split("\n")[:-1]
        assert child.wait() == -signal.SIGKILL
        child.stdout.close()
        waiting = [p.pair_id for p in again(queue, decisions).waiting()]
        assert set(acknowledged) <= set(waiting)
        assert len(waiting) == len(set(waiting))
        assert queue.put([queued("probe", i)]) == 1
