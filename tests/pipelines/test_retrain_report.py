"""Which groups split and merged, told by hand-made cases."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipelines.retrain_report import compare_groups


def test_a_group_that_falls_apart() -> None:
    found = compare_groups([["a", "b", "c", "d"]], [["a", "b"], ["c", "d"]])
    assert found.split == ((("a", "b", "c", "d"), (("a", "b"), ("c", "d"))),)
    assert found.merged == found.new == found.gone == ()
    assert (found.before, found.after, found.same) == (1, 2, 0)


def test_a_picture_that_leaves_its_group() -> None:
    found = compare_groups([["a", "b", "c"]], [["a", "b"]])
    assert found.split == ((("a", "b", "c"), (("a", "b"), ("c",))),)


def test_groups_that_grow_together() -> None:
    found = compare_groups([["a", "b"], ["c", "d"]], [["d", "c", "b", "a", "e"]])
    assert found.merged == ((("a", "b", "c", "d", "e"), (("a", "b"), ("c", "d"), ("e",))),)
    assert found.split == ()


def test_new_gone_and_the_same() -> None:
    found = compare_groups([["a", "b"], ["x", "y"]], [["b", "a"], ["p", "q"]])
    assert (found.same, found.new, found.gone) == (1, (("p", "q"),), (("x", "y"),))


def test_pictures_that_change_places() -> None:
    found = compare_groups([["a", "b"], ["c", "d"]], [["a", "c"], ["b", "d"]])
    assert [whole for whole, _ in found.split] == [("a", "b"), ("c", "d")]
    assert [whole for whole, _ in found.merged] == [("a", "c"), ("b", "d")]


def _partition(marks: list[int]) -> list[list[str]]:
    groups: dict[int, list[str]] = {}
    for at, mark in enumerate(marks):
        groups.setdefault(mark, []).append(f"p{at}")
    return [group for group in groups.values() if len(group) > 1]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=12))
def test_every_group_is_accounted_for_and_the_way_back_mirrors_it(marks: list[tuple[int, int]]) -> None:
    before, after = _partition([a for a, _ in marks]), _partition([b for _, b in marks])
    there, back = compare_groups(before, after), compare_groups(after, before)
    assert there.split == back.merged
    assert there.merged == back.split
    assert (there.new, there.gone, there.same) == (back.gone, back.new, back.same)
    # An old group is the same, gone, split, or lies whole in a larger new one, which is then a merged one.
    grown = {piece for _, pieces in there.merged for piece in pieces if len(piece) > 1}
    told = {whole for whole, _ in there.split} | set(there.gone) | grown
    assert there.before - there.same == len({tuple(sorted(group)) for group in before} & told)
