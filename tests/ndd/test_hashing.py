"""The perceptual hash against the package it is built on, and against what happens to real photographs."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pdqhash
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage import data
from sklearn.datasets import load_sample_images

from ndd.hashing import DIHEDRAL, dihedral_hashes, hamming, pdq
from ndd.images import Pixels, decode, fit_within, to_square
from tests.ndd.pictures import encode

PHOTOS: dict[str, Pixels] = {
    "astronaut": data.astronaut(),
    "chelsea": data.chelsea(),
    "coffee": data.coffee(),
    "rocket": data.rocket(),
    **dict(zip(("china", "flower"), load_sample_images().images, strict=True)),
}

FORMS = {
    "identity": lambda x: x,
    "rot90": lambda x: np.rot90(x),
    "rot180": lambda x: np.rot90(x, 2),
    "rot270": lambda x: np.rot90(x, 3),
    "flipud": lambda x: x[::-1],
    "fliplr": lambda x: x[:, ::-1],
    "transpose": lambda x: x.transpose(1, 0, 2),
    "transverse": lambda x: np.rot90(x, 2).transpose(1, 0, 2),
}


@pytest.mark.parametrize("name", PHOTOS)
def test_on_a_small_picture_the_hashes_are_those_of_the_package(name: str) -> None:
    small = to_square(PHOTOS[name], 64)
    bits, quality = pdqhash.compute_dihedral(small)
    hashes, own_quality = pdq(small)
    assert hashes.shape == (8, 32) and hashes.dtype == np.uint8
    assert np.array_equal(np.unpackbits(hashes, axis=1), np.array(bits))
    assert own_quality == quality
    text = f"{int(''.join(map(str, pdqhash.compute(small)[0])), 2):064x}"
    assert hashes[0].tobytes().hex() == text


@pytest.mark.parametrize("name", PHOTOS)
def test_row_i_is_the_hash_of_the_ith_form(name: str) -> None:
    hashes = dihedral_hashes(PHOTOS[name])
    for row, form in enumerate(DIHEDRAL):
        turned = np.ascontiguousarray(FORMS[form](PHOTOS[name]))
        assert hamming(hashes[row], dihedral_hashes(turned)[0]) <= 2, form


@pytest.mark.parametrize("form", DIHEDRAL)
def test_a_turned_copy_is_found_after_re_encoding(form: str) -> None:
    hashes = {name: dihedral_hashes(photo) for name, photo in PHOTOS.items()}
    for name, photo in PHOTOS.items():
        smaller = fit_within(np.ascontiguousarray(FORMS[form](photo)), 200)
        copy = dihedral_hashes(decode(encode(smaller, "JPEG", quality=40)).pixels)
        distances = {other: int(hamming(rows, copy[0]).min()) for other, rows in hashes.items()}
        assert distances.pop(name) <= 24
        assert min(distances.values()) > 80


def test_blur_noise_and_brightness_move_few_bits() -> None:
    random = np.random.default_rng(0)
    for name, photo in PHOTOS.items():
        original = dihedral_hashes(photo)[0]
        noisy = np.clip(photo + random.normal(0, 12, photo.shape), 0, 255).astype(np.uint8)
        for copy in (cv2.GaussianBlur(photo, (0, 0), 2), noisy, (photo * 0.8 + 20).astype(np.uint8)):
            assert hamming(original, dihedral_hashes(np.asarray(copy, np.uint8))[0]) <= 24, name


@pytest.mark.parametrize("shape", [(1, 1), (100, 100), (3, 500)])
@pytest.mark.parametrize("grey", [0, 128, 255])
def test_a_flat_picture_has_no_quality(shape: tuple[int, int], grey: int) -> None:
    hashes, quality = pdq(np.full((*shape, 3), grey, np.uint8))
    assert quality == 0
    assert hashes.shape == (8, 32)


def test_a_photograph_has_quality_and_always_the_same_hash() -> None:
    for photo in PHOTOS.values():
        first, quality = pdq(photo)
        assert quality >= 90
        assert np.array_equal(first, dihedral_hashes(np.asfortranarray(photo)))


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_hamming_counts_differing_bits(a: bytes, b: bytes) -> None:
    x, y = np.frombuffer(a, np.uint8), np.frombuffer(b, np.uint8)
    assert hamming(x, y) == (int.from_bytes(a) ^ int.from_bytes(b)).bit_count()


def test_hamming_broadcasts_over_leading_axes() -> None:
    random = np.random.default_rng(1)
    many: npt.NDArray[np.uint8] = random.integers(0, 256, (5, 1, 8, 32), np.uint8)
    others: npt.NDArray[np.uint8] = random.integers(0, 256, (7, 1, 32), np.uint8)
    result = hamming(many, others)
    assert result.shape == (5, 7, 8) and result.dtype == np.int64
    assert result[3, 4, 6] == np.unpackbits(many[3, 0, 6] ^ others[4, 0]).sum()


def test_hamming_wants_packed_bits() -> None:
    with pytest.raises(TypeError, match="uint8"):
        hamming(np.zeros(256, bool), np.zeros(256, bool))
