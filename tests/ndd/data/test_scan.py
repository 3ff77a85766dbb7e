"""Which files a scan finds, under which names, in ordinary and in hostile folders."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndd.data.scan import EXTENSIONS, Source, decode_path, encode_path, scan
from ndd.errors import UsageError
from ndd.types import Failure

PICTURE = b"whether it can be decoded is not a scan's business"


def put(path: Path | bytes) -> None:
    path = Path(os.fsdecode(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(PICTURE)


def paths(*roots: str | Path) -> list[str]:
    sources, failures = scan(roots)
    assert failures == []
    return [source.path for source in sources]


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """An ordinary folder below a temporary one, which is the working directory."""
    for name in ("b.jpg", "a.PNG", "2024/x.Jpeg", "2024/05/y.webp", "2024/05/notes.txt", "readme", "list.csv"):
        put(tmp_path / "album" / name)
    return tmp_path / "album"


def test_pictures_are_found_below_a_folder_in_order(album: Path) -> None:
    sources, failures = scan([album])
    assert failures == []
    assert [source.path for source in sources] == ["2024/05/y.webp", "2024/x.Jpeg", "a.PNG", "b.jpg"]
    assert [source.uri for source in sources] == [str(album / source.path) for source in sources]


@pytest.mark.parametrize("extension", sorted(EXTENSIONS))
def test_the_case_of_an_extension_does_not_matter(tmp_path: Path, extension: str) -> None:
    for name in (f"a{extension}", f"b{extension.upper()}", f"c{extension}.bak", f"d{extension}x", f"e.f{extension}"):
        put(tmp_path / name)
    assert paths(tmp_path) == [f"a{extension}", f"b{extension.upper()}", f"e.f{extension}"]


def test_an_empty_folder_holds_nothing(tmp_path: Path) -> None:
    assert scan([tmp_path]) == ([], [])


def test_a_file_named_directly_is_taken_whatever_it_is_called(album: Path) -> None:
    assert scan([album / "readme"]) == ([Source("readme", str(album / "readme"))], [])


def test_several_roots_prefix_the_path_as_typed(album: Path, tmp_path: Path) -> None:
    put(tmp_path / "other" / "b.jpg")
    with contextlib.chdir(tmp_path):
        assert paths("album/2024/", "./other", "album/b.jpg") == [
            "./other/b.jpg",
            "album/2024/05/y.webp",
            "album/2024/x.Jpeg",
            "album/b.jpg",
        ]
        assert paths(".") == [f"album/{path}" for path in paths("album")] + ["other/b.jpg"]
        assert all(os.path.isabs(source.uri) for source in scan(["album", "other"])[0])
        assert paths("../" + tmp_path.name + "/other", "album/b.jpg")[0] == f"../{tmp_path.name}/other/b.jpg"


def test_a_file_reached_by_two_roots_is_listed_once(album: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to("album")
    expected = ["album/2024/05/y.webp", "album/2024/x.Jpeg", "album/a.PNG", "album/b.jpg"]
    with contextlib.chdir(tmp_path):
        assert paths("album", "album/2024") == expected
        assert paths("album/2024", "album", "album/") == expected
        assert paths("album", "./album/b.jpg", "alias", "alias/a.PNG", str(album)) == expected
        assert paths("./album/b.jpg", "album") == ["./album/b.jpg", *expected[:3]]


def test_the_order_of_the_listing_does_not_matter(tmp_path: Path) -> None:
    names = [f"{'abc'[i % 3]}/{i * 7919 % 101}.jpg" for i in range(60)]
    results = []
    for seed in (1, 2):
        random.Random(seed).shuffle(names)
        root = tmp_path / str(seed)
        for name in names:
            put(root / name)
        for link in sorted(("z", "y", "x"), reverse=seed == 2):
            (root / link).symlink_to("a")
        results.append(paths(root))
    assert results[0] == results[1] == sorted(names)


@pytest.mark.parametrize("root", ["missing", "album/missing.jpg", "album/b.jpg/below", "", "nul\0byte"])
def test_a_missing_root_is_wrong_usage(album: Path, tmp_path: Path, root: str) -> None:
    with contextlib.chdir(tmp_path), pytest.raises(UsageError) as caught:
        scan(["album", root])
    assert repr(root) in str(caught.value)
    assert caught.value.exit_code == 2


def test_no_root_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match="at least one"):
        scan([])
    with pytest.raises(TypeError, match="list"):
        scan("album")


# --- links ---


def test_links_to_files_count_and_links_to_folders_are_followed(album: Path, tmp_path: Path) -> None:
    put(tmp_path / "elsewhere" / "deep" / "z.jpg")
    put(tmp_path / "single.dat")
    (album / "folder").symlink_to(tmp_path / "elsewhere")
    (album / "one.jpg").symlink_to(tmp_path / "single.dat")
    found = paths(album)
    assert "folder/deep/z.jpg" in found
    assert "one.jpg" in found
    assert len(found) == 6


def test_a_loop_of_links_ends(album: Path) -> None:
    (album / "2024" / "up").symlink_to("..")
    (album / "2024" / "self").symlink_to(".")
    (album / "aaa").symlink_to("2024/05")  # sorts before the real folder, whose name is kept nevertheless
    assert paths(album) == ["2024/05/y.webp", "2024/x.Jpeg", "a.PNG", "b.jpg"]


def test_two_links_to_one_folder_give_its_files_once(album: Path, tmp_path: Path) -> None:
    put(tmp_path / "elsewhere" / "z.jpg")
    for name in ("second", "first"):
        (album / name).symlink_to(tmp_path / "elsewhere")
    sources, _ = scan([album, tmp_path / "elsewhere" / "z.jpg"])
    assert [source.path for source in sources if "z.jpg" in source.path] == [str(tmp_path / "elsewhere" / "z.jpg")]
    assert "first/z.jpg" in paths(album)
    assert "second/z.jpg" not in paths(album)


def test_broken_links_are_failures(album: Path) -> None:
    (album / "gone.jpg").symlink_to("nowhere")
    (album / "round.jpg").symlink_to("round.jpg")
    (album / "unmounted").symlink_to("/no/such/disk")
    (album / "notes.md").symlink_to("nowhere")
    sources, failures = scan([album])
    assert len(sources) == 4
    assert [(f.path, f.stage) for f in failures] == [("gone.jpg", "open"), ("round.jpg", "open"), ("unmounted", "open")]
    assert "broken link" in failures[0].reason
    assert "symbolic links" in failures[1].reason


def test_a_broken_link_named_directly_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "gone.jpg").symlink_to("nowhere")
    sources, failures = scan([tmp_path / "gone.jpg"])
    assert sources == []
    assert [f.path for f in failures] == ["gone.jpg"]


# --- what is no picture file ---


def test_pipes_and_sockets_are_failures_and_nobody_waits(album: Path) -> None:
    os.mkfifo(album / "pipe.jpg")
    os.mkfifo(album / "pipe without the name of a picture")
    with contextlib.chdir(album), socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.png")
        _, failures = scan([album])
    assert failures == [
        Failure(path="pipe.jpg", stage="open", reason="not a regular file but a pipe"),
        Failure(path="socket.png", stage="open", reason="not a regular file but a socket"),
    ]
    assert scan([album / "pipe.jpg"]) == ([], failures[:1])
    assert scan([Path("/dev/null")])[1][0].reason == "not a regular file but a device"


def test_a_folder_named_like_a_picture_is_a_folder(tmp_path: Path) -> None:
    put(tmp_path / "x.jpg" / "y.jpg")
    assert paths(tmp_path) == ["x.jpg/y.jpg"]


def test_hidden_files_are_taken_and_hidden_folders_are_not(tmp_path: Path) -> None:
    for name in (".hidden.jpg", ".jpg", "._x.jpg", ".git/a.jpg", ".Trash/b.jpg", "@eaDir/c.jpg", "__MACOSX/d.jpg"):
        put(tmp_path / name)
    (tmp_path / ".link").symlink_to(".git")
    assert paths(tmp_path) == [".hidden.jpg", ".jpg"]
    assert paths(tmp_path / ".git") == ["a.jpg"]


@pytest.fixture
def anybody() -> Iterator[Path]:
    """A folder that everybody may enter; the test runs without a superuser's rights, to which nothing is forbidden."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield folder
    if user == 0:
        os.seteuid(0)
    for path, _, _ in os.walk(folder):
        os.chmod(path, 0o700)
        for name in os.listdir(path):
            os.chmod(os.path.join(path, name), 0o700)
    shutil.rmtree(folder)


def test_a_folder_without_permission_is_a_failure(anybody: Path) -> None:
    put(anybody / "open" / "a.jpg")
    put(anybody / "closed" / "b.jpg")
    put(anybody / "listed" / "c.jpg")
    (anybody / "listed" / "d.jpg").symlink_to("c.jpg")
    (anybody / "closed").chmod(0)
    (anybody / "listed").chmod(0o400)  # its names may be read, its files not
    sources, failures = scan([anybody])
    assert [source.path for source in sources] == ["open/a.jpg"]
    assert {f.path: f.reason for f in failures} == {
        "closed": "folder not read: permission denied",
        "listed/c.jpg": "permission denied",
        "listed/d.jpg": "permission denied",
    }
    assert scan([anybody / "closed"]) == ([], [Failure(path=".", stage="open", reason=failures[0].reason)])
    assert scan([anybody / "closed" / "b.jpg"])[1][0].path == "b.jpg"


def test_a_deep_folder_does_not_end_the_scan(tmp_path: Path) -> None:
    put(tmp_path / "a.jpg")
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(30):  # together longer than a path may be
        os.mkdir("d" * 200, dir_fd=here)
        below = os.open("d" * 200, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    sources, failures = scan([tmp_path])
    assert [source.path for source in sources] == ["a.jpg"]
    assert [f.reason for f in failures] == ["folder not read: file name too long"]


# --- names ---


def test_names_that_are_not_text_are_escaped(tmp_path: Path) -> None:
    root = os.fsencode(tmp_path)
    for name in (b"caf\xe9.jpg", "café.jpg".encode(), b"caf%E9.jpg", b"100%.jpg", b"a%20b.jpg", b"line\nbreak.jpg"):
        put(os.path.join(root, name))
    sources, failures = scan([tmp_path])
    assert failures == []
    assert [source.path for source in sources] == [
        "100%.jpg",
        "a%20b.jpg",
        "caf%25E9.jpg",
        "caf%E9.jpg",
        "café.jpg",
        "line\nbreak.jpg",
    ]
    for source in sources:
        assert os.fsencode(source.uri) == os.path.join(root, decode_path(source.path))
        assert Path(source.uri).read_bytes() == PICTURE
        source.path.encode("utf-8")


ALPHABET = [b"%", b"2", b"5", b"8", b"E", b"9", b"F", b"\xe9", b"\xff", b"\xc3", b"\xa9", b"\xed\xa0\x80", b"/", b"a"]


@given(st.lists(st.sampled_from(ALPHABET), max_size=12).map(b"".join) | st.binary(max_size=20))
def test_no_two_paths_get_the_same_name(raw: bytes) -> None:
    encoded = encode_path(raw)
    encoded.encode("utf-8")
    assert decode_path(encoded) == raw


@given(st.text(st.characters(exclude_characters="%", exclude_categories=["Cs"])))
def test_text_without_percent_signs_stays_as_it_is(text: str) -> None:
    assert encode_path(text.encode()) == text
