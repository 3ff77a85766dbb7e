"""What decode makes of the colour models, depths and transparencies that picture files come in."""

from __future__ import annotations

import struct
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from ndd.images import decode
from tests.ndd.pictures import chunk, difference, encode, encodings, photo, png


def test_sixteen_bits_keep_their_upper_byte() -> None:
    ramp = np.linspace(0, 65535, 512).astype(np.uint16)[None].repeat(3, 0)
    upper = (ramp >> 8).astype(np.uint8)
    little = encode(Image.fromarray(ramp), "TIFF")
    rgb = np.stack((ramp, ramp[:, ::-1], ramp // 2), axis=2)
    cases = {
        "png": encode(Image.fromarray(ramp), "PNG"),
        "pgm": encode(Image.fromarray(ramp), "PPM"),
        "tiff": little,
        "tiff, big-endian": cv2.imencode(".tiff", ramp)[1].tobytes(),
    }
    for name, content in cases.items():
        assert np.array_equal(decode(content).pixels[..., 1], upper), name
    for suffix in (".png", ".tiff"):
        content = cv2.imencode(suffix, np.ascontiguousarray(rgb[..., ::-1]))[1].tobytes()
        assert np.array_equal(decode(content).pixels, (rgb >> 8).astype(np.uint8)), suffix


@pytest.mark.parametrize(
    ("values", "grey"),
    [
        (np.float32([[0, 0.25, 1]]), [0, 64, 255]),
        (np.float32([[0, 64, 255]]), [0, 64, 255]),
        (np.float32([[0, 256 * 77, 65535]]), [0, 77, 255]),
        (np.float32([[-1, 0, 1]]), [0, 128, 255]),
        (np.float32([[np.nan, 0.5, np.inf]]), [0, 128, 0]),
        (np.int32([[0, 100, 255]]), [0, 100, 255]),
        (np.int32([[0, 256 * 99, 65535]]), [0, 99, 255]),
        (np.int32([[-1000, 0, 1_000_000]]), [0, 0, 255]),
    ],
)
def test_grey_without_a_range_is_scaled_and_never_clipped(values: Any, grey: list[int]) -> None:
    assert decode(encode(Image.fromarray(values), "TIFF")).pixels[0, :, 0].tolist() == grey


def test_cmyk_with_adobes_marker_is_inverted() -> None:
    ink = np.zeros((16, 16, 4), np.uint8)
    ink[..., 1:3] = 255  # magenta and yellow make red
    red = decode(encode(Image.fromarray(ink, "CMYK"), "JPEG", quality=100, subsampling=0)).pixels
    assert difference(red, np.full_like(red, (255, 0, 0))) < 2


def test_ycck_is_converted_before_it_is_inverted() -> None:
    # Pillow writes CMYK, stored inverted; the marker's last byte says that it is YCCK instead.
    stored = np.zeros((16, 16, 4), np.uint8) + np.array((100, 90, 200, 255), np.uint8)  # Y, Cb, Cr, inverted black
    content = bytearray(encode(Image.fromarray(255 - stored, "CMYK"), "JPEG", quality=100, subsampling=0))
    content[content.index(b"Adobe") + 11] = 2
    y, cb, cr = 100, 90 - 128, 200 - 128  # ITU-T T.871, section 7
    ink = np.rint((y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb))
    assert np.abs(decode(bytes(content)).pixels[8, 8] - (255 - ink)).max() <= 3


def test_lab_is_converted() -> None:
    assert difference(decode(encodings()["tiff lab"]).pixels, photo()) < 1


def test_one_bit_is_black_and_white() -> None:
    dots = Image.fromarray(np.eye(9, dtype=np.uint8) * 255).convert("1")
    for format in ("PNG", "BMP", "TIFF", "PPM"):
        picture = decode(encode(dots, format))
        assert np.array_equal(picture.pixels[..., 0], np.eye(9, dtype=np.uint8) * 255), format


@pytest.mark.parametrize(
    ("depth", "colour", "rows", "key", "shown"),
    [
        # One row of pixels, the first of which has the transparent colour.
        (1, 0, b"\x00\x40", (0,), [[255] * 3, [255] * 3]),
        (1, 0, b"\x00\x80", (1,), [[255] * 3, [0] * 3]),
        (2, 0, b"\x00\x60", (1,), [[255] * 3, [170] * 3]),
        (4, 0, b"\x00\x35", (3,), [[255] * 3, [85] * 3]),
        (8, 0, b"\x00\x07\x50", (7,), [[255] * 3, [80] * 3]),
        (16, 0, b"\x00\x07\x07\x50\x00", (0x0707,), [[255] * 3, [80] * 3]),
        (8, 2, b"\x00\x01\x02\x03\x04\x05\x06", (1, 2, 3), [[255] * 3, [4, 5, 6]]),
        (16, 2, b"\x00\x01\x00\x02\x00\x03\x00\x04\x00\x05\x00\x06\x00", (256, 512, 768), [[255] * 3, [4, 5, 6]]),
    ],
)
def test_a_transparent_colour_becomes_white(
    depth: int, colour: int, rows: bytes, key: tuple[int, ...], shown: list[list[int]]
) -> None:
    content = png(2, 1, depth, colour, rows, chunk(b"tRNS", struct.pack(f">{len(key)}H", *key)))
    picture = decode(content)
    assert picture.pixels[0].tolist() == shown
    assert picture.alpha
    assert picture.bits == depth


def test_transparency_is_laid_over_white() -> None:
    rgba = np.array([[[200, 0, 0, 0], [200, 0, 0, 51], [200, 0, 0, 255]]], np.uint8)
    over = [[255, 255, 255], [244, 204, 204], [200, 0, 0]]  # 51/255 = 1/5 of the colour, 4/5 of white
    for format, options in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True, "exact": True})):
        picture = decode(encode(rgba, format, **options))
        assert picture.pixels[0].tolist() == over, format
        assert picture.alpha
    grey = encode(Image.fromarray(rgba[..., [0, 3]], "LA"), "PNG")
    assert decode(grey).pixels[0, :, 1].tolist() == [255, 244, 200]


def test_a_palette_may_be_transparent() -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    assert decode(encode(image, "PNG", transparency=1)).pixels[0].tolist() == [[10, 20, 30], [255] * 3, [70, 80, 90]]
    assert decode(encode(image, "GIF", transparency=1)).pixels[0].tolist() == [[10, 20, 30], [255] * 3, [70, 80, 90]]
    assert decode(encode(image, "PNG", transparency=b"\xff\x00\xcc")).pixels[0].tolist()[2] == [107, 115, 123]


def test_a_bitmap_with_an_empty_fourth_byte_is_not_invisible() -> None:
    rgba = np.dstack((photo(), np.zeros(photo().shape[:2], np.uint8)))
    assert np.array_equal(decode(encode(rgba, "BMP")).pixels, photo())
