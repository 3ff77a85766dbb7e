"""What is known of a picture survives its way through bytes, exactly, and damage to the bytes is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ndd.detector import Detector
from ndd.errors import DecodeError, SchemaError
from ndd.known import KnownPicture, vector_of
from ndd.types import image_id
from tests.samples import small_model


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Detector:
    return Detector(small_model(tmp_path_factory.mktemp("models") / "model"))


@pytest.fixture(scope="module")
def known(detector: Detector, pictures: Path) -> list[KnownPicture]:
    names = ("cat.png", "cat-mirrored.png", "crops/cat.png", "rocket.png", "blank.png")
    found = detector.look_many([pictures / name for name in names])
    return [picture for picture in found if isinstance(picture, KnownPicture)]


def test_matches_of_unpacked_pictures_are_the_same_to_the_last_bit(
    detector: Detector, known: list[KnownPicture]
) -> None:
    again = [KnownPicture.unpack(picture.pack()) for picture in known]
    for i, a in enumerate(known):
        for j, b in enumerate(known):
            wanted = detector.match(a, b)
            assert detector.match(again[i], again[j]) == wanted
            assert detector.match(a, again[j]) == wanted


def test_packing_keeps_everything_but_the_pixels(known: list[KnownPicture]) -> None:
    for picture in known:
        data = picture.pack()
        again = KnownPicture.unpack(data)
        assert again.pack() == data
        assert (again.id, dict(again.facts), again.pixels, again.canvas) == (
            picture.id,
            dict(picture.facts),
            None,
            None,
        )
        assert again.vector.dtype == np.float16
        assert np.array_equal(again.vector, picture.vector)
        assert np.array_equal(again.hashes, picture.hashes)
        for name in ("points", "scales", "angles", "descriptors", "thumb"):
            left, right = getattr(again.keys, name), getattr(picture.keys, name)
            assert (left.dtype, left.tobytes()) == (right.dtype, right.tobytes())
        id, vector, hash, quality = vector_of(data)
        assert (id, quality) == (picture.id, picture.facts["quality"])
        assert np.array_equal(vector, picture.vector[0])
        assert np.array_equal(hash, picture.hashes[0])


def test_looking_at_many_is_looking_at_each(detector: Detector, pictures: Path) -> None:
    paths = [pictures / "cat.png", pictures / "cut.jpg", pictures / "rocket.png", pictures / "no-such.png"]
    found = detector.look_many([*paths, b"no picture"])
    for path, picture in zip(paths[::2], found[:4:2], strict=True):
        assert isinstance(picture, KnownPicture)
        assert picture.id == image_id(path.read_bytes())
        assert picture.pack() == detector.look(path).pack()
    assert [isinstance(found[i], DecodeError) for i in (1, 3, 4)] == [True] * 3
    assert "no-such.png" in str(found[3])
    assert detector.look_many([]) == []


def test_any_damaged_byte_is_noticed(known: list[KnownPicture]) -> None:
    data = known[0].pack()
    for at in [*range(60), *range(60, len(data), 97), len(data) - 1]:
        changed = bytearray(data)
        changed[at] ^= 4
        with pytest.raises(SchemaError, match="packed picture"):
            KnownPicture.unpack(bytes(changed))
    for size in (0, 3, 50, len(data) - 1):
        with pytest.raises(SchemaError, match="packed picture"):
            vector_of(data[:size])


def test_a_picture_without_keypoints_can_be_packed(detector: Detector, pictures: Path) -> None:
    blank = detector.look(pictures / "blank.png")
    assert len(blank.keys) == 0
    again = KnownPicture.unpack(blank.pack())
    assert len(again.keys) == 0
    assert again.facts["flat"] is True
    assert detector.match(again, again) == detector.match(blank, blank)


def test_parts_of_the_wrong_shape_are_refused(known: list[KnownPicture]) -> None:
    good = {"id": known[0].id, "vector": known[0].vector, "hashes": known[0].hashes, "facts": known[0].facts}
    with pytest.raises(ValueError, match="float16"):
        KnownPicture(**{**good, "vector": known[0].vector[0]}, keys=known[0].keys)
    with pytest.raises(ValueError, match=r"\(8, 32\)"):
        KnownPicture(**{**good, "hashes": known[0].hashes[0]}, keys=known[0].keys)
    with pytest.raises(ValueError, match="keypoints or its pixels"):
        KnownPicture(**good)
