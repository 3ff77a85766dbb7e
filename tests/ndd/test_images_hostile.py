"""What decode and read_file make of files that are cut, damaged, misnamed or no files at all: a DecodeError, nothing else."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import re
import socket
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ndd.config import DecodeLimits
from ndd.errors import DecodeError
from ndd.images import Picture, _read_exactly, decode, read_file
from tests.ndd.pictures import chunk, encode, encodings, photo, png, tiff_block

# Cut behind the last byte that its first picture needs, a file still shows all of that picture.
WHOLE_BEFORE_ITS_END = {"mpo", "tiff pages"}


@pytest.mark.parametrize("name", encodings())
def test_a_file_cut_anywhere_is_never_a_padded_picture(name: str) -> None:
    content = encodings()[name]
    whole = decode(content).pixels
    accepted = 0
    for length in {*range(0, len(content), len(content) // 40), *range(len(content) - 12, len(content))}:
        for min_side in (None, 32):
            try:
                picture = decode(content[:length], min_side=min_side)
            except DecodeError as error:
                assert error.reason
            else:
                accepted += 1
                assert np.array_equal(picture.pixels, decode(content, min_side=min_side).pixels), (length, len(content))
    assert whole.shape == (96, 140, 3)
    assert accepted == 0 or name in WHOLE_BEFORE_ITS_END


@pytest.mark.parametrize(
    "name",
    [name for name in encodings() if re.match("jpeg|png|gif|webp|avif|heic", name) and len(encodings()[name]) > 9000],
)
def test_a_download_that_stopped_leaves_zeros(name: str) -> None:
    content = encodings()[name]
    for missing in (4096, len(content) // 2):
        with pytest.raises(DecodeError):
            decode(content[:-missing] + bytes(missing))


def test_a_progressive_jpeg_of_thousands_of_scans_is_refused() -> None:
    content = encode(photo(), "JPEG", progressive=True)
    assert decode(content).format == "JPEG"
    last, end = content.rindex(b"\xff\xda"), content.rindex(b"\xff\xd9")
    remark = b"\xff\xfe\0\x04\xff\xd9"  # a comment that looks like the end to whoever does not take it for one
    for between in (b"", remark):
        bomb = content[:end] + between + 2000 * content[last:end] + content[end:]
        with pytest.raises(DecodeError, match=r"header: damaged JPEG: more than 100 scans"):
            decode(bomb)


def test_run_length_data_that_ends_early() -> None:
    rows = b"".join(bytes((4, row, 0, 0)) for row in range(3)) + b"\0\1"
    palette = bytes(range(256)) * 4
    start = 54 + len(palette)
    head = struct.pack("<IiiHHIIiiII", 40, 4, 3, 1, 8, 1, len(rows), 0, 0, 256, 0)
    content = b"BM" + struct.pack("<IHHI", start + len(rows), 0, 0, start) + head + palette + rows
    assert decode(content).pixels.shape == (3, 4, 3)
    for lost in range(1, len(rows)):
        with pytest.raises(DecodeError, match="cut short"):
            decode(content[:-lost])


def test_a_png_with_a_flipped_bit_is_damaged() -> None:
    content = bytearray(encodings()["png"])
    content[len(content) // 2] ^= 4
    with pytest.raises(DecodeError, match="wrong checksum in IDAT"):
        decode(bytes(content))


# What other decoders of Pillow would take, scripts for Ghostscript among them, and what is no picture.
FOREIGN = {
    "PDF": b"%PDF-1.4\n", "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PSD": b"8BPS\0\1",
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>", "video": b"\0\0\0\x18ftypmp42\0\0\0\0", "text": b"no picture",
    "icon": b"\0\0\1\0\1\0", "JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n", "zeros": bytes(64), "one byte": b"\xff",
    "Windows": b"MZ\x90", "float PNM": b"PF\n1 1\n-1.0\n" + bytes(12),
}  # fmt: skip


@pytest.mark.parametrize("name", FOREIGN)
def test_other_formats_are_refused(name: str) -> None:
    with pytest.raises(DecodeError, match=r"not a picture in a format that is read here \(JPEG, PNG") as caught:
        decode(FOREIGN[name] + bytes(200))
    assert caught.value.stage == "header"


def test_an_empty_file_says_so() -> None:
    with pytest.raises(DecodeError, match="header: the file is empty"):
        decode(b"")


def test_a_raw_photo_is_not_mistaken_for_its_thumbnail() -> None:
    content = tiff_block({256: (3, 1, 1), 257: (3, 1, 1), 273: (4, 1, 8), 50706: (1, 4, 0x0401)})
    with pytest.raises(DecodeError, match="raw file"):
        decode(content)


def test_a_failure_travels_between_processes() -> None:
    with pytest.raises(DecodeError) as caught:
        decode(encodings()["jpeg"][:99])
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (copy.stage, copy.reason) == ("header", "the file is cut short")


# --- remarks that Pillow would print as warnings ---


def test_remarks_about_tags_are_not_passed_on() -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    fields = {256: (3, 1, 4), 257: (3, 1, 3), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1), 278: (3, 1, 3)}
    odd = {**fields, 273: (4, 1, 200), 279: (4, 1, 12), 277: (3, 2, 1), 305: (2, 5000, 9000), 40000: (99, 1, 1)}
    content = tiff_block(odd, following=7).ljust(200, b"\0") + pixels.tobytes()
    with pytest.warns(UserWarning), contextlib.suppress(Exception):
        Image.open(io.BytesIO(content)).load()
    assert np.array_equal(decode(content).pixels[..., 0], pixels)


def test_a_damaged_animation_is_still_its_first_picture() -> None:
    content = png(1, 1, 8, 0, b"\0\7", chunk(b"acTL", bytes(8)), chunk(b"acTL", struct.pack(">II", 9, 0)))
    picture = decode(content)
    assert (picture.pixels.tolist(), picture.frames) == ([[[7, 7, 7]]], 9)


def test_a_text_bomb_beside_the_pixels_is_not_opened() -> None:
    bomb = zlib.compress(bytes(80_000_000), 1)
    content = png(1, 1, 8, 0, b"\0\7", chunk(b"zTXt", b"Comment\0\0" + bomb), chunk(b"iCCP", b"x\0\0" + bomb))
    assert decode(content).pixels.tolist() == [[[7, 7, 7]]]


# --- whatever bytes ---


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A real file with a few bytes changed, a piece removed, repeated or taken from another file."""
    content = bytearray(encodings()[draw(st.sampled_from(sorted(encodings())))])
    # Half of the changes hit the header, where a byte matters most.
    place = st.integers(0, 400).map(lambda at: min(at, len(content) - 1)) | st.integers(0, len(content) - 1)
    for _ in range(draw(st.integers(1, 6))):
        at, length = draw(place), draw(st.integers(1, 40))
        kind = draw(st.sampled_from(("set", "extreme", "drop", "repeat", "graft")))
        if kind == "set":
            content[at] = draw(st.integers(0, 255))
        elif kind == "extreme":
            content[at : at + 4] = draw(st.sampled_from((b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\0\0\0\1")))
        elif kind == "drop":
            del content[at : at + length]
        elif kind == "repeat":
            content[at:at] = content[at : at + length]
        else:
            content[at : at + length] = encodings()[draw(st.sampled_from(sorted(encodings())))][at : at + length]
        if not content:
            break
    return bytes(content)


def check_decodes_or_fails_politely(content: bytes, min_side: int | None) -> None:
    limits = DecodeLimits(max_pixels=4_000_000, max_side=20_000)
    try:
        picture = decode(content, limits=limits, min_side=min_side)
    except DecodeError as error:
        assert error.stage in ("header", "decode")
        assert 0 < len(error.reason) < 140
        assert "\n" not in error.reason and not re.search("0x[0-9a-f]{6}|BytesIO|/", error.reason)
    else:
        assert isinstance(picture, Picture)
        assert picture.width * picture.height <= limits.max_pixels
        assert picture.pixels.dtype == np.uint8 and picture.pixels.ndim == 3


@given(content=mutated(), min_side=st.none() | st.integers(1, 100))
def test_damaged_files_decode_or_fail_politely(content: bytes, min_side: int | None) -> None:
    check_decodes_or_fails_politely(content, min_side)


@given(
    start=st.sampled_from([content[:k] for content in encodings().values() for k in (4, 12, 30)]),
    rest=st.binary(max_size=200),
)
def test_noise_behind_a_signature_fails_politely(start: bytes, rest: bytes) -> None:
    check_decodes_or_fails_politely(start + rest, None)


# --- files ---


def refusal(path: str | os.PathLike[str], limits: DecodeLimits | None = None) -> str:
    with pytest.raises(DecodeError) as caught:
        read_file(path, limits=limits)
    assert caught.value.stage == "open"
    assert str(path) not in caught.value.reason or not str(path)
    return caught.value.reason


def test_a_regular_file_is_read_whole(tmp_path: Path) -> None:
    content = os.urandom(3_000_001)
    (tmp_path / "x").write_bytes(content)
    (tmp_path / "link").symlink_to("x")
    (tmp_path / "empty").touch()
    assert read_file(tmp_path / "x") == content
    assert read_file(str(tmp_path / "link")) == content
    assert read_file(tmp_path / "empty") == b""
    assert read_file(tmp_path / "x", limits=DecodeLimits(max_bytes=len(content))) == content


def test_what_is_not_a_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with contextlib.chdir(tmp_path), socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.jpg")  # a socket's name must be short
        assert refusal("socket.jpg") == "not a regular file"
    assert refusal(tmp_path / "pipe.jpg") == "not a regular file"
    assert refusal(tmp_path) == "not a regular file"
    assert refusal("/dev/zero") == "not a regular file"


def test_a_refusal_leaves_nothing_open(tmp_path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    for path in (tmp_path, "/dev/zero", tmp_path / "nowhere"):
        refusal(path)
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_file_that_cannot_be_opened_says_why(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "gone").symlink_to("nowhere")
    (tmp_path / "big").write_bytes(bytes(11))
    assert refusal(tmp_path / "loop") == "a loop of symbolic links"
    assert "no such file" in refusal(tmp_path / "gone")
    assert "no such file" in refusal(tmp_path / "never was")
    assert refusal(tmp_path / "big" / "below") == "not a directory"
    assert refusal(tmp_path / ("x" * 300)) == "file name too long"
    assert refusal("a\0b") == "not a possible file name"
    assert refusal(tmp_path / "big", DecodeLimits(max_bytes=10)) == "11 bytes, more than the limit of 10"


def test_a_file_that_changes_while_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(10))
    for size, word in ((11, "shrank"), (9, "grew")):
        with open(tmp_path / "x", "rb") as file, pytest.raises(DecodeError, match=word):
            _read_exactly(file.fileno(), size)


def test_a_name_that_is_not_text_is_read(tmp_path: Path) -> None:
    name = os.path.join(os.fsencode(tmp_path), b"caf\xe9.png")
    with open(name, "wb") as file:
        file.write(encode(photo(), "PNG"))
    assert decode(read_file(os.fsdecode(name))).width == 140
