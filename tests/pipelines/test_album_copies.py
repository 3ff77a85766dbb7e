"""Copies that an album does not list: they join groups in memory, and nothing else changes."""

from __future__ import annotations

from pathlib import Path

from pipelines.album import Album, AlbumImage
from pipelines.album_copies import UNLISTED, relabelled


def album(*rows: tuple[str, str]) -> Album:
    return Album(Path("nowhere"), tuple(AlbumImage(f"images/{name}", group, "single") for name, group in rows))


def test_pairs_join_the_groups_of_their_pictures() -> None:
    """a–b and c–b make one group of three, the copy of a with them; e stays alone."""
    given = album(("a.webp", "a"), ("a-1-crop.jpg", "a"), ("b.jpg", "b"), ("c.png", "c"), ("e.png", "e"))
    got = relabelled(given, {("a", "b"): "", ("c", "b"): "", ("e", "not there"): "", ("b", "a"): "again"})
    assert {row.image: row.group for row in got.images} == {
        "images/a.webp": "c",
        "images/a-1-crop.jpg": "c",
        "images/b.jpg": "c",
        "images/c.png": "c",
        "images/e.png": "e",
    }
    assert [row.group for row in given.images] == ["a", "a", "b", "c", "e"], "what was given stays as it was"


def test_an_album_without_them_is_itself() -> None:
    given = album(("a.webp", "a"), ("b.webp", "b"))
    assert relabelled(given) is given


def test_the_list_names_pictures_and_what_is_seen() -> None:
    for (left, right), seen in UNLISTED.items():
        assert left < right and "." not in left + right
        assert len(seen) > 20
