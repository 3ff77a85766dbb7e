"""What decode makes of whole pictures: the right pixels, from every format, the right way up, within limits."""

from __future__ import annotations

import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import cv2
import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageCms, ImageFile, ImageOps

from ndd.config import DecodeLimits
from ndd.errors import DecodeError
from ndd.images import decode, fit_within, to_square
from tests.ndd.pictures import Array, difference, encode, encode_heic, encodings, expected, photo, png, tiff_block

EXACT = {
    "png", "grey png 16", "apng", "webp lossless", "tiff", "tiff lzw", "tiff deflate", "tiff big",
    "tiff pages", "tiff cmyk", "grey tiff 16", "grey tiff int32", "grey tiff float", "bmp", "ppm", "grey pgm",
    "grey pgm 16",
}  # fmt: skip
FRAMES = {"mpo": 3, "apng": 3, "webp animated": 3, "gif animated": 3, "tiff pages": 3, "avif animated": 3}
BITS = {"grey png 16": 16, "grey tiff 16": 16, "grey tiff int32": 32, "grey tiff float": 32}
FORMATS = {"mpo": "JPEG", "apng": "PNG", "heic": "HEIF", "pgm": "PPM"}


@pytest.mark.parametrize("name", encodings())
def test_every_encoding_shows_the_same_picture(name: str) -> None:
    picture = decode(encodings()[name])
    word = name.removeprefix("grey ").split()[0]
    assert difference(picture.pixels, expected(name)) <= (0 if name in EXACT else 6)
    assert picture.pixels.dtype == np.uint8
    assert picture.pixels.flags.c_contiguous
    assert (picture.width, picture.height) == (140, 96)
    assert picture.format == FORMATS.get(word, word.upper())
    assert picture.frames == FRAMES.get(name, 1)
    assert picture.alpha == name.endswith("alpha")
    assert picture.bits == BITS.get(name, 8)


@pytest.mark.parametrize("name", encodings())
def test_the_same_bytes_give_the_same_pixels_and_may_be_followed_by_anything(name: str) -> None:
    content = encodings()[name]
    first = decode(content).pixels
    assert np.array_equal(first, decode(content).pixels)
    assert np.array_equal(first, decode(content + b"\xffappended\x00" * 30).pixels)


def test_many_threads_decode_at_once() -> None:
    files = list(encodings().values()) * 4
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda content: decode(content).pixels, files))
    assert all(np.array_equal(decode(content).pixels, pixels) for content, pixels in zip(files, together, strict=True))


@pytest.mark.parametrize("name", encodings())
def test_pillows_own_limit_plays_no_part(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Pillow would warn of this size, and warnings are errors here.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 96 * 140 - 1)
    assert decode(encodings()[name]).width == 140


# --- which way up ---


@cache
def with_exif(format: str, exif: bytes) -> bytes:
    if format == "HEIF":
        return encode_heic(photo(), quality=92, exif=exif or None)
    return encode(photo(), format, exif=exif, **({"lossless": True} if format == "WEBP" else {}))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_exif_orientation_is_applied(format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = with_exif(format, exif.tobytes())
    image = Image.fromarray(photo())
    image.getexif()[0x0112] = orientation
    upright = np.asarray(ImageOps.exif_transpose(image))
    picture = decode(content, min_side=96)
    assert difference(picture.pixels, upright) < 7
    assert (picture.width, picture.height) == (upright.shape[1], upright.shape[0])


def test_heic_is_turned_once() -> None:
    # libheif turns by the container; EXIF repeats what the camera held and must not turn the picture again.
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = np.rot90(photo(), -1)
    assert difference(decode(encode_heic(photo(), quality=92, exif=exif.tobytes())).pixels, turned) < 6


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
def test_the_date_and_the_number_of_exif_fields(format: str) -> None:
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    exif.get_ifd(0x8769)[0x9003] = "2024:05:17 18:03:09"
    exif.get_ifd(0x8769)[0x829A] = 0.01
    picture = decode(with_exif(format, exif.tobytes()))
    assert (picture.taken, picture.exif_fields) == ("2024-05-17T18:03:09", 3)


def test_a_date_that_is_none_is_left_out() -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9003] = "0000:00:00 00:00:00"
    assert decode(with_exif("JPEG", exif.tobytes())).taken is None


DAMAGED_EXIF = {
    "noise": np.random.default_rng(3).bytes(300),
    "header only": b"II*\0",
    "directory beyond the end": b"MM\0*\0\0\xff\xf0",
    "value beyond the end": tiff_block({0x010E: (2, 900, 5000), 0x0112: (3, 1, 1)}),
    "a billion values": tiff_block({0x010E: (12, 0xFFFFFFFF, 8)}),
    "unknown type": tiff_block({0x010E: (99, 4, 8)}, order=">"),
    "orientation 99": tiff_block({0x0112: (3, 1, 99)}),
    "points at itself": tiff_block({0x8769: (4, 1, 8)}, following=8),
    "empty": b"",
}


@pytest.mark.parametrize("damage", DAMAGED_EXIF)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "AVIF", "HEIF"])
def test_damaged_exif_costs_nothing(format: str, damage: str) -> None:
    # Put in place of a sound block of the same length: writers refuse to write a damaged one.
    good = tiff_block(dict.fromkeys(range(0x9100, 0x9100 + 40), (4, 1, 1)))
    bad = DAMAGED_EXIF[damage].ljust(len(good), b"\0")
    plain, content = with_exif(format, b""), with_exif(format, good)
    assert content.count(good) == 1
    content = content.replace(good, bad)
    if format == "PNG":
        at = content.index(b"eXIf")
        end = at + 4 + struct.unpack(">I", content[at - 4 : at])[0]
        content = content[:end] + struct.pack(">I", zlib.crc32(content[at:end])) + content[end + 4 :]
    assert np.array_equal(decode(content).pixels, decode(plain).pixels)


# --- sizes ---


@pytest.mark.parametrize("min_side", [1, 12, 13, 24, 25, 48, 49, 96, 500])
def test_scaled_decoding_keeps_the_shorter_side(min_side: int) -> None:
    picture = decode(encodings()["jpeg"], min_side=min_side)
    assert min(picture.pixels.shape[:2]) >= min(min_side, 96)
    scale = max(s for s in (1, 2, 4, 8) if s == 1 or 96 // s >= min_side)
    assert picture.pixels.shape == (-(-96 // scale), -(-140 // scale), 3)
    assert (picture.width, picture.height) == (140, 96)
    assert np.array_equal(decode(encodings()["png"], min_side=min_side).pixels, photo())


def test_scaled_decoding_keeps_the_longer_side_too() -> None:
    wide = encode(np.tile(photo()[:48], (1, 4, 1)), "JPEG")  # 560 × 48
    for picture in (wide, encode(np.tile(photo()[:48], (1, 4, 1)).transpose(1, 0, 2), "JPEG")):
        assert max(decode(picture, min_side=6).pixels.shape) == 70
        assert max(decode(picture, min_side=6, min_longer=100).pixels.shape) == 140
        assert max(decode(picture, min_side=6, min_longer=281).pixels.shape) == 560


def _by_pillow(content: bytes, min_side: int | None) -> Array | str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ndd.images._plain_jpeg", lambda *arguments: None)
        return _tried(content, min_side)


def _tried(content: bytes, min_side: int | None) -> Array | str:
    try:
        return decode(content, min_side=min_side).pixels
    except DecodeError as error:
        return str(error)


@pytest.mark.parametrize("min_side", [None, 20, 40, 90])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_ordinary_jpegs_have_pillows_pixels(
    min_side: int | None, subsampling: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = []
    monkeypatch.setattr(
        "simplejpeg.decode_jpeg", lambda *a, _do=simplejpeg.decode_jpeg, **k: quick.append(1) or _do(*a, **k)
    )
    options = [{"quality": 30}, {"quality": 95}, {"progressive": True}, {"restart_marker_blocks": 3}]
    for width, height in ((140, 96), (139, 95), (129, 91), (97, 96)):
        for option in options:
            content = encode(photo()[:height, :width], "JPEG", subsampling=subsampling, **option)
            assert np.array_equal(decode(content, min_side=min_side).pixels, _by_pillow(content, min_side))
    assert len(quick) == 4 * len(options)


def test_other_jpegs_are_left_to_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image.fromarray(photo())
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    others = [
        encode(image.convert("L"), "JPEG"),
        encode(image.convert("CMYK"), "JPEG"),
        encode(image, "JPEG", keep_rgb=True),
        encode(image, "JPEG", icc_profile=profile),
    ]
    monkeypatch.delattr("simplejpeg.decode_jpeg")
    for content in others:
        assert decode(content).pixels.shape == (96, 140, 3)
    with pytest.raises(DecodeError, match="no attribute 'decode_jpeg'"):
        decode(encodings()["jpeg"])


@pytest.mark.parametrize("error", [MemoryError, RuntimeError("tjInitDecompress"), OSError("odd")])
def test_whatever_a_jpegs_decoder_raises_is_a_decode_error(
    error: BaseException | type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr("simplejpeg.decode_jpeg", fails)
    with pytest.raises(DecodeError, match="not enough memory|damaged JPEG"):
        decode(encodings()["jpeg"])


@pytest.mark.parametrize("name", ["jpeg", "jpeg progressive"])
def test_damage_in_a_jpeg_is_answered_as_by_pillow(name: str) -> None:
    """Whatever libjpeg only warns of is Pillow's to decide: both refuse it, or both read on."""
    rng = np.random.default_rng(0)
    answers = set()
    for _ in range(60):
        content = bytearray(encodings()[name])
        for at in rng.integers(200, len(content) - 2, 3).tolist():
            content[at] = int(rng.integers(0, 256))
        ours, theirs = _tried(bytes(content), 30), _by_pillow(bytes(content), 30)
        assert ours == theirs if isinstance(ours, str) or isinstance(theirs, str) else np.array_equal(ours, theirs)
        answers.add(isinstance(ours, str))
    assert False in answers


@pytest.mark.parametrize("name", encodings())
def test_the_limits_hold_for_every_format(name: str) -> None:
    for limits in (DecodeLimits(max_pixels=96 * 140 - 1), DecodeLimits(max_side=139)):
        with pytest.raises(DecodeError, match="140 × 96 pixels, .* than the limit of") as caught:
            decode(encodings()[name], limits=limits)
        assert caught.value.stage == "header"


@pytest.mark.parametrize("shape", [(1, 1), (3, 20_000), (20_000, 3), (1, 7)])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "BMP", "PPM"])
def test_odd_shapes_decode(shape: tuple[int, int], format: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    picture = decode(encode(pixels, format), min_side=64)
    assert picture.pixels.shape == (*shape, 3)
    assert to_square(picture.pixels, 64).shape == (64, 64, 3)
    assert max(fit_within(picture.pixels, 512).shape) <= 512


def test_a_refusal_names_the_size_and_the_limit() -> None:
    content = encodings()["png"]
    assert decode(content, limits=DecodeLimits(max_bytes=len(content), max_pixels=96 * 140, max_side=140)).width == 140
    for limits, reason in (
        (DecodeLimits(max_bytes=len(content) - 1), f"{len(content)} bytes, more than the limit of {len(content) - 1}"),
        (DecodeLimits(max_pixels=96 * 140 - 1), "140 × 96 pixels, more than the limit of 13439"),
        (DecodeLimits(max_side=139), "140 × 96 pixels, longer than the limit of 139"),
    ):
        with pytest.raises(DecodeError) as caught:
            decode(content, limits=limits)
        assert (caught.value.stage, caught.value.reason) == ("header", reason)


def bombs() -> dict[str, bytes]:
    """Files of a few hundred bytes that announce pictures of gigabytes."""
    small = {name: bytearray(encodings()[name]) for name in ("gif", "bmp", "jpeg", "webp alpha", "tiff", "heic")}
    small["gif"][6:10] = struct.pack("<HH", 60_000, 60_000)
    small["bmp"][18:26] = struct.pack("<ii", 60_000, 60_000)
    sof = small["jpeg"].index(b"\xff\xc0")
    small["jpeg"][sof + 5 : sof + 9] = struct.pack(">HH", 60_000, 60_000)
    small["webp alpha"][24:30] = (16_382).to_bytes(3, "little") * 2
    at = small["heic"].index(b"ispe")
    small["heic"][at + 8 : at + 16] = struct.pack(">II", 30_000, 30_000)
    size = tiff_block({256: (4, 1, 60_000), 257: (4, 1, 60_000), 258: (3, 1, 8), 262: (3, 1, 1), 273: (4, 1, 8)})
    return {
        **{name: bytes(content) for name, content in small.items()},
        "tiff": size,
        "png": png(30_000, 30_000, 8, 2, bytes(1000)),
        "ppm": b"P6 60000 60000 255\n" + bytes(100),
    }


@pytest.mark.parametrize("name", bombs())
def test_a_bomb_is_refused_by_its_header(name: str) -> None:
    with pytest.raises(DecodeError) as caught:
        decode(bombs()[name])
    assert caught.value.stage == "header"
    assert "limit" in caught.value.reason


def test_a_gif_whose_first_frame_is_larger_than_its_canvas() -> None:
    content = bytearray(encodings()["gif"])
    content[6:10] = struct.pack("<HH", 10, 10)
    picture = decode(bytes(content))
    assert (picture.width, picture.height) == (140, 96)
    with pytest.raises(DecodeError, match="limit"):
        decode(bytes(content), limits=DecodeLimits(max_side=100))


# --- canvases ---


def test_shrinking_averages_areas() -> None:
    stripes = np.zeros((60, 60, 3), np.uint8)
    stripes[:, ::2] = 200
    assert np.array_equal(to_square(stripes, 10), np.full((10, 10, 3), 100))
    # One axis shrinks while the other grows: still an average, not a sample.
    assert np.array_equal(to_square(stripes[:3], 10), np.full((10, 10, 3), 100))
    assert np.array_equal(fit_within(stripes, 30), np.full((30, 30, 3), 100))


def test_growing_invents_no_value() -> None:
    step = np.zeros((4, 4, 3), np.uint8)
    step[:, 2:] = 90
    grown = to_square(step, 64)
    assert grown.min() == 0 and grown.max() == 90
    assert (np.diff(grown[0, :, 0].astype(int)) >= 0).all()


def test_a_fitting_picture_is_left_alone() -> None:
    assert np.array_equal(to_square(photo()[:96, :96], 96), photo()[:96, :96])
    assert np.array_equal(fit_within(photo(), 140), photo())
    assert fit_within(photo(), 70).shape == (48, 70, 3)
    assert fit_within(np.zeros((2000, 1, 3), np.uint8), 10).shape == (10, 1, 3)


def test_the_number_of_threads_does_not_matter() -> None:
    large = np.random.default_rng(5).integers(0, 256, (1501, 2003, 3), np.uint8)
    before = cv2.getNumThreads()
    try:
        results = []
        for threads in (1, 4):
            cv2.setNumThreads(threads)
            results.append((to_square(large, 128), fit_within(large, 700), to_square(large[:50, :50], 128)))
    finally:
        cv2.setNumThreads(before)
    assert all(np.array_equal(a, b) for a, b in zip(*results, strict=True))


def test_a_host_that_allows_truncated_pictures_does_not_change_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    for name in ("jpeg", "jpeg progressive", "png", "gif", "webp", "avif", "heic", "tiff lzw"):
        content = encodings()[name]
        with pytest.raises(DecodeError):
            decode(content[: len(content) * 2 // 3])
