"""pairs, groups, failures and vectors: what may be written, what may be read, and that the bytes follow from the rows."""

from __future__ import annotations

import dataclasses
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ndd.errors import DigestMismatch, InputError, NddError, SchemaError, StoreError
from ndd.tables import (
    FAILURES,
    GROUPS,
    PAIRS,
    GroupRow,
    PairRow,
    read_failures,
    read_groups,
    read_pairs,
    read_vectors,
    vectors_schema,
    write_failures,
    write_groups,
    write_pairs,
    write_vectors,
)
from ndd.types import Failure, Relation

PAIR = PairRow(
    left="a.jpg",
    right="b.jpg",
    score=0.5,
    duplicate=True,
    relation=Relation.EDITED,
    distance=0.25,
    evidence={"inliers": 31, "mirrored": False, "transform": [[1.0, 0.0], [0.5, 1.0]], "ränder": None},
)
GROUP = [
    GroupRow(group=0, path="a.jpg", keep=True, reason="largest"),
    GroupRow(group=0, path="b.jpg", keep=False, reason="smaller"),
]


def pair(**changes: Any) -> PairRow:
    return dataclasses.replace(PAIR, **changes)


def member(group: int, path: str, keep: bool = False) -> GroupRow:
    return GroupRow(group=group, path=path, keep=keep, reason="")


def unit(count: int, dim: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_columns_and_types_are_the_documented_ones() -> None:
    """The schema is a contract with other programs: spelled out here once more, by hand."""
    assert [(f.name, str(f.type), f.nullable) for f in PAIRS] == [
        ("left", "string", False),
        ("right", "string", False),
        ("score", "float", False),
        ("duplicate", "bool", False),
        ("relation", "string", True),
        ("distance", "float", False),
        ("evidence", "string", False),
    ]
    assert [(f.name, str(f.type)) for f in GROUPS] == [
        ("group", "int64"),
        ("path", "string"),
        ("keep", "bool"),
        ("reason", "string"),
    ]
    assert [(f.name, str(f.type)) for f in FAILURES] == [("path", "string"), ("stage", "string"), ("reason", "string")]
    vector = vectors_schema(3).field("vector").type
    assert (vector.list_size, str(vector.value_type)) == (3, "float")


def test_pairs_come_back_sorted_and_whole(tmp_path: Path) -> None:
    rows = [pair(left="b.jpg", right="ü/é.jpg", relation=None, evidence={}), pair(left="b.jpg", right="c\n.jpg"), PAIR]
    write_pairs(tmp_path / "pairs.parquet", rows)
    assert read_pairs(tmp_path / "pairs.parquet") == [rows[2], rows[1], rows[0]]


def test_order_of_paths_is_by_code_point_beyond_the_basic_plane(tmp_path: Path) -> None:
    """UTF-16 order, as some languages sort, would put U+1F600 before U+FF21."""
    rows = [pair(left="\uff21", right="\U0001f600"), pair(left="Z", right="a")]
    write_pairs(tmp_path / "pairs.parquet", rows)
    assert [row.left for row in read_pairs(tmp_path / "pairs.parquet")] == ["Z", "\uff21"]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (pair(left="b.jpg", right="a.jpg"), "left is not below right"),
        (pair(left="a.jpg", right="a.jpg"), "left is not below right"),
        (pair(score=float("nan")), "score is nan"),
        (pair(score=1.0000001), "score is 1.0000001"),
        (pair(score=-0.1), "score is -0.1"),
        (pair(score=float("inf")), "score is inf"),
        (pair(distance=float("nan")), "distance is nan"),
        (pair(distance=2.5), "distance is 2.5"),
        (pair(distance=-1e-9), "distance is -1e-09"),
        (pair(evidence={"x": float("nan")}), "evidence is not plain JSON"),
        (pair(evidence={"x": {1, 2}}), "evidence is not plain JSON"),
        (pair(right="b\udcff.jpg"), "not UTF-8"),
    ],
)
def test_a_bad_pair_is_refused_by_row_and_nothing_is_written(tmp_path: Path, row: PairRow, problem: str) -> None:
    path = tmp_path / "pairs.parquet"
    good = pair(left="0.jpg", right="1.jpg")
    with pytest.raises(SchemaError, match=problem) as error:
        write_pairs(path, [good, row])
    assert "row 1" in str(error.value)
    assert str(path) in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_repeated_pair_is_refused_even_with_another_score(tmp_path: Path) -> None:
    rows = [PAIR, pair(left="0.jpg"), pair(score=0.9)]
    with pytest.raises(SchemaError, match=r"row 2 'a\.jpg' – 'b\.jpg': the pair is there twice"):
        write_pairs(tmp_path / "pairs.parquet", rows)


def table_of(**columns: Any) -> pa.Table:
    """A pairs table written by somebody else, with one column replaced (None: left out)."""
    values: dict[str, Any] = {
        "left": ["a", "b"],
        "right": ["b", "c"],
        "score": pa.array([0.5, 0.5], pa.float32()),
        "duplicate": [True, False],
        "relation": ["exact", None],
        "distance": pa.array([0.0, 0.1], pa.float32()),
        "evidence": ["{}", "{}"],
    }
    return pa.table({name: value for name, value in (values | columns).items() if value is not None})


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        (table_of(score=None), "column 'score' is missing"),
        (table_of(extra=[1, 2]), "unexpected column 'extra'"),
        (table_of(score=["0.5", "0.6"]), "column 'score' is string; expected float"),
        (table_of(duplicate=[1, 0]), "column 'duplicate' is int64; expected bool"),
        (table_of(left=["a", None]), "row 1, column 'left': no value"),
        (table_of(score=pa.array([0.5, None], pa.float32())), "row 1, column 'score': no value"),
        (table_of(score=pa.array([0.5, 7.0], pa.float32())), "row 1 'b' – 'c': score is 7.0"),
        (table_of(left=["b", "a"], right=["c", "b"]), "row 1 'a' – 'b': out of order"),
        (table_of(left=["a", "a"], right=["b", "b"]), "row 1 'a' – 'b': the pair is there twice"),
        (table_of(relation=["exact", "twin"]), "row 1 'b' – 'c': relation is 'twin'"),
        (table_of(evidence=["{}", "[1]"]), "row 1 'b' – 'c': evidence is"),
        (table_of(evidence=["{}", "{"]), "row 1 'b' – 'c': evidence is not JSON"),
    ],
)
def test_a_reader_names_what_is_wrong(tmp_path: Path, table: pa.Table, problem: str) -> None:
    path = tmp_path / "theirs.parquet"
    pq.write_table(table, path)
    with pytest.raises(SchemaError, match=problem) as error:
        read_pairs(path)
    assert str(path) in str(error.value)


def test_wider_types_of_other_writers_are_read(tmp_path: Path) -> None:
    table = table_of(
        left=pa.array(["a", "b"], pa.large_string()),
        relation=pa.array(["exact", None]).dictionary_encode(),
        score=pa.array([0.5, 0.1], pa.float64()),
    )
    pq.write_table(table.select(list(reversed(table.column_names))), tmp_path / "theirs.parquet")
    rows = read_pairs(tmp_path / "theirs.parquet")
    assert [(r.left, r.relation, r.score) for r in rows] == [
        ("a", Relation.EXACT, 0.5),
        ("b", None, float(np.float32(0.1))),
    ]


@pytest.mark.parametrize("read", [read_pairs, read_groups, read_failures, read_vectors])
def test_no_file_and_no_parquet_are_told_apart(tmp_path: Path, read: Callable[[Path], object]) -> None:
    with pytest.raises(InputError, match="no such file"):
        read(tmp_path / "absent.parquet")
    (tmp_path / "text.parquet").write_bytes(b"left,right\n")
    with pytest.raises(SchemaError, match="not a readable Parquet file"):
        read(tmp_path / "text.parquet")
    whole = write_failures(tmp_path / "whole.parquet", []).read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SchemaError, match="not a readable Parquet file"):
        read(tmp_path / "cut.parquet")


def test_groups_come_back_sorted(tmp_path: Path) -> None:
    rows = [member(7, "y"), member(7, "x", True), *reversed(GROUP)]
    write_groups(tmp_path / "groups.parquet", rows)
    assert read_groups(tmp_path / "groups.parquet") == [*GROUP, rows[1], rows[0]]


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([*GROUP, member(1, "c", True)], "row 2 'c': alone in group 1"),
        ([member(0, "a"), member(0, "b")], "row 0 'a': group 0 keeps nothing"),
        ([member(0, "a", True), member(0, "b", True)], "row 0 'a': group 0 keeps 'a' and 'b'"),
        ([*GROUP, member(1, "a.jpg", True), member(1, "c")], r"row 2 'a\.jpg': is in group 0 already"),
        ([*GROUP, member(0, "a.jpg")], r"row 2 'a\.jpg': is in group 0 already"),
        ([member(-1, "a", True), member(-1, "b")], "row 0 'a': group is -1"),
    ],
)
def test_a_bad_group_is_refused_when_written_and_when_read(tmp_path: Path, rows: list[GroupRow], problem: str) -> None:
    with pytest.raises(SchemaError, match=problem):
        write_groups(tmp_path / "groups.parquet", rows)
    theirs = pa.Table.from_pylist([dataclasses.asdict(row) for row in rows], schema=GROUPS)
    pq.write_table(theirs, tmp_path / "theirs.parquet")
    with pytest.raises(SchemaError, match=problem):
        read_groups(tmp_path / "theirs.parquet")


def test_failures_lose_nothing(tmp_path: Path) -> None:
    rows = [Failure(path="b", stage="open", reason="gone"), Failure(path="a", stage="decode", reason="cut\nshort")]
    write_failures(tmp_path / "f.parquet", [*rows, rows[0]])
    assert read_failures(tmp_path / "f.parquet") == [rows[1], rows[0], rows[0]]


def test_vectors_follow_their_paths(tmp_path: Path) -> None:
    vectors = unit(3, 5)
    write_vectors(tmp_path / "v.parquet", ["c", "a", "b"], vectors, model="m" * 64)
    found = read_vectors(tmp_path / "v.parquet", model="m" * 64)
    assert found.paths == ("a", "b", "c")
    assert found.vectors.dtype == np.float32
    np.testing.assert_array_equal(found.vectors, vectors[[1, 2, 0]])


def test_half_precision_vectors_pass_the_length_check(tmp_path: Path) -> None:
    """Vectors are rounded to half precision before they are stored, which moves their length a little."""
    halves = unit(200, 256).astype(np.float16)
    write_vectors(tmp_path / "v.parquet", [f"{i:03}" for i in range(200)], halves, model="m")
    np.testing.assert_array_equal(read_vectors(tmp_path / "v.parquet").vectors, halves.astype(np.float32))


def test_no_vectors_still_say_dimension_and_model(tmp_path: Path) -> None:
    write_vectors(tmp_path / "v.parquet", [], np.zeros((0, 7), np.float32), model="m")
    found = read_vectors(tmp_path / "v.parquet")
    assert (found.paths, found.vectors.shape, found.model) == ((), (0, 7), "m")
    with pytest.raises(DigestMismatch, match="made by model m, wanted other"):
        read_vectors(tmp_path / "v.parquet", model="other")


@pytest.mark.parametrize(
    ("paths", "vectors", "problem"),
    [
        (["a", "b"], np.array([[1.0, 0.0], [0.9, 0.0]]), "row 1 'b': the vector's length is 0.9"),
        (["a", "b"], np.array([[1.0, 0.0], [np.nan, 1.0]]), "row 1 'b': the vector's length is nan"),
        (["a", "b"], np.zeros((2, 3)), "row 0 'a': the vector's length is 0"),
        (["a", "a"], np.eye(2), "row 1 'a': is there twice"),
        (["a"], np.eye(2), r"1 paths need vectors \(1, dim\)"),
        (["a"], np.ones(1), r"1 paths need vectors \(1, dim\)"),
    ],
)
def test_bad_vectors_are_refused(tmp_path: Path, paths: list[str], vectors: np.ndarray, problem: str) -> None:
    with pytest.raises(SchemaError, match=problem):
        write_vectors(tmp_path / "v.parquet", paths, vectors, model="m")
    assert list(tmp_path.iterdir()) == []


def test_vectors_of_two_models_are_never_mixed(tmp_path: Path) -> None:
    table = pa.Table.from_arrays(
        [
            pa.array(["a", "b"]),
            pa.FixedSizeListArray.from_arrays(pa.array([1.0, 0.0, 0.0, 1.0], pa.float32()), 2),
            pa.array(["one", "two"]),
        ],
        schema=vectors_schema(2),
    )
    pq.write_table(table, tmp_path / "v.parquet")
    with pytest.raises(DigestMismatch, match="2 models in one file: one, two"):
        read_vectors(tmp_path / "v.parquet")


def test_the_same_rows_give_the_same_bytes_in_any_order(tmp_path: Path) -> None:
    pairs = [pair(left=f"{i:04}", right=f"{i + 1 + j:04}", score=i / 500) for i in range(400) for j in range(3)]
    groups = [member(i // 3, f"{i}.jpg", i % 3 == 0) for i in range(300)]
    vectors = unit(50, 16)
    paths = [f"{i:02}" for i in range(50)]
    order = list(range(50))
    images = set()
    for seed in range(3):
        shuffle = random.Random(seed).shuffle
        for rows in (pairs, groups, order):
            shuffle(rows)
        place = tmp_path / str(seed)
        place.mkdir()
        write_pairs(place / "p", pairs)
        write_groups(place / "g", groups)
        write_vectors(place / "v", [paths[i] for i in order], vectors[order], model="m")
        images.add(tuple((place / name).read_bytes() for name in "pgv"))
    assert len(images) == 1


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = write_pairs(tmp_path / "pairs.parquet", [PAIR])
    before = path.read_bytes()
    with pytest.raises(SchemaError):
        write_pairs(path, [pair(score=2.0)])
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["pairs.parquet"]


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be written") as error:
        write_pairs(tmp_path / "absent" / "pairs.parquet", [PAIR])
    assert "\n" not in str(error.value)


texts = st.text(st.characters(codec="utf-8"), max_size=6)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
rows_strategy = st.lists(
    st.builds(
        PairRow,
        left=texts,
        right=texts,
        score=st.floats(0, 1, width=32),
        duplicate=st.booleans(),
        relation=st.none() | st.sampled_from(Relation),
        distance=st.floats(0, 2, width=32),
        evidence=st.dictionaries(texts, values, max_size=3),
    ),
    max_size=8,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(rows=rows_strategy)
def test_what_is_accepted_comes_back_equal_and_the_rest_is_refused(tmp_path: Path, rows: list[PairRow]) -> None:
    keys = [(row.left, row.right) for row in rows]
    lawful = len(set(keys)) == len(keys) and all(left < right for left, right in keys)
    path = tmp_path / "pairs.parquet"
    try:
        write_pairs(path, rows)
    except NddError:
        assert not lawful
    else:
        assert lawful
        assert read_pairs(path) == sorted(rows, key=lambda row: (row.left, row.right))
