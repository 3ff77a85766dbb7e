"""Albums with known truth: the files, the truth table, and what each edit does to a picture."""

from __future__ import annotations

import ast
import io
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import pipelines.album
import pipelines.edits
import pipelines.overlays
from ndd.errors import DecodeError, SchemaError, StoreError, UsageError
from pipelines.album import Photo, build_album, development_album, read_album, read_photos, read_tar
from pipelines.edits import FAMILIES, Pixels, apply_edit

SIZES = {"wide": (96, 140), "tall": (150, 90), "square": (128, 128)}


def picture(height: int = 120, width: int = 160, seed: int = 0) -> Pixels:
    """Smooth and coloured, without symmetry: every edit changes it and none destroys it."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def photos(count: int) -> list[Photo]:
    return [Photo.of_array(f"p{i:02d}", picture(80, 110, seed=i)) for i in range(count)]


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("severity", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_an_edit_gives_a_changed_picture_and_the_same_for_the_same_seed(
    family: str, severity: float, size: tuple[int, int]
) -> None:
    source = picture(*size)
    kept = source.copy()
    for seed in range(4):
        once = apply_edit(family, source, severity=severity, rng=np.random.default_rng(seed))
        again = apply_edit(family, source, severity=severity, rng=np.random.default_rng(seed))
        np.testing.assert_array_equal(once, again)
        assert once.dtype == np.uint8
        assert once.ndim == 3
        assert once.shape[2] == 3
        assert min(once.shape[:2]) >= 24
        assert once.std() > 5, "something of the picture is left"
        assert once.shape != source.shape or (once != source).any()
    np.testing.assert_array_equal(source, kept, "an edit leaves its input alone")


@pytest.mark.parametrize("family", ["compression", "colour", "blur_noise", "wave", "overlay"])
def test_a_stronger_edit_changes_more(family: str) -> None:
    def change(severity: float) -> float:
        source, total = picture(), 0.0
        for seed in range(12):
            edited = apply_edit(family, source, severity=severity, rng=np.random.default_rng(seed))
            resized = cv2.resize(edited, (source.shape[1], source.shape[0]))
            total += float(np.abs(resized.astype(float) - source).mean())
        return total

    assert change(0.0) < change(0.5) < change(1.0)


@pytest.mark.parametrize(("severity", "share"), [(0.0, 0.9), (0.5, 0.6), (1.0, 0.3)])
def test_a_crop_keeps_the_promised_share_and_is_a_window_of_the_picture(severity: float, share: float) -> None:
    source = picture(200, 300)
    for seed in range(10):
        window = apply_edit("crop", source, severity=severity, rng=np.random.default_rng(seed))
        assert window.shape[0] * window.shape[1] / (200 * 300) == pytest.approx(share, rel=0.03)
        assert cv2.minMaxLoc(cv2.matchTemplate(source, window, cv2.TM_SQDIFF))[0] == pytest.approx(
            0, abs=1e-3 * window.size
        )


def test_quarter_turns_and_mirrors_only_move_pixels() -> None:
    source = picture()
    forms = {np.rot90(source, k).tobytes(): k for k in range(4)}
    turns = {
        forms[apply_edit("quarter_turn", source, severity=0.5, rng=np.random.default_rng(s)).tobytes()]
        for s in range(30)
    }
    assert turns == {1, 2, 3}
    weak = apply_edit("mirror", source, severity=0.0, rng=np.random.default_rng(1))
    np.testing.assert_array_equal(weak, source[:, ::-1])


def test_a_cropped_rotation_holds_no_filling_and_a_filled_one_the_whole_picture() -> None:
    white = np.full((150, 220, 3), 255, np.uint8)
    shapes = set()
    for seed in range(40):
        turned = apply_edit("rotation", white, severity=1.0, rng=np.random.default_rng(seed))
        if turned.shape[1] < 220:
            assert (turned[1:-1, 1:-1] >= 250).all(), "the inner rectangle shows the picture only"
        else:
            whole = (turned > 250).all(axis=2).sum()
            assert whole >= 0.98 * 150 * 220, "nothing of the picture is cut off"
        shapes.add(turned.shape)
    assert len(shapes) == 2


def test_an_album_holds_real_files_and_their_truth(tmp_path: Path) -> None:
    singles = [Photo.of_array(f"s{i}", picture(60, 60, seed=50 + i)) for i in range(3)]
    album = build_album(photos(13), tmp_path / "album", copies=4, seed=3, singles=singles)
    assert read_album(album.root) == album
    assert len(album.images) == 13 * 5 + 3
    assert {len(members) for members in album.groups().values()} == {5}
    families = [row.family for row in album.images]
    assert families.count("original") == 13
    assert families.count("single") == 3
    assert {families.count(family) for family in FAMILIES} == {4}, "families take turns"
    for members in album.groups().values():
        assert len({row.family for row in album.images if row.image in members}) == 5
    formats = set()
    for row in album.images:
        with Image.open(album.root / row.image) as image:
            image.load()
            formats.add(image.format)
            assert Path(row.image).suffix == {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp"}[str(image.format)]
    assert formats == {"JPEG", "PNG", "WEBP"}
    mixtures = [row.note for row in album.images if row.family == "mixture"]
    assert all(2 <= len(note.removeprefix("mixture: ").split(" + ")) <= 4 for note in mixtures)


def test_an_untouched_photograph_keeps_its_bytes(tmp_path: Path) -> None:
    held = io.BytesIO()
    Image.fromarray(picture()).save(held, "JPEG", quality=41)
    photo = Photo("lake", held.getvalue())
    album = build_album([photo], tmp_path, copies=1)
    assert (album.root / "images/lake.jpg").read_bytes() == photo.content


def test_the_same_seed_gives_the_same_files_in_any_order_and_another_seed_others(tmp_path: Path) -> None:
    build_album(photos(5), tmp_path / "a", seed=1)
    build_album(photos(5)[::-1], tmp_path / "b", seed=1)
    build_album(photos(5), tmp_path / "c", seed=2)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert contents(tmp_path / "a") != contents(tmp_path / "c")
    assert read_album(tmp_path / "a").digest() == read_album(tmp_path / "b").digest()
    assert read_album(tmp_path / "a").digest() != read_album(tmp_path / "c").digest()


def test_settings_that_make_no_album_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least 1"):
        build_album(photos(1), tmp_path / "a", copies=0)
    with pytest.raises(UsageError, match="melt"):
        build_album(photos(1), tmp_path / "a", families=("melt",))
    with pytest.raises(UsageError, match="severity"):
        build_album(photos(1), tmp_path / "a", severity=(0.5, 1.5))
    with pytest.raises(UsageError, match="'p00' is the name of more than one"):
        build_album(photos(1), tmp_path / "a", singles=photos(1))
    with pytest.raises(DecodeError, match="broken"):
        build_album([Photo("broken", b"\xff\xd8 not a picture")], tmp_path / "a")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "diary.txt").write_text("mine")
    with pytest.raises(StoreError, match="not empty"):
        build_album(photos(1), tmp_path / "full")


def test_damaged_truth_is_refused(tmp_path: Path) -> None:
    album = build_album(photos(2), tmp_path, copies=1)
    table = tmp_path / "groups.csv"
    sound = table.read_text()
    table.write_text(sound + sound.splitlines()[1] + "\n")
    with pytest.raises(SchemaError, match="listed twice"):
        read_album(tmp_path)
    table.write_text(sound)
    (tmp_path / album.images[0].image).unlink()
    with pytest.raises(SchemaError, match="is not there"):
        read_album(tmp_path)
    table.write_text("file,label\n")
    with pytest.raises(SchemaError, match="image, group, note"):
        read_album(tmp_path)
    table.unlink()
    with pytest.raises(SchemaError, match="groups.csv"):
        read_album(tmp_path)


def test_the_development_album_draws_its_photographs_by_content(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for name, count, base in (("heldout-photos", 203, 0), ("reserve", 12, 1000)):
        with tarfile.open(corpus / f"{name}.tar", "w") as tar:
            for i in range(count):
                content = Photo.of_array("", picture(40, 48, seed=base + i)).content
                member = tarfile.TarInfo(f"{name}-{i:03d}.png")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    first = development_album(tmp_path, tmp_path / "a", seed=0, distractors=7)
    second = development_album(tmp_path, tmp_path / "b", seed=1, distractors=7)
    assert len(first.images) == 200 * 5 + 3 + 7
    assert len(first.groups()) == 200

    def untouched(album: pipelines.album.Album) -> set[tuple[str, str]]:
        return {(row.image, row.note) for row in album.images if row.note in ("original", "single")}

    assert untouched(first) == untouched(second)
    assert [photo.name for photo in read_tar(corpus / "reserve.tar")][:2] == ["reserve-000", "reserve-001"]


def test_photographs_are_read_from_a_folder(tmp_path: Path) -> None:
    for photo in photos(2):
        (tmp_path / f"{photo.name}.PNG").write_bytes(photo.content)
    (tmp_path / "notes.txt").write_text("no picture")
    assert list(read_photos(tmp_path)) == photos(2)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="empty"):
        list(read_photos(tmp_path / "empty"))


@pytest.mark.parametrize("module", [pipelines.album, pipelines.edits, pipelines.overlays])
def test_the_album_shares_no_code_with_training(module: object) -> None:
    tree = ast.parse(Path(str(getattr(module, "__file__", ""))).read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    ours = {name for name in imported if name and name.split(".")[0] in ("ndd", "torch", "torchvision")}
    assert ours <= {"ndd.errors"}
