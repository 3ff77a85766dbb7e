from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from PIL import Image

from ndd.verify.geometry import GeometricEvidence, verify
from ndd.verify.keypoints import Keypoints, extract
from tests.ndd.verify.photos import NAMES, Pixels, corner_error, photo, shares, warped

CENTRE = ((0.35, 0.35), (0.65, 0.35), (0.65, 0.65), (0.35, 0.65))


def keys(pixels: Pixels) -> Keypoints:
    return extract(np.ascontiguousarray(pixels))


def size_of(pixels: Pixels) -> tuple[int, int]:
    return pixels.shape[1], pixels.shape[0]


def rotation(degrees: float, pixels: Pixels) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    width, height = size_of(pixels)
    return np.vstack([cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 0.8), [0, 0, 1]])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("degrees", [15, 45, 90, 137, 180, 270])
def test_finds_a_turned_copy_and_says_how_it_was_turned(name: str, degrees: int) -> None:
    pixels = photo(name)
    matrix = rotation(degrees, pixels)
    copy = warped(pixels, matrix, size_of(pixels))
    found = verify(keys(pixels), keys(copy), seed=1)
    assert found.inliers >= 25 and found.agreement > 0.85 and not found.mirrored
    assert corner_error(found.transform, shares(matrix, size_of(pixels), size_of(copy)), CENTRE) < 0.02


@pytest.mark.parametrize("name", NAMES)
def test_finds_a_crop_of_three_tenths(name: str) -> None:
    pixels = photo(name)
    width, height = size_of(pixels)
    w, h, x, y = round(width * 0.55), round(height * 0.55), round(width * 0.2), round(height * 0.3)
    found = verify(keys(pixels), keys(pixels[y : y + h, x : x + w]), seed=1)
    assert found.inliers >= 20 and found.agreement > 0.9
    assert found.overlap_left == pytest.approx(0.3, abs=0.03)
    assert found.overlap_right > 0.97
    # The crop is explained whole, of the full picture only a part.
    assert found.explained_right > 0.85 > 0.6 > found.explained_left


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("axis", [0, 1])
def test_finds_a_mirrored_copy_and_maps_into_the_picture_as_it_is(name: str, axis: int) -> None:
    pixels = photo(name)
    found = verify(keys(pixels), keys(np.flip(pixels, axis)), seed=1)
    truth = np.array([[-1.0, 0, 1], [0, 1, 0], [0, 0, 1]] if axis == 1 else [[1.0, 0, 0], [0, -1, 1], [0, 0, 1]])
    assert found.mirrored and found.inliers >= 60 and found.agreement > 0.95
    assert corner_error(found.transform, truth, CENTRE) < 0.01


def test_finds_the_parameters_of_a_perspective() -> None:
    pixels = photo("china.jpg")
    width, height = size_of(pixels)
    source = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    target = source + np.array([[50, 30], [-20, 10], [-40, -35], [10, -12]], np.float32)
    matrix = cv2.getPerspectiveTransform(source, target)
    found = verify(keys(pixels), keys(warped(pixels, matrix, (width, height))), seed=3)
    assert found.inliers >= 40
    assert corner_error(found.transform, shares(matrix, (width, height), (width, height)), CENTRE) < 0.01


def jpeg(pixels: Pixels) -> Pixels:
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, "JPEG", quality=12)
    return np.asarray(Image.open(held).convert("RGB"))


def noisy(pixels: Pixels) -> Pixels:
    noise = np.random.default_rng(0).normal(0, 18, pixels.shape)
    return np.clip(pixels + noise, 0, 255).astype(np.uint8)


def captioned(pixels: Pixels) -> Pixels:
    out = np.full((pixels.shape[0] + 80, pixels.shape[1], 3), 255, np.uint8)
    out[80:] = pixels
    cv2.putText(out, "WHEN YOU SEE IT", (8, 55), cv2.FONT_HERSHEY_SIMPLEX, 1.1, (0, 0, 0), 3)
    return out


def bordered(pixels: Pixels) -> Pixels:
    return np.pad(pixels, ((60, 60), (90, 90), (0, 0)), constant_values=10)


def recoloured(pixels: Pixels) -> Pixels:
    return np.clip(pixels[:, :, ::-1] * 0.6 + 60, 0, 255).astype(np.uint8)


def wavy(pixels: Pixels) -> Pixels:
    y, x = np.mgrid[: pixels.shape[0], : pixels.shape[1]].astype(np.float32)
    moved = cv2.remap(pixels, x + 6 * np.sin(y / 25), y + 6 * np.sin(x / 30), cv2.INTER_LINEAR)
    return np.asarray(moved, np.uint8)


EDITS: tuple[Callable[[Pixels], Pixels], ...] = (jpeg, noisy, captioned, bordered, recoloured, wavy)


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
@pytest.mark.parametrize("name", NAMES)
def test_finds_edited_copies(name: str, edit: Callable[[Pixels], Pixels]) -> None:
    pixels = photo(name)
    found = verify(keys(pixels), keys(edit(pixels)), seed=1)
    assert found.inliers >= 20 and found.agreement > 0.7
    assert max(found.explained_left, found.explained_right) > 0.6
    assert found.deformed == (edit is wavy)


def test_different_photographs_share_nothing() -> None:
    for i, left in enumerate(NAMES):
        for right in NAMES[i + 1 :]:
            found = verify(keys(photo(left)), keys(photo(right)), seed=1)
            assert found.inliers < 8 and found.agreement < 0.4, (left, right, found)


def test_likeness_is_of_the_details() -> None:
    """The same picture agrees wholly; the less is left of it, the less: blur takes details away, the geometry stays."""
    for name in NAMES:
        whole = keys(photo(name))
        soft = [keys(cv2.GaussianBlur(photo(name), (0, 0), sigma)) for sigma in (1.0, 3.0)]
        same, *less = (verify(whole, other, seed=1).likeness for other in (whole, *soft))
        assert same > 0.99
        assert same > less[0] > less[1] >= 0.0


def test_a_shared_caption_bar_explains_little_of_either_picture() -> None:
    square = [cv2.resize(photo(name), (320, 320)).astype(np.uint8) for name in NAMES]
    memes = [keys(captioned(np.asarray(pixels, np.uint8))) for pixels in square]
    for i, left in enumerate(memes):
        for right in memes[i + 1 :]:
            found = verify(left, right, seed=1)
            # The bar is found (it is there); what lies under it disagrees.
            assert max(found.explained_left, found.explained_right) < 0.5, found
            assert max(found.area_left, found.area_right) < 0.25


def other_side(evidence: GeometricEvidence) -> GeometricEvidence:
    return dataclasses.replace(
        evidence,
        overlap_left=evidence.overlap_right,
        overlap_right=evidence.overlap_left,
        area_left=evidence.area_right,
        area_right=evidence.area_left,
        explained_left=evidence.explained_right,
        explained_right=evidence.explained_left,
        transform=None,
    )


def test_both_directions_give_the_same_evidence() -> None:
    pixels = photo("coffee")
    copies = [pixels, pixels[40:200, 30:260], pixels[:, ::-1], captioned(pixels), photo("flower.jpg"), wavy(pixels)]
    extracted = [keys(copy) for copy in copies]
    for a in extracted:
        for b in extracted:
            there, back = verify(a, b, seed=5), verify(b, a, seed=5)
            assert dataclasses.replace(there, transform=None) == other_side(back)
            if there.transform is not None and back.transform is not None:
                both = np.array(back.transform) @ np.array(there.transform)
                np.testing.assert_allclose(both / both[2, 2], np.eye(3), atol=1e-3)


def test_the_same_evidence_in_any_order_and_on_any_thread() -> None:
    pixels = photo("astronaut")
    pictures = [keys(p) for p in (pixels, wavy(pixels), bordered(pixels), photo("coffee"), pixels[:, ::-1])]
    pairs = [(i, j) for i in range(len(pictures)) for j in range(len(pictures)) if i != j]
    alone = {(i, j): verify(pictures[i], pictures[j], seed=i * 7 + j) for i, j in pairs}
    cv2.setRNGSeed(99)
    np.random.default_rng(4).shuffle(pairs)
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda at: verify(pictures[at[0]], pictures[at[1]], seed=at[0] * 7 + at[1]), pairs)
        for at, evidence in zip(pairs, found, strict=True):
            assert evidence == alone[at]


def test_pictures_without_keypoints_give_empty_evidence() -> None:
    flat, other = keys(np.full((50, 70, 3), 9, np.uint8)), keys(photo("coffee"))
    for a, b in ((flat, flat), (flat, other), (other, flat)):
        assert verify(a, b, seed=0) == GeometricEvidence()


def test_evidence_is_plain_json() -> None:
    found = verify(keys(photo("coffee")), keys(bordered(photo("coffee"))), seed=0)
    values = found.to_dict()
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    transform = values.pop("transform")
    assert GeometricEvidence(**values, transform=tuple(tuple(row) for row in transform)) == found


def test_repeated_texture_is_no_copy() -> None:
    # Two walls of the same bricks laid anew: many keypoints look alike, no transform aligns them all.
    rng = np.random.default_rng(3)
    brick = rng.integers(60, 200, (6, 12, 24, 3)).astype(np.uint8)

    def wall(seed: int) -> Pixels:
        order = np.random.default_rng(seed).integers(0, 6, (16, 9))
        return np.vstack([np.hstack([brick[k] for k in row]) for row in order])

    found = verify(keys(wall(1)), keys(wall(2)), seed=1)
    assert max(found.explained_left, found.explained_right) < 0.4, found


def soft(seed: int) -> Pixels:
    """A picture without corners: a few wide blobs."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (5, 7)).astype(np.uint8)
    grey = cv2.GaussianBlur(cv2.resize(coarse, (210, 150), interpolation=cv2.INTER_CUBIC), (0, 0), 9)
    return np.repeat(np.asarray(grey, np.uint8)[:, :, None], 3, axis=2)


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("mirror", [False, True])
def test_pictures_too_soft_for_keypoints_are_compared_as_a_whole(turns: int, mirror: bool) -> None:
    pixels = soft(1)
    face = pixels[:, ::-1] if mirror else pixels
    a, b = (dataclasses.replace(keys(p), **NO_KEYPOINTS) for p in (pixels, np.rot90(face, turns)))
    found = verify(a, b, seed=1)
    assert found.mirrored == mirror and found.inliers == 0
    assert found.agreement > 0.9 and found.overlap_left == found.overlap_right == 1.0
    flip = np.array([[-1.0, 0, 1], [0, 1, 0], [0, 0, 1]]) if mirror else np.eye(3)
    turn = np.array([[0.0, 1, 0], [-1, 0, 1], [0, 0, 1]])
    assert corner_error(found.transform, np.linalg.matrix_power(turn, turns) @ flip, CENTRE) < 1e-6
    assert corner_error(verify(b, a, seed=1).transform, np.linalg.inv(np.array(found.transform)), CENTRE) < 1e-5


def test_different_soft_pictures_share_nothing() -> None:
    for seed in range(2, 8):
        a, b = (dataclasses.replace(keys(p), **NO_KEYPOINTS) for p in (soft(1), soft(seed)))
        assert verify(a, b, seed=1).transform is None


NO_KEYPOINTS = {
    "points": np.zeros((0, 2), np.float32),
    "scales": np.zeros(0, np.float32),
    "angles": np.zeros(0, np.float32),
    "descriptors": np.zeros((0, 128), np.uint8),
}
