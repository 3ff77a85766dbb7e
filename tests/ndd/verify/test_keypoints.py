from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

from ndd.verify.keypoints import DESCRIPTOR_NORM, Keypoints, extract
from tests.ndd.verify.photos import NAMES, photo


def arrays(keys: Keypoints) -> list[bytes]:
    return [getattr(keys, name).tobytes() for name in ("points", "scales", "angles", "descriptors", "thumb")]


@pytest.mark.parametrize("name", NAMES)
def test_mirrored_keypoints_are_those_of_the_flipped_picture(name: str) -> None:
    pixels = photo(name)
    ours = extract(pixels).mirrored()
    theirs = extract(np.ascontiguousarray(pixels[:, ::-1]))
    frame = np.array(ours.frame)
    apart = np.linalg.norm((ours.points[:, None] - theirs.points[None]) * frame, axis=2)
    turn = np.cos(ours.angles[:, None] - theirs.angles[None])
    size = np.abs(np.log(ours.scales[:, None] / theirs.scales[None]))
    same = (apart < 0.004) & (turn > 0.99) & (size < 0.1)
    met = same.any(axis=1)
    assert met.mean() > 0.85
    cosine = ours.descriptors.astype(np.float64) @ theirs.descriptors.T.astype(np.float64) / DESCRIPTOR_NORM**2
    nearest = cosine.argmax(axis=1)
    right = same[np.arange(len(ours)), nearest][met]
    assert right.mean() > 0.97
    assert np.median(cosine[same]) > 0.99


def test_mirroring_twice_changes_nothing() -> None:
    keys = extract(photo("coffee"))
    again = keys.mirrored().mirrored()
    np.testing.assert_array_equal(again.descriptors, keys.descriptors)
    np.testing.assert_allclose(again.points, keys.points, atol=1e-6)
    np.testing.assert_allclose(np.cos(again.angles - keys.angles), 1.0, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_keypoints_are_bounded_and_within_the_picture(name: str) -> None:
    keys = extract(photo(name))
    assert 100 <= len(keys) <= 256
    assert keys.points.min() >= 0.0 and keys.points.max() <= 1.0
    assert (keys.scales > 0).all() and (keys.scales < 1).all()
    assert keys.descriptors.dtype == np.uint8 and keys.descriptors.shape == (len(keys), 128)
    norms = np.linalg.norm(keys.descriptors.astype(np.float64), axis=1)
    np.testing.assert_allclose(norms, DESCRIPTOR_NORM, rtol=0.01)
    assert max(keys.thumb.shape) == 64
    assert (keys.height, keys.width) == photo(name).shape[:2]


def test_the_same_picture_gives_the_same_bytes_on_any_thread() -> None:
    alone = {name: arrays(extract(photo(name))) for name in NAMES}
    with ThreadPoolExecutor(4) as pool:
        for name, found in zip(NAMES * 3, pool.map(lambda n: arrays(extract(photo(n))), NAMES * 3), strict=True):
            assert found == alone[name]


def test_positions_are_shares_of_the_picture_whatever_its_size() -> None:
    small = photo("astronaut")
    large = cv2.resize(small, None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC)
    a, b = extract(small), extract(np.asarray(large, np.uint8))
    assert (b.width, b.height) == (3 * a.width, 3 * a.height)
    nearest = np.abs(a.points[:, None] - b.points[None]).max(axis=2).min(axis=1)
    assert np.median(nearest) < 0.004


@pytest.mark.parametrize("shape", [(1, 1, 3), (2, 300, 3), (300, 2, 3), (240, 320, 3), (64, 64)])
def test_a_flat_picture_has_no_keypoints(shape: tuple[int, ...]) -> None:
    keys = extract(np.full(shape, 117, np.uint8))
    assert len(keys) == 0
    assert keys.descriptors.shape == (0, 128) and keys.points.shape == (0, 2)
    assert (keys.thumb == 117).all()
    assert len(keys.mirrored()) == 0


def test_grey_and_rgb_agree() -> None:
    grey = np.asarray(cv2.cvtColor(photo("coffee"), cv2.COLOR_RGB2GRAY), np.uint8)
    assert arrays(extract(grey)) == arrays(extract(np.repeat(grey[:, :, None], 3, axis=2)))
