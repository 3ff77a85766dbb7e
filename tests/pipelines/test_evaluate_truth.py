"""Truths that cannot be right are refused by table and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from ndd.errors import SchemaError
from pipelines.evaluate_truth import read_truth


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in "abcde":
        (tmp_path / f"{name}.jpg").write_bytes(b"x")
    return tmp_path


def table(folder: Path, *lines: str) -> Path:
    path = folder / "truth.csv"
    path.write_text("\n".join(lines) + "\n" if lines else "", encoding="utf-8")
    return path


def test_groups(folder: Path) -> None:
    lines = ("image,group,note,severity", "a.jpg,1,original,", "b.jpg,1,crop,0.5", "c.jpg,,,", "d.jpg,7,single,")
    truth = read_truth(table(folder, *lines))
    assert truth.pairs is None
    assert truth.album.groups() == {"1": ("a.jpg", "b.jpg")}
    assert truth.album.images[1].severity == 0.5
    assert len({row.group for row in truth.album.images}) == 3


def test_pairs(folder: Path) -> None:
    truth = read_truth(table(folder, "left,right,label", "a.jpg,b.jpg,1", "b.jpg,c.jpg,duplicate", "a.jpg,d.jpg,0"))
    assert truth.pairs is not None
    assert [pair.duplicate for pair in truth.pairs] == [True, True, False]
    assert truth.album.groups() == {"a.jpg": ("a.jpg", "b.jpg", "c.jpg")}


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ((), "holds no row"),
        (("image,group",), "holds no row"),
        (("left,right,label",), "holds no row"),
        (("path,truth", "a.jpg,1"), "line 1: expected the columns"),
        (("image,group", "a.jpg,1", "z.jpg,1"), "line 3: z.jpg is not there"),
        (("image,group", "a.jpg,1", "b.jpg,1", "a.jpg,2"), "line 4: a.jpg is in line 2 already"),
        (("image,group", "a.jpg,1", "b.jpg,1", "c.jpg,2"), "line 4: c.jpg is alone in group '2'"),
        (("image,group", "a.jpg,", "b.jpg,"), "nothing to find"),
        (("image,group", "a.jpg,1", ",1"), "line 3: names no picture"),
        (("image,group,severity", "a.jpg,1,2", "b.jpg,1,"), "line 2: severity '2'"),
        (("image,group", "a.jpg,1,x"), "line 2: has more cells"),
        (("left,right,label", "a.jpg,b.jpg,1", "c.jpg,c.jpg,0"), "line 3: c.jpg is paired with itself"),
        (("left,right,label", "a.jpg,b.jpg,1", "b.jpg,a.jpg,0"), "line 3: b.jpg – a.jpg: line 2 says the opposite"),
        (("left,right,label", "a.jpg,b.jpg,1", "a.jpg,b.jpg,1"), "line 3.*line 2 says the same"),
        (("left,right,label", "a.jpg,b.jpg,maybe"), "line 2: label 'maybe'"),
        (("left,right,label", "a.jpg,b.jpg,1"), "no pair is labelled distinct"),
        (("left,right,label", "a.jpg,gone.jpg,1"), "line 2: gone.jpg is not there"),
    ],
)
def test_a_wrong_truth_is_named(folder: Path, lines: tuple[str, ...], said: str) -> None:
    with pytest.raises(SchemaError, match=said):
        read_truth(table(folder, *lines))


def test_no_table(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="cannot be read"):
        read_truth(tmp_path / "none.csv")
