"""The demo's album and its judgement; the search itself is tested where it lives."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import pytest

from ndd.errors import DecodeError, StoreError, UsageError
from ndd.images import decode, read_file
from ndd.tables import GroupRow
from pipelines import demo
from pipelines.album import Album, AlbumImage
from pipelines.demo import build_demo_album, judge
from pipelines.edits import FAMILIES


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Album:
    return build_demo_album(tmp_path_factory.mktemp("demo") / "album", seed=0)


def test_the_album_is_about_a_hundred_readable_pictures_and_one_that_is_not(album: Album) -> None:
    on_disk = {f"images/{path.name}" for path in (album.root / "images").iterdir()}
    named = {row.image for row in album.images}
    assert 90 <= len(on_disk) <= 130
    assert on_disk - named == {"images/damaged.jpg"}
    for image in sorted(named):
        decode(read_file(album.root / image))
    with pytest.raises(DecodeError):
        decode(read_file(album.root / "images/damaged.jpg"))


def test_every_family_and_exact_copies_are_in_it(album: Album) -> None:
    families = [row.family for row in album.images]
    assert set(families) == {*FAMILIES, "original", "single", "exact copy"}
    assert all(families.count(family) >= 5 for family in FAMILIES)
    assert len(album.groups()) == families.count("original") == 10
    for row in album.images:
        if row.family == "exact copy":
            original = next(o for o in album.images if o.group == row.group and o.note == "original")
            assert (album.root / row.image).read_bytes() == (album.root / original.image).read_bytes()


def test_a_second_demo_leaves_the_same_album_untouched_and_mends_a_damaged_one(album: Album, tmp_path: Path) -> None:
    root = tmp_path / "album"
    shutil.copytree(album.root, root)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert build_demo_album(root, seed=0) == Album(root, album.images)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    (root / "images" / "camera.png").unlink()
    (root / "images" / "stranger.jpg").write_bytes(b"x")
    mended = build_demo_album(root, seed=0)
    assert mended.digest() == album.digest()
    assert {path.name for path in (root / "images").iterdir()} == {p.name for p in (album.root / "images").iterdir()}
    assert [path.name for path in tmp_path.iterdir()] == ["album"]


def test_a_folder_that_is_no_album_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "album").mkdir()
    (tmp_path / "album" / "holiday.jpg").write_bytes(b"mine")
    with pytest.raises(StoreError, match="not an album"):
        build_demo_album(tmp_path / "album")
    assert (tmp_path / "album" / "holiday.jpg").read_bytes() == b"mine"


def truth(*rows: tuple[str, str, str]) -> Album:
    return Album(Path("nowhere"), tuple(AlbumImage(f"images/{name}", group, note) for name, group, note in rows))


def grouped(*groups: str) -> list[GroupRow]:
    return [
        GroupRow(group=number, path=f"{name}.jpg", keep=at == 0, reason="")
        for number, names in enumerate(groups)
        for at, name in enumerate(names)
    ]


ALBUM = truth(
    ("a.jpg", "A", "original"),
    ("b.jpg", "A", "crop"),
    ("c.jpg", "A", "mixture: crop + mirror"),
    ("d.jpg", "A", "crop"),
    ("p.jpg", "P", "original"),
    ("q.jpg", "P", "crop"),
    ("s.jpg", "S", "single"),
)


def test_copies_count_as_found_only_beside_their_original() -> None:
    judgement = judge(ALBUM, grouped("ab", "cd", "pq"))
    assert judgement.families == {"crop": (3, 2), "mixture": (1, 0)}
    assert judgement.missed == ("c.jpg (mixture: crop + mirror)", "d.jpg (crop)")
    assert judgement.false_groups == ()


def test_a_group_that_joins_two_photographs_is_false() -> None:
    judgement = judge(ALBUM, grouped("abcd", "pqs"))
    assert judgement.families == {"crop": (3, 3), "mixture": (1, 1)}
    assert judgement.false_groups == (("images/p.jpg", "images/q.jpg", "images/s.jpg"),)
    assert judge(ALBUM, grouped("ap")).false_groups == (("images/a.jpg", "images/p.jpg"),)
    assert len(judge(ALBUM, grouped("sz")).false_groups) == 1, "a file that is in no truth is a photograph of its own"


def test_nothing_found_is_all_missed() -> None:
    judgement = judge(ALBUM, [])
    assert judgement.families == {"crop": (3, 0), "mixture": (1, 0)}
    table = demo.table(judgement)
    assert table.splitlines()[1].split() == ["crop", "3", "0", "3"]
    assert table.splitlines()[3].split() == ["all", "4", "0", "4"]
    assert "false groups: 0" in table


def test_the_printed_table_counts() -> None:
    lines = demo.table(judge(ALBUM, grouped("abd", "cs"))).splitlines()
    assert lines[1].split() == ["crop", "3", "2", "1"]
    assert lines[2].split() == ["mixture", "1", "0", "1"]
    assert lines[3].split() == ["all", "4", "2", "2"]
    assert lines[4] == "missed: c.jpg (mixture: crop + mirror), q.jpg (crop)"
    assert lines[5:] == ["false groups: 1", "  c.jpg, s.jpg"]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    args = parser.parse_args(["--out", str(tmp_path / "out"), "--images", str(tmp_path / "no photos")])
    with pytest.raises(UsageError, match="no photos"):
        demo.run(args)
    assert not (tmp_path / "out").exists()
