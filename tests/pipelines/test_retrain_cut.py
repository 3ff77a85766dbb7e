"""What is trained on and what is held out, once people have judged pairs."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from ndd.data.manifest import ManifestRow, Split, assign_splits
from ndd.types import Decision, Draw, Verdict
from pipelines.retrain_cut import comparable, cut, trainable
from tests.pipelines.test_retrain_due import picture, said


def rows(count: int) -> list[ManifestRow]:
    listed = [
        ManifestRow(id=picture(n), uri=f"/p/{n}.jpg", path=f"{n}.jpg", size=1, width=1, height=1, format="JPEG")
        for n in range(count)
    ]
    return assign_splits(listed)


def both_trained(decisions: list[Decision], cut_rows: list[ManifestRow]) -> int:
    among = trainable(cut_rows)
    return sum(d.left_id in among and d.right_id in among for d in decisions)


def test_answers_teach_though_chance_would_hold_their_pictures_out() -> None:
    given_rows, decisions = rows(1000), [said(n) for n in range(40)]
    assert both_trained(decisions, given_rows) < 32
    moved = cut(given_rows, decisions, photos=30)
    assert both_trained(decisions, moved) == 40
    assert [replace(row, split=None) for row in moved] == [replace(row, split=None) for row in given_rows]
    held = {row.id for row in given_rows if row.split is Split.TEST}
    assert {row.id for row in moved if row.split is Split.TEST} < held


def test_pictures_of_audits_are_left_where_they_are() -> None:
    given_rows = rows(1000)
    assert cut(given_rows, [said(n, draw=Draw.AUDIT) for n in range(40)], photos=30) == given_rows


@given(st.integers(1, 400), st.integers(1, 80))
def test_enough_are_held_out_to_compare_on(answers: int, photos: int) -> None:
    given_rows = rows(800)
    before = sum(row.split is Split.TEST for row in given_rows)
    after = sum(row.split is Split.TEST for row in cut(given_rows, [said(n) for n in range(answers)], photos=photos))
    assert after >= min(2 * photos, before // 2)


def test_a_picture_never_comes_back_to_the_held_out_ones() -> None:
    """More answers, or one that is taken back, leave what has been trained on where it is."""
    given_rows, decisions = rows(1000), [said(n, hour=n) for n in range(30)]
    first = trainable(cut(given_rows, decisions, photos=30))
    more = [*decisions, said(3, Verdict.WITHDRAWN, hour=40), *(said(n, hour=n) for n in range(30, 60))]
    assert first <= trainable(cut(given_rows, more, photos=30))


def test_pictures_without_a_split_get_one() -> None:
    bare = [replace(row, split=None) for row in rows(200)]
    assert {row.split for row in cut(bare, [], photos=20)} == {Split.TRAIN, Split.TEST}


def test_a_copy_of_what_is_trained_on_is_not_compared_on() -> None:
    given_rows = [replace(row, split=Split.TRAIN if n in (0, 3) else Split.TEST) for n, row in enumerate(rows(8))]
    # 0 – 1 by a duplicate; 2 – 3 are told to be distinct; 4 – 5 are copies, but neither is trained on.
    decisions = [said(0), said(1, Verdict.DISTINCT), said(2)]
    assert [row.path for row in comparable(given_rows, decisions)] == ["2.jpg", "4.jpg", "5.jpg", "6.jpg", "7.jpg"]
