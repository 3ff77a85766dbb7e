"""Embedded colour profiles: applied wherever a format can hold one, and never a reason to refuse a picture."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from ndd.containers import inspect
from ndd.images import decode
from ndd.profiles import MAX_PROFILE, to_srgb
from tests.ndd.pictures import chunk, difference, encode, encode_heic, photo

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def exchanged() -> bytes:
    """sRGB with red and blue exchanged: whoever applies it sees the photograph with its channels the other way round."""
    profile = bytearray(SRGB.replace("sRGB".encode("utf-16-be"), "swap".encode("utf-16-be")))
    at = {bytes(profile[start : start + 4]): start for start in range(132, 132 + 12 * profile[131], 12)}
    red, blue = at[b"rXYZ"], at[b"bXYZ"]
    profile[red : red + 4], profile[blue : blue + 4] = b"bXYZ", b"rXYZ"
    return bytes(profile)


@pytest.mark.parametrize(
    ("format", "options", "within"),
    [
        ("JPEG", {"quality": 95, "subsampling": 0}, 4),
        ("PNG", {}, 1),
        ("WEBP", {"lossless": True}, 1),
        ("TIFF", {}, 1),
        ("TIFF", {"compression": "tiff_lzw"}, 1),
        ("AVIF", {"quality": 95, "subsampling": "4:4:4"}, 4),
    ],
)
def test_a_profile_is_applied(format: str, options: dict[str, object], within: float) -> None:
    content = encode(photo(), format, icc_profile=exchanged(), **options)
    assert difference(decode(content).pixels, photo()[..., ::-1]) < within
    assert difference(decode(encode(photo(), format, icc_profile=SRGB, **options)).pixels, photo()) < within


def test_a_profile_of_heic_is_applied() -> None:
    content = encode_heic(photo(), icc_profile=exchanged(), quality=95, chroma=444)
    assert difference(decode(content).pixels, photo()[..., ::-1]) < 4


def test_transparency_survives_the_conversion() -> None:
    picture = np.dstack([photo(), np.full(photo().shape[:2], 255, np.uint8)])
    picture[:20, :20, 3] = 0
    found = decode(encode(picture, "PNG", icc_profile=exchanged()))
    assert found.alpha
    assert (found.pixels[:20, :20] == 255).all()
    assert difference(found.pixels[20:, 20:], photo()[20:, 20:, ::-1]) < 1


def test_a_long_profile_in_shuffled_parts_is_put_together() -> None:
    long = exchanged() + bytes(100_000)
    content = encode(photo(), "JPEG", icc_profile=long, quality=95)
    start = content.index(b"ICC_PROFILE") - 4
    first = content[start : start + 2 + struct.unpack_from(">H", content, start + 2)[0]]
    after = start + len(first)
    second = content[after : after + 2 + struct.unpack_from(">H", content, after + 2)[0]]
    shuffled = content[:start] + second + first + content[after + len(second) :]
    assert inspect(shuffled).icc == long
    assert difference(decode(shuffled).pixels, photo()[..., ::-1]) < 4


@pytest.mark.parametrize(
    "profile",
    [b"no profile at all", exchanged()[:200], bytes(MAX_PROFILE), SRGB.replace(b"RGB ", b"CMYK", 1)],
    ids=["text", "cut", "huge", "another space"],
)
def test_a_profile_that_cannot_be_used_is_passed_over(profile: bytes) -> None:
    image = Image.fromarray(photo())
    assert to_srgb(image, profile) is image


def test_a_bomb_in_the_place_of_a_profile_is_not_unpacked() -> None:
    content = encode(photo(), "PNG")
    ihdr = 8 + 25
    for body in (zlib.compress(bytes(100 * 2**20), 9), b"not deflated"):
        spoilt = content[:ihdr] + chunk(b"iCCP", b"name\0\0" + body) + content[ihdr:]
        assert len(inspect(spoilt).icc or b"") <= MAX_PROFILE
        assert (decode(spoilt).pixels == photo()).all()
