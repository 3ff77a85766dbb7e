"""Decisions: what stands, what links, what is refused, and that nothing acknowledged is ever lost."""

from __future__ import annotations

import csv
import dataclasses
import zlib
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndd.data.decision_rows import COLUMNS
from ndd.data.decisions import DecisionStore, settle
from ndd.errors import SchemaError, StoreError
from ndd.types import Decision, Draw, ImageId, Relation, Verdict, pair_id
from tests.ndd.data.builders import EPOCH, decision, ends, image

DUPLICATE, DISTINCT, UNSURE, WITHDRAWN = Verdict


@pytest.fixture
def store(tmp_path: Path) -> DecisionStore:
    return DecisionStore(tmp_path / "decisions")


def verdicts(*decisions: Decision) -> list[Verdict]:
    """The verdicts that stand, one for each pair."""
    return [d.verdict for d in settle(decisions).values()]


# --- the store ----------------------------------------------------------------------------------------------------


def test_what_is_appended_is_loaded_in_order_by_any_store(store: DecisionStore) -> None:
    full = decision(
        "c",
        "d",
        DISTINCT,
        relation=Relation.SCENE,
        reviewer='Zoë "z", 山田　太郎',
        time=datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=timezone(timedelta(hours=5, minutes=30))),
        draw=Draw.AUDIT,
        p_draw=0.1 + 0.2,
        source="label studio",
        supersedes="x" * 32,
    )
    assert store.append(full)
    assert store.append(decision())
    assert store.load() == DecisionStore(store.path.parent).load() == [full, decision()]
    assert [d.decision_id for d in store.load()] == [full.decision_id, decision().decision_id]


def test_reading_creates_nothing(store: DecisionStore, tmp_path: Path) -> None:
    assert (store.load(), store.current(), store.damage(), store.must_links()) == ([], {}, [], [])
    assert list(tmp_path.iterdir()) == []


def test_the_same_answer_is_stored_once(store: DecisionStore) -> None:
    elsewhere = decision(time=EPOCH.astimezone(timezone(timedelta(hours=-8))))  # the same moment, told in another zone
    assert [store.append(decision()), store.append(decision()), store.append(elsewhere)] == [True, False, False]
    assert DecisionStore(store.path.parent).extend([elsewhere, decision(at=1), decision(at=1)]) == 1
    assert store.load() == [decision(), decision(at=1)]


def test_the_log_is_a_csv_that_any_program_reads(store: DecisionStore) -> None:
    store.append(decision(reviewer="a, b"))
    with store.path.open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["reviewer"] == "a, b"
    assert row["pair_id"] == pair_id(image("a"), image("b"))
    assert list(row) == [*COLUMNS, "check"]


@pytest.mark.parametrize(
    ("changes", "column"),
    [
        ({"left_id": "a", "right_id": "b"}, "left_id"),
        ({"right_id": ImageId("g" * 64)}, "right_id"),
        ({"reviewer": ""}, "reviewer"),
        ({"reviewer": "two\nlines"}, "reviewer"),
        ({"source": "\udcff"}, "source"),
        ({"embedding_digest": "a\0b"}, "embedding_digest"),
        ({"supersedes": decision().decision_id}, "supersedes"),
    ],
)
def test_what_cannot_be_stored_is_refused_and_nothing_with_it_is(
    store: DecisionStore, changes: dict[str, Any], column: str
) -> None:
    bad = dataclasses.replace(decision(), **changes)
    with pytest.raises(SchemaError, match=f"decision 1, column '{column}'"):
        store.extend([decision(at=1), bad])
    assert store.load() == []


def test_a_file_that_is_no_log_is_left_alone(store: DecisionStore) -> None:
    store.path.parent.mkdir()
    store.path.write_text("my,own,table\n1,2,3\n")
    for use in (store.load, store.damage, lambda: store.append(decision())):
        with pytest.raises(StoreError, match="not a log of ndd"):
            use()
    assert store.path.read_text() == "my,own,table\n1,2,3\n"


def test_a_line_of_a_newer_version_is_an_error_and_not_skipped(store: DecisionStore) -> None:
    """Passing over an answer that is whole but not understood could bring an older one back."""
    store.append(decision())
    line = store.path.read_bytes().splitlines()[1].rpartition(b",")[0].replace(b",duplicate,", b",undecided,")
    with store.path.open("ab") as file:
        file.write(line + b",%08x\n" % zlib.crc32(line))
    with pytest.raises(SchemaError, match=r"decisions.csv, line 3, column 'verdict': 'undecided'"):
        store.load()


# --- what stands --------------------------------------------------------------------------------------------------


def test_the_newest_answer_of_a_reviewer_stands() -> None:
    assert verdicts(decision(at=2), decision(verdict=DISTINCT, at=1)) == [DUPLICATE]
    assert verdicts(decision(at=1), decision(verdict=DISTINCT, at=2)) == [DISTINCT]


def test_of_several_reviewers_the_newest_word_stands() -> None:
    ada, bob = decision(at=1), decision(verdict=DISTINCT, at=2, reviewer="bob")
    assert verdicts(ada, bob) == [DISTINCT]
    assert verdicts(ada, bob, decision(at=3)) == [DUPLICATE]


def test_withdrawing_takes_ones_own_word_back_and_no_other() -> None:
    old, ada, bob = decision(verdict=DISTINCT, at=0), decision(at=1), decision(verdict=UNSURE, at=2, reviewer="bob")
    gone = decision(verdict=WITHDRAWN, at=3)
    assert verdicts(old, ada, gone) == []  # the older answer does not come back
    assert verdicts(old, ada, bob, gone) == [UNSURE]
    assert verdicts(old, ada, gone, decision(verdict=DISTINCT, at=4)) == [DISTINCT]


def test_supersedes_voids_the_answer_of_somebody_else() -> None:
    old, wrong = decision(verdict=DISTINCT, at=0), decision(at=5)
    admin = decision(verdict=WITHDRAWN, at=6, reviewer="admin", supersedes=wrong.decision_id)
    assert verdicts(old, wrong, admin) == []
    early = decision(verdict=UNSURE, at=1, reviewer="bob", supersedes=wrong.decision_id)
    assert verdicts(old, wrong, early) == [UNSURE]  # void even though it is the newest


def test_ones_own_correction_wins_over_a_clock_set_back() -> None:
    wrong = decision(at=5)
    assert verdicts(wrong, decision(verdict=DISTINCT, at=1, supersedes=wrong.decision_id)) == [DISTINCT]


def test_supersedes_reaches_no_other_pair() -> None:
    other = decision("x", "y")
    both = settle([other, decision(supersedes=other.decision_id)])
    assert set(both) == {other.pair_id, decision().pair_id}


decisions = st.builds(
    decision,
    st.sampled_from("ab"),
    st.sampled_from("cd"),
    st.sampled_from(Verdict),
    at=st.integers(0, 3),
    reviewer=st.sampled_from(["ada", "bob"]),
)


@given(st.lists(decisions, max_size=12, unique_by=lambda d: d.decision_id), st.data())
def test_what_stands_depends_on_no_order(answers: list[Decision], data: st.DataObject) -> None:
    """Stores that exchanged their decisions by export and import agree."""
    earlier: list[str | None] = [None, *(a.decision_id for a in answers)]
    answers = [dataclasses.replace(a, supersedes=data.draw(st.sampled_from(earlier))) for a in answers]
    standing = settle(answers)
    assert standing == settle(data.draw(st.permutations(answers)))
    assert list(standing) == sorted(standing)
    assert WITHDRAWN not in {d.verdict for d in standing.values()}
    assert all(key == d.pair_id for key, d in standing.items())


def test_links_for_grouping(store: DecisionStore) -> None:
    store.extend(
        [
            decision("a", "b"),
            decision("a", "c", relation=Relation.REENCODED),
            decision("a", "d", relation=Relation.SCENE),
            decision("b", "c", DISTINCT),
            decision("b", "d", UNSURE),
            decision("c", "d", DISTINCT),
            decision("c", "d", WITHDRAWN, at=1),
        ]
    )

    def pairs(*names: str) -> list[tuple[str, str]]:
        return sorted((ends(*name)["left_id"], ends(*name)["right_id"]) for name in names)

    assert store.must_links() == pairs("ab", "ac")
    assert store.cannot_links() == pairs("bc", "ad")  # the same scene is no duplicate for a run that wants edits
    assert store.must_links(relation=Relation.SCENE) == pairs("ab", "ac", "ad")
    assert store.cannot_links(relation=Relation.SCENE) == pairs("bc")
    assert store.must_links(relation=Relation.EXACT) == pairs("ab")
    assert store.must_links([image("a"), image("c"), image("z")]) == pairs("ac")
    assert store.must_links([]) == store.cannot_links([]) == []
