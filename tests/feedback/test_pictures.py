"""Only previews of pictures below the given roots are made, and only of the very pictures that a pair is about."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from feedback.pictures import PictureRefused, Previews, inside
from ndd.types import ImageId, image_id
from tests.samples import photographs, small_model


@pytest.fixture
def album(tmp_path: Path) -> Path:
    (tmp_path / "album" / "deep").mkdir(parents=True)
    (tmp_path / "album-2").mkdir()
    for name, pixels in photographs().items():
        cv2.imwrite(str(tmp_path / "album" / f"{name}.png"), np.ascontiguousarray(pixels[:, :, ::-1]))
    (tmp_path / "album-2" / "private.png").write_bytes((tmp_path / "album" / "cat.png").read_bytes())
    return tmp_path / "album"


@pytest.fixture
def previews(album: Path, tmp_path: Path) -> Previews:
    return Previews(tmp_path / "media", roots=[album], model=small_model(tmp_path / "model"))


def known(path: Path) -> tuple[ImageId, str]:
    return image_id(path.read_bytes()), str(path)


def test_a_preview_shows_the_picture(previews: Previews, album: Path) -> None:
    id, uri = known(album / "coffee.png")
    made = previews.picture(id, uri)
    assert made.name == f"{id}.jpg"
    seen = cv2.imread(str(made)).astype(float)
    original = cv2.imread(uri).astype(float)
    assert seen.shape == original.shape
    assert np.abs(seen - original).mean() < 8
    before = made.stat().st_mtime_ns
    assert previews.picture(id, uri).stat().st_mtime_ns == before  # not made again


def test_the_aligned_pair_is_drawn_side_by_side(previews: Previews, album: Path) -> None:
    sheet = cv2.imread(str(previews.together("p" * 64, [known(album / "cat.png"), known(album / "rocket.png")])))
    height, width = sheet.shape[:2]
    assert width > 2 * height
    assert sheet[:, :height].std() > 10 and sheet[:, -height:].std() > 10
    assert np.abs(sheet[:, :height].astype(float) - sheet[:, -height:]).mean() > 10


def test_nothing_outside_the_roots_is_shown(previews: Previews, album: Path, tmp_path: Path) -> None:
    secret = tmp_path / "album-2" / "private.png"  # whose folder's name begins like the root's
    os.symlink(secret, album / "link.png")
    os.symlink(tmp_path / "album-2", album / "folder")
    os.symlink(album / "link.png", album / "deep" / "link-to-link.png")
    id, _ = known(secret)
    for uri in (
        secret,
        album / "link.png",
        album / "folder" / "private.png",
        album / "deep" / "link-to-link.png",
        album / "deep" / ".." / ".." / "album-2" / "private.png",
        f"{album}/../album-2/private.png",
        tmp_path,
    ):
        with pytest.raises(PictureRefused, match="--root"):
            previews.picture(id, str(uri))
    assert list(previews.folder.iterdir()) == []
    for elsewhere in ("http://127.0.0.1/x.png", "s3://bucket/x.png", "file:///etc/passwd"):
        with pytest.raises(PictureRefused, match="not a file"):
            previews.picture(id, elsewhere)


def test_a_preview_that_is_there_is_no_way_around_the_roots(previews: Previews, album: Path, tmp_path: Path) -> None:
    id, uri = known(album / "cat.png")
    previews.picture(id, uri)
    with pytest.raises(PictureRefused):
        previews.picture(id, str(tmp_path / "album-2" / "private.png"))


def test_links_within_the_roots_are_followed(previews: Previews, album: Path) -> None:
    os.symlink(album / "cat.png", album / "deep" / "cat-again.png")
    id, _ = known(album / "cat.png")
    assert previews.picture(id, str(album / "deep" / "cat-again.png")).is_file()


def test_a_root_may_be_a_link_or_a_single_file(album: Path, tmp_path: Path) -> None:
    os.symlink(album, tmp_path / "way-in")
    cat = str(album / "cat.png")
    assert inside(str(tmp_path / "way-in" / "cat.png"), [os.path.realpath(album)]) == os.path.realpath(cat)
    assert inside(cat, [os.path.realpath(cat)]) == os.path.realpath(cat)
    with pytest.raises(PictureRefused):
        inside(str(album / "rocket.png"), [os.path.realpath(cat)])


def test_a_file_that_changed_is_not_shown(previews: Previews, album: Path) -> None:
    id, uri = known(album / "cat.png")
    Path(uri).write_bytes((album / "rocket.png").read_bytes())
    with pytest.raises(PictureRefused, match="changed"):
        previews.picture(id, uri)
    Path(uri).unlink()
    with pytest.raises(PictureRefused, match="find again"):
        previews.picture(id, uri)
    assert list(previews.folder.iterdir()) == []


def test_pictures_are_upright_and_of_moderate_size(album: Path, tmp_path: Path) -> None:
    from PIL import Image

    previews = Previews(tmp_path / "media", roots=[album], model=small_model(tmp_path / "model"))
    picture = Image.fromarray(np.linspace(0, 255, 1000 * 3000).reshape(1000, 3000).astype(np.uint8)).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6  # a camera held sideways
    picture.save(album / "turned.jpg", exif=exif)
    made = cv2.imread(str(previews.picture(*known(album / "turned.jpg"))))
    assert made.shape[0] > 2 * made.shape[1]
    assert max(made.shape) <= 900
