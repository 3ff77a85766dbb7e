"""The perceptual hash against the reference implementation, and against what happens to real photographs."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
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


REFERENCE = {
    "astronaut": (
        100,
        "2d2f5af3a856c529679ca3d6526ba836d4196c81c6dd04de0a26f855fc99b724"
        "35a7a519ad47bd78e56e670c4e2963fe4c7299cbd32992499ab250c2e7182d19"
        "387af059fd036f8332c9097c073a029c814cc62b9ba8ae745f7352ffa9cc1d8e"
        "60f20fb3f81217d2b01bcda61b7cc95419273361865c38e3cfa7f868b24d87b3"
        "2d2fa50ca8563ad6679c5429526b57c9d4199376c6ddfb210a2607aafc9948db"
        "787a0fa6fd03907c32c9fe83073afd63814c39d49ba8518b5f73ad00a9cce271"
        "35a75ae6ad474287e14e98f34e299c014c726634d3096db69ab2ad3de718d2e6"
        "60f2704cf812e82db43b32591b7c36ab1927cc9e867cc71ccfe70597b24d784c",
    ),
    "chelsea": (
        100,
        "5feb5321f05da15e898e2b7629a5d3430412edbd23f48942464522317db32ffd"
        "39509eb576671efdce537f34c52d288c8a63eac6c667cb18b841c1969d921cb0"
        "0afef98ba5480bfcdcdb81dc7cf079e95147671776a123e81310889b28e68557"
        "6c05b41f6372b457db06d59e90788a26df36e06c933261b2fd146b3cc8c7b61a"
        "5febacdef05d5ea9898ed48929a52cbc0412324223f476bd4645ddce7db3d002"
        "4afe2e74a548f40bdddb7e237cf086165147b8e876a1dc171310776428e67aa8"
        "3950e14a3667e1028e5380cbc52ddf738a63b539c66734e7b8413e699d92e34f"
        "6c054be063724ba8db062a61907875d9df36bf9393329e4dfd1494c3c8c749e5",
    ),
    "coffee": (
        100,
        "4c629e769a66364cb983b8668026f26c21a679f61eb6e1f8c799a7f63c8299e0"
        "6f1d74a51dd6829cec630dd0712c752208ff0aaae7f5ae831118881beee69577"
        "193734ddcb329c66acf612cc9c7258c674f2d35c4be34b5292cc0d5c29d7334a"
        "bb48de0fc8832836bb36a77b2479df885daaa000baa01529444d22b1bbbb7fdd"
        "ed6261899e67c9b3f9a34799cd278d9321a786091eb61e07c79b58097c82661f"
        "1837cb22cb326309acd6ed339072a72974f22ca34be3b4ad92ccf2a329d7c8b5"
        "6f1d81581dd67d63ec63d02e712c08dd08fff555e7f5407c111877e4eee60808"
        "3a4821f04883d7c9bb365a842479a0774daa5fffbaa0ead6444ddd4ebbb3c022",
    ),
    "rocket": (
        100,
        "8792786c879370e4af1bc0e03f1fc0e03f1cc2f33f24c2537cec821b34e4f376"
        "ad55aaa65aabad546aa85555aaf55552b54aaaa4556b552a4a8ca954aa55d5ab"
        "d2c7d2c6dac6da4efa4e6a4a6a4a6a4a6a4968596a7168f929b929b161b159dc"
        "f800000807fe07fe1ffdfffffc80ffe0e01f000e0036ff801dd901feff003f01"
        "8792879287938f1b8f1b3f1b3d133d1f3f1c3d0c3d243cac7ccc3ce434e40c89"
        "d2c72d39dac625b1fa4e95b16a4a95b56a4997a66a71970628b9d64e61b1a623"
        "ad5555595aab52ab4aa8aaaaaaf5aaa1b54a555b556baad54a8c52abaa552a54"
        "f800fff30ffef8013ffd0000ffa0000fe01ffff1003e007f1fd9f801ff0080fe",
    ),
    "china": (
        100,
        "3b188ef3407e8678e683bb1937d14067988e5ed20c6eac5f783103f157a3f50e"
        "dcb992b48e197914c4f8a58cde4668f84ac68c8b712e09a3b4b3de4e79f3b0e1"
        "6e4d2459152b2cd0b3d611b36284eacdcddbf458493b06f52d64a95b02fe5fa4"
        "a9ec7c1edb4cd3be99ad0f268b13d3521f932621247ba309e1e674e42ca61a4b"
        "bb18710cc07e7985ee8344e637d1bf98988ea12d9c6e53a0f831fc0e57ab0af1"
        "ee4d9ba6152bd22fb3d6ae4c62841432cddb0b87c93bf90aad6456a402fea05b"
        "5c91294b8e1986cbc4f85a73de4686074ac67374712ef65cb4b121b169f34f1e"
        "09c483e1db4c2c4191adf0d98b132cad1f93d9de243b5cf6e1e68b1b2ca6e5b4",
    ),
    "flower": (
        100,
        "67b966dcb672a66498a69a666196a94725d9a21b9649b659596624b3e58ea693"
        "3d733df5f3d7d3c70d080f48b4715c754a878a473c0c1d2ac0f2a0f52f4f3a0a"
        "32eccc76e3670ccecdf730cd34c703ed71dd08b1c31c1cf30c338e19b0db0c39"
        "6826975fa682797d585da5e2a124d6df1fd2006de959b78095a70a5f7a1ad4a0"
        "67399923b632599b98a66599619656b825995de4964959a65966db4ce58e596c"
        "324c3188e227f331cdf3cf3234c3fc12708cf74ec31ce30c0c3371e6b0dbf3c6"
        "3d73c20af3d72c380d08f0b7f471838aca8775b8bc0ce2d5c0f25f0a2f4f81f5"
        "682668a0a6828692585d5a1da12429a09fd2ff92e95948ff95a7ffa07a1a2fdf",
    ),
}
"""Quality and the eight hashes, in hexadecimal, of each photograph at 64 × 64: what pdqhash 0.2.8 says."""


@pytest.mark.parametrize("name", PHOTOS)
def test_on_a_small_picture_the_hashes_are_those_of_the_reference(name: str) -> None:
    hashes, quality = pdq(to_square(PHOTOS[name], 64))
    assert hashes.shape == (8, 32) and hashes.dtype == np.uint8
    assert (quality, hashes.tobytes().hex()) == REFERENCE[name]


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
