"""The manifest: schema, digest, and cuts that do not leak."""

from __future__ import annotations

import dataclasses
import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndd.data.manifest import (
    MANIFEST,
    ManifestRow,
    Split,
    assign_splits,
    fold_of,
    join_groups,
    k_folds,
    manifest_digest,
    read_manifest,
    split_of,
    write_manifest,
)
from ndd.data.uris import text_to_uri, uri_to_text
from ndd.errors import ConfigError, SchemaError
from ndd.types import Failure
from tests.ndd.data.builders import image


def row(path: str = "a.jpg", **changes: Any) -> ManifestRow:
    values = {"id": image(path), "uri": f"/album/{path}", "size": 100, "width": 4, "height": 3, "format": "JPEG"}
    return ManifestRow(path=path, **(values | changes))


def test_columns_and_types_are_the_documented_ones() -> None:
    assert [(f.name, str(f.type), f.nullable) for f in MANIFEST] == [
        ("id", "string", False),
        ("uri", "string", False),
        ("path", "string", False),
        ("sha256", "string", False),
        ("size", "int64", False),
        ("width", "int32", False),
        ("height", "int32", False),
        ("format", "string", False),
        ("taken", "string", True),
        ("split", "string", True),
        ("group", "string", True),
    ]


def test_rows_come_back_sorted_and_whole_and_the_bytes_depend_on_no_order(tmp_path: Path) -> None:
    rows = [
        row("b/ü.heic", taken="2024-02-29T23:59:59+02:00", split=Split.TEST, size=2**40),
        row("a.jpg", taken="2024-02-29T23:59:59"),
        row("c%FF.jpg", uri=os.fsdecode(b"/album/c\xff\n.jpg")),
        row("d.jpg", uri="file:///album/100%25.jpg"),
        row("copy.jpg", id=image("a.jpg")),
    ]
    first = write_manifest(tmp_path / "1.parquet", rows).read_bytes()
    assert read_manifest(tmp_path / "1.parquet") == sorted(rows, key=lambda r: r.path)
    assert write_manifest(tmp_path / "2.parquet", rows[::-1]).read_bytes() == first
    table = pq.read_table(tmp_path / "1.parquet")
    assert table.column("sha256") == table.column("id")


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([row(), row("b"), row(size=5)], "row 1 'a.jpg': is there twice"),
        ([row(id="abc")], "row 0 'a.jpg': id is 'abc'"),
        ([row(size=0)], "row 0 'a.jpg': size is 0"),
        ([row(width=-1)], "row 0 'a.jpg': width is -1"),
        ([row(width=2**31)], "column 'width': 2147483648 is not int32"),
        ([row(taken="2024:02:29 23:59:59")], "row 0 'a.jpg': taken is '2024:02:29 23:59:59'; expected ISO 8601"),
        ([row(split=Split.TRAIN), row("b", id=image("a.jpg"), split=Split.TEST)], "row 1 'b': same bytes as 'a.jpg'"),
        ([row("\udcff")], "not UTF-8"),
    ],
)
def test_bad_rows_are_refused(tmp_path: Path, rows: list[ManifestRow], problem: str) -> None:
    with pytest.raises(SchemaError, match=problem):
        write_manifest(tmp_path / "m.parquet", rows)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"sha256": "0" * 64}, "row 0 'a.jpg': sha256 differs from id"),
        ({"split": "validation"}, "row 0 'a.jpg': split is 'validation'; expected one of train, test"),
        ({"height": 0}, "row 0 'a.jpg': height is 0"),
        ({"uri": None}, "row 0, column 'uri': no value"),
    ],
)
def test_a_reader_checks_the_same_rules(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    values = {name: getattr(row(), name) for name in MANIFEST.names} | changes
    nullable = pa.schema([f.with_nullable(True) for f in MANIFEST])
    pq.write_table(pa.Table.from_pylist([values], schema=nullable), tmp_path / "m.parquet")
    with pytest.raises(SchemaError, match=problem):
        read_manifest(tmp_path / "m.parquet")


@given(st.binary(min_size=1, max_size=12))
def test_any_file_name_survives_as_text(name: bytes) -> None:
    uri = "/album/" + os.fsdecode(name)
    text = uri_to_text(uri)
    text.encode()
    assert len(text.splitlines()) == 1 or "\n" not in text
    assert not {"\n", "\r", "\0"} & set(text)
    assert text_to_uri(text) == uri


@given(st.text(max_size=12))
def test_a_place_that_looks_like_an_encoded_one_survives(rest: str) -> None:
    uri = "file://" + rest.encode("utf-8", "replace").decode()
    assert text_to_uri(uri_to_text(uri)) == uri


def test_the_digest_depends_on_content_names_splits_and_failures_alone() -> None:
    rows = [row("a"), row("b"), row("copy", id=image("a"))]
    failures = [Failure(path="x", stage="open", reason="gone"), Failure(path="y", stage="open", reason="gone")]
    digest = manifest_digest(rows, failures=failures)
    assert manifest_digest(reversed(rows), failures=reversed(failures)) == digest
    moved = [dataclasses.replace(r, uri="s3://bucket/" + r.path) for r in rows]
    assert manifest_digest(iter(moved), failures=iter(failures)) == digest
    others = [
        manifest_digest(rows),
        manifest_digest(rows, failures=failures[:1]),
        manifest_digest(rows, failures=[failures[0], dataclasses.replace(failures[1], reason="cut")]),
        manifest_digest(rows[:2], failures=failures),
        manifest_digest([*rows, rows[2]], failures=failures),
        manifest_digest([rows[0], dataclasses.replace(rows[1], path="c"), rows[2]], failures=failures),
        manifest_digest([rows[0], dataclasses.replace(rows[1], id=image("a")), rows[2]], failures=failures),
        manifest_digest([rows[0], dataclasses.replace(rows[1], split=Split.TEST), rows[2]], failures=failures),
        manifest_digest([]),
    ]
    assert len({digest, *others}) == len(others) + 1


def test_a_name_cannot_pass_for_two_rows() -> None:
    """The digest of rows is no digest of their texts joined."""
    forged = row('a", "' + image("a") + '"]\n["b')
    assert manifest_digest([forged]) != manifest_digest([row("a"), row("b")])


def test_the_cut_is_pinned() -> None:
    """These sides are a contract: another hash would move pictures from training into everybody's test sets."""
    held_out = [group for group in "abcdefgh" if split_of(group) is Split.TEST]
    assert held_out == ["a", "b", "c"]
    assert [fold_of(group, folds=5) for group in "abcdefgh"] == [3, 3, 4, 1, 1, 1, 1, 2]


def test_shares_are_near_what_was_asked_and_a_seed_draws_anew() -> None:
    groups = [f"group {i}" for i in range(5000)]
    for test in (0.2, 0.5):
        share = sum(split_of(g, test=test) is Split.TEST for g in groups) / len(groups)
        assert abs(share - test) < 0.03  # five standard deviations
    both = sum(split_of(g) is Split.TEST and split_of(g, seed=1) is Split.TEST for g in groups) / len(groups)
    assert abs(both - 0.04) < 0.015  # independent: .2 × .2
    folds = Counter(fold_of(g, folds=5) for g in groups)
    assert set(folds) == set(range(5))
    assert max(abs(n - 1000) for n in folds.values()) < 150
    tested = Counter(fold_of(g, folds=5) for g in groups if split_of(g) is Split.TEST)
    assert min(tested.values()) > 120  # folds do not follow the cut


def test_a_larger_share_only_adds_and_new_pictures_move_nobody() -> None:
    rows = [row(f"{i}.jpg") for i in range(200)]
    small = {r.path for r in assign_splits(rows, test=0.1) if r.split is Split.TEST}
    large = {r.path for r in assign_splits(rows, test=0.3) if r.split is Split.TEST}
    assert small < large
    more = assign_splits([*rows, *(row(f"new {i}.jpg") for i in range(100))], test=0.3)
    assert {r.path for r in more if r.split is Split.TEST and not r.path.startswith("new")} == large


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3)), min_size=1, max_size=40), st.integers(0, 99))
def test_groups_are_never_cut_in_any_order(members: list[tuple[int, int]], seed: int) -> None:
    rows = [row(f"{i}.jpg", id=image(("content", group, copy))) for i, (group, copy) in enumerate(members)]
    groups = {r.path: f"group {group}" for r, (group, _) in zip(rows, members, strict=True)}
    done = assign_splits(rows, groups=groups, seed=seed)
    assert [r.path for r in done] == [r.path for r in rows]
    assert len({(groups[r.path], r.split) for r in done}) == len(set(groups.values()))
    shuffled = random.Random(seed).sample(rows, len(rows))
    assert {r.path: r.split for r in assign_splits(shuffled, groups=groups, seed=seed)} == {
        r.path: r.split for r in done
    }
    folds = k_folds(rows, folds=3, groups=groups, seed=seed)
    assert sorted(r.path for _, held in folds for r in held) == sorted(r.path for r in rows)
    for train, held in folds:
        assert len(train) + len(held) == len(rows)
        assert not {groups[r.path] for r in train} & {groups[r.path] for r in held}
        assert not {r.id for r in train} & {r.id for r in held}


def test_without_groups_equal_bytes_stay_together() -> None:
    rows = [row(f"{i}.jpg", id=image(i // 2)) for i in range(100)]
    done = assign_splits(rows)
    assert all(a.split is b.split for a, b in zip(done[::2], done[1::2], strict=True))
    assert {r.split for r in done} == set(Split)


def test_groups_that_would_leak_are_refused() -> None:
    rows = [row("a"), row("b", id=image("a"))]
    with pytest.raises(SchemaError, match="'b' in group '2' has the same bytes as 'a' in group '1'; join the groups"):
        assign_splits(rows, groups={"a": "1", "b": "2"})
    with pytest.raises(SchemaError, match="'b': is in no group"):
        k_folds(rows, folds=2, groups={"a": "1"})
    with pytest.raises(ConfigError, match="test is the share"):
        assign_splits(rows, test=1.0)
    with pytest.raises(ConfigError, match="folds must be at least 2"):
        k_folds(rows, folds=1)


def test_the_group_of_a_row_decides_its_side_and_is_kept(tmp_path: Path) -> None:
    rows = [row(f"{i}.jpg", group=f"g{i % 3}") for i in range(12)]
    cut = assign_splits(rows, test=0.5)
    assert {(r.group, r.split) for r in cut} == {(f"g{i}", split_of(f"g{i}", test=0.5)) for i in range(3)}
    assert read_manifest(write_manifest(tmp_path / "manifest.parquet", cut)) == sorted(cut, key=lambda r: r.path)
    for training, held in k_folds(cut, folds=3):
        assert not {r.group for r in training} & {r.group for r in held}
    alone = assign_splits([row("a.jpg")], test=0.5)
    assert alone[0].group is None
    assert manifest_digest(cut) != manifest_digest(assign_splits([row(f"{i}.jpg", group="g") for i in range(12)]))


def test_linked_places_share_a_group() -> None:
    assert join_groups(["a", "b", "c", "d", "b"], [(3, 2), (4, 0)]) == ["a", "a", "c", "c", "a"]
    assert join_groups(["b", "a"], []) == ["b", "a"]
