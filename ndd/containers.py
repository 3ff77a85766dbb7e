"""Picture files looked at as bytes, before a decoder sees them: which format, whole or cut short, how many frames.

Every `_read_*` below walks the blocks of one format without decoding a pixel. It finds files that were cut short (some
decoders fill up what is missing), and hands on only the blocks that a picture is made of: comments, thumbnails, colour
profiles, later frames and EXIF never reach a decoder, so damage in them costs nothing. EXIF is read by `ndd.exif`,
profiles are applied by `ndd.profiles`.

Sources: ITU-T T.81 (JPEG), CIPA DC-007 (MPF), W3C PNG 3rd edition, GIF89a, RFC 9649 (WebP), TIFF 6.0,
ISO/IEC 14496-12 and 23008-12 (AVIF, HEIF), Microsoft BITMAPINFOHEADER.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from ndd.errors import DecodeError
from ndd.exif import Exif, Field, Layout, numbers, pack_directory, read_directory, read_exif, read_layout
from ndd.profiles import MAX_PROFILE

__all__ = ["Container", "inspect"]

_FORMATS = "JPEG, PNG, WebP, GIF, TIFF, BMP, AVIF, HEIC, PNM"
_CUT_SHORT = "the file is cut short"
_NO_EXIF = Exif()


@dataclass(frozen=True, slots=True)
class Container:
    """A picture file taken apart.

    data: what the decoder gets. size: (width, height) in pixels where the decoder would reserve memory for it before it
    can be asked; None elsewhere. bits: per channel, as the file says (8 where the format knows nothing else). icc: the
    embedded colour profile, as it stands there; None also where its decoder is the one to hand it out (AVIF, HEIF).
    """

    format: str
    data: bytes
    size: tuple[int, int] | None = None
    frames: int = 1
    bits: int = 8
    exif: Exif = _NO_EXIF
    icc: bytes | None = None


def inspect(content: bytes) -> Container:
    """Recognise the format by its signature and check that the file is whole.

    Raises DecodeError (stage `header`): empty, not a known picture format, or cut short.
    """
    if not content:
        raise _failure("the file is empty")
    for signature, read in _SIGNATURES:
        if signature.match(content):
            try:
                return read(content)
            except (struct.error, IndexError):  # a block's fixed part reaches beyond the end
                raise _failure(_CUT_SHORT) from None
    raise _failure(f"not a picture in a format that is read here ({_FORMATS})")


def _failure(reason: str) -> DecodeError:
    return DecodeError(reason, stage="header")


def _check_tail(content: bytes) -> None:
    """Raise if the file ends in a page of zeros: space set aside by a download that stopped. No coded picture does."""
    if len(content) > 8192 and not content[-4096:].strip(b"\0"):
        raise _failure("the file is cut short: its end is all zeros")


def _u32(data: bytes, at: int) -> int:
    value: int = struct.unpack_from(">I", data, at)[0]
    return value


def _read_jpeg(content: bytes) -> Container:
    kept, exif, frames, bits, at = [content[:2]], None, 1, 8, 2
    profile: dict[int, bytes] = {}
    while True:
        at = content.find(b"\xff", at)  # decoders skip stray bytes between segments
        if at < 0:
            raise _failure(_CUT_SHORT)
        marker = content[at + 1]
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD8:  # stuffing, padding, markers without a body
            at += 1 if marker == 0xFF else 2
            continue
        if marker in (0xD9, 0xDA):
            break
        length = struct.unpack_from(">H", content, at + 2)[0]
        body, end = content[at + 4 : at + 2 + length], at + 2 + length
        if end > len(content):
            raise _failure(_CUT_SHORT)
        if marker == 0xE1 and body.startswith(b"Exif\0\0"):
            exif = exif or body
        if marker == 0xE2 and body.startswith(b"MPF\0"):
            frames = _mpf_frames(body[4:])
        if marker == 0xE2 and body.startswith(b"ICC_PROFILE\0") and len(body) > 14:
            profile.setdefault(body[12], body[14:])
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            bits = body[0]
        if _is_needed(marker, body):
            kept.append(content[at:end])
        at = end
    if content.find(b"\xff\xd9", at) < 0:  # scan data cannot hold FF D9, so its absence means that the end is missing
        raise _failure(_CUT_SHORT)
    _check_scans(content, at)
    icc = b"".join(profile[number] for number in sorted(profile)) or None
    return Container("JPEG", b"".join([*kept, content[at:]]), frames=frames, bits=bits, exif=read_exif(exif), icc=icc)


_SCAN_END = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
_MAX_SCANS = 100
"""Progressive encoders make about ten; each scan is a pass over the whole picture, and costs a bomb a few bytes."""


def _check_scans(content: bytes, at: int) -> None:
    """Raise if the JPEG whose first scan begins at byte `at` has too many of them."""
    scans = 0
    while (found := _SCAN_END.search(content, at)) is not None and content[found.start() + 1] != 0xD9:
        scans += content[found.start() + 1] == 0xDA
        if scans > _MAX_SCANS:
            raise _failure(f"damaged JPEG: more than {_MAX_SCANS} scans")
        if found.end() + 2 > len(content):
            return
        at = found.end() + int(struct.unpack_from(">H", content, found.end())[0])


def _is_needed(marker: int, body: bytes) -> bool:
    """True for the JPEG segments that decide about pixels: no comment, no application data but JFIF and Adobe."""
    if marker == 0xE0:
        return body.startswith(b"JFIF\0") and len(body) >= 14
    if marker == 0xEE:
        return body.startswith(b"Adobe") and len(body) >= 12
    return not (0xE0 <= marker <= 0xEF or marker == 0xFE)


def _mpf_frames(block: bytes) -> int:
    """Number of pictures in a multi-picture JPEG (tag B001 of its index)."""
    layout = read_layout(block)
    directory = read_directory(block, layout, layout.first) if layout else None
    if layout is None or directory is None:
        return 1
    return max([1, *(n for f in directory[0] if f.tag == 0xB001 for n in numbers(f, layout)[:1])])


def _read_png(content: bytes) -> Container:
    kept, exif, icc, frames, at = [content[:8]], None, None, 1, 8
    depth, colour = content[24], content[25]
    while True:
        length, name = _u32(content, at), content[at + 4 : at + 8]
        end = at + 12 + length
        if end > len(content):
            raise _failure(_CUT_SHORT)
        if name in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            if zlib.crc32(memoryview(content)[at + 4 : end - 4]) != _u32(content, end - 4):
                raise _failure(f"damaged PNG: wrong checksum in {name.decode()}")
            kept.append(content[at:end])
        elif name == b"eXIf":
            exif = content[at + 8 : end - 4]
        elif name == b"iCCP":
            icc = _unpacked(content[at + 8 : end - 4].partition(b"\0")[2][1:])
        elif name == b"acTL" and length >= 4:
            frames = max(1, _u32(content, at + 8))
        if name == b"IEND":
            break
        at = end
    return Container(
        "PNG", b"".join(kept), frames=frames, bits=8 if colour == 3 else depth, exif=read_exif(exif), icc=icc
    )


def _unpacked(block: bytes) -> bytes | None:
    """A deflated colour profile; None for a damaged one, or a bomb."""
    try:
        return zlib.decompressobj().decompress(block, MAX_PROFILE) or None
    except zlib.error:
        return None


def _read_gif(content: bytes) -> Container:
    """Keeps the first frame and what controls it, with its disposal cleared: Pillow reserves memory for disposal."""
    width, height = struct.unpack_from("<HH", content, 6)
    at = 13 + _gif_palette(content[10])
    control, picture, frames = b"", b"", 0
    while content[at] != 0x3B:
        start = at
        if content[at] == 0x21:
            at = _gif_blocks(content, at + 2)
            if content[start + 1] == 0xF9 and not frames and at - start == 8:
                control = content[start : start + 3] + bytes([content[start + 3] & 0x01]) + content[start + 4 : at]
        elif content[at] == 0x2C:
            left, top, w, h, flags = struct.unpack_from("<HHHHB", content, at + 1)
            at = _gif_blocks(content, at + 11 + _gif_palette(flags))
            if not frames:
                picture, width, height = content[start:at], max(width, left + w), max(height, top + h)
            frames += 1
        else:
            raise _failure("damaged GIF: unknown block")
    if not frames:
        raise _failure("damaged GIF: it holds no picture")
    if width > 0xFFFF or height > 0xFFFF:
        raise _failure("damaged GIF: its first frame lies outside any canvas")
    head = content[:6] + struct.pack("<HH", width, height) + content[10 : 13 + _gif_palette(content[10])]
    return Container("GIF", head + control + picture + b";", size=(width, height), frames=frames)


def _gif_palette(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _gif_blocks(content: bytes, at: int) -> int:
    """The byte behind a chain of data blocks, each with its length before it; IndexError where the file ends first."""
    while size := content[at]:
        at += 1 + size
    return at + 1


def _read_webp(content: bytes) -> Container:
    end = 8 + int(struct.unpack_from("<I", content, 4)[0])
    if end > len(content):
        raise _failure(_CUT_SHORT)
    _check_tail(content[:end])
    exif, icc, frames, size, at = None, None, 0, None, 12
    while at + 8 <= end:
        name, length = struct.unpack_from("<4sI", content, at)
        body, at = at + 8, at + 8 + length + length % 2
        if name == b"VP8X":
            canvas = content[body + 4 : body + 10]
            size = (1 + int.from_bytes(canvas[:3], "little"), 1 + int.from_bytes(canvas[3:], "little"))
        elif name == b"VP8 " and size is None:
            w, h = struct.unpack_from("<HH", content, body + 6)
            size = (w & 0x3FFF, h & 0x3FFF)
        elif name == b"VP8L" and size is None:
            packed = struct.unpack_from("<I", content, body + 1)[0]
            size = (1 + (packed & 0x3FFF), 1 + (packed >> 14 & 0x3FFF))
        elif name == b"EXIF":
            exif = content[body : body + length]
        elif name == b"ICCP":
            icc = content[body : body + length]
        frames += name == b"ANMF"
    if size is None:
        raise _failure("damaged WebP: it holds no picture")
    return Container("WEBP", content[:end], size=size, frames=max(1, frames), exif=read_exif(exif), icc=icc)


def _read_bmp(content: bytes) -> Container:
    start, head = struct.unpack_from("<II", content, 10)
    if head >= 40:  # earlier headers know no compression
        compression, size = struct.unpack_from("<II", content, 30)
        if compression in (1, 2) and start + size > len(content):  # Pillow fills up run-length data that ends early
            raise _failure(_CUT_SHORT)
    return Container("BMP", content)


def _read_pnm(content: bytes) -> Container:
    return Container("PPM", content, bits=1 if content[1:2] in b"14" else 8)


# Tags that decide about pixels: those of TIFF 6.0 and its supplements, with one number each or several.
_TIFF_SINGLE = {254, 255, 256, 257, 259, 262, 263, 266, 277, 278, 284, 292, 293, 317, 322, 323, 332, 512, 513, 514}
_TIFF_SEVERAL = {258, 273, 279, *range(318, 321), 324, 325, 334, 338, 339, 342, 347, *range(519, 522), *range(529, 533)}
_TIFF_TAGS = frozenset(_TIFF_SINGLE | _TIFF_SEVERAL)
_ICC, _DNG_VERSION, _MAX_STRIPS, _MAX_PAGES = 34675, 50706, 1_000_000, 10_000


def _read_tiff(content: bytes) -> Container:
    """Hands on the file with its first directory overwritten by one of only the tags which decide about pixels."""
    layout = read_layout(content)
    directory = read_directory(content, layout, layout.first) if layout else None
    if layout is None or directory is None:
        raise _failure(_CUT_SHORT)
    fields = {f.tag: f for f in directory[0]}
    if _DNG_VERSION in fields:
        raise _failure("a camera's raw file (DNG): develop it first")
    kept = [f for f in fields.values() if f.tag in _TIFF_TAGS]
    if not all(f.value for f in kept):
        raise _failure(_CUT_SHORT)
    kept = [_single(f) if f.tag in _TIFF_SINGLE else f for f in kept]
    if sum(len(f.value) for f in kept) > len(content):
        raise _failure("damaged TIFF: its directory claims more than the file holds")
    _check_strips(fields, layout, len(content))
    frames = _tiff_pages(content, layout, directory[1])
    packed = pack_directory(kept, layout)
    data = b"".join((content[: layout.first], packed, content[layout.first + len(packed) :]))
    bits = max(numbers(fields.get(258), layout), default=1)
    exif, icc = read_exif(content, ignore=_TIFF_TAGS), bytes(fields[_ICC].value) if _ICC in fields else None
    return Container("TIFF", data, frames=frames, bits=bits, exif=exif, icc=icc)


def _check_strips(fields: dict[int, Field], layout: Layout, size: int) -> None:
    """Raise unless every strip or tile of a compressed picture lies within the file."""
    offsets, counts = fields.get(324, fields.get(273)), fields.get(325, fields.get(279))
    if offsets is None:
        if 513 not in fields:  # the old way of embedding a JPEG
            raise _failure(_CUT_SHORT if fields else "damaged TIFF: it holds no picture")
        return
    if offsets.count > _MAX_STRIPS:
        raise _failure(f"damaged TIFF: {offsets.count} strips")
    if numbers(fields.get(259), layout)[:1] in ([], [1]):
        return  # not compressed: the decoder knows how many bytes it needs, the writers of such files often did not
    ends = (a + b for a, b in zip(numbers(offsets, layout), numbers(counts, layout), strict=False))
    if max(ends, default=0) > size:
        raise _failure(_CUT_SHORT)


def _tiff_pages(content: bytes, layout: Layout, following: int) -> int:
    """Length of the chain of directories that starts with the first and goes on at byte `following`."""
    seen = {layout.first}
    while following and following not in seen and len(seen) < _MAX_PAGES:
        page = read_directory(content, layout, following)
        if page is None:
            break
        seen.add(following)
        following = page[1]
    return len(seen)


def _single(field: Field) -> Field:
    """The field cut to one value: decoders warn of, or refuse, a list where one number belongs."""
    value = field.value[: len(field.value) // field.count]
    inline = field.inline if len(field.value) <= len(field.inline) else bytes(value).ljust(len(field.inline), b"\0")
    return replace(field, count=1, value=value, inline=inline)


_PICTURE_BRANDS = re.compile(rb"avif|avis|hei[cxms]|hev[cxms]|mif1|msf1")
_EXIF_ITEM = re.compile(rb"(infe(?:\x02.{7}|\x03.{9}))Exif", re.DOTALL)
_TIFF_HEAD = re.compile(rb"II\*\0\x08\0\0\0|MM\0\*\0\0\0\x08")


def _read_isobmff(content: bytes) -> Container:
    """AVIF or HEIF, by the brands named in the first box."""
    brands = content[8 : max(12, min(_u32(content, 0), 4096))]
    if not _PICTURE_BRANDS.search(brands):
        raise _failure(f"not a picture in a format that is read here ({_FORMATS})")
    end = 0
    for name, following in _boxes(content):
        if following > len(content):
            if name not in (b"ftyp", b"meta", b"mdat", b"moov", b"moof", b"idat", b"free", b"skip", b"uuid"):
                break  # not a box: something was appended to a whole file
            raise _failure(_CUT_SHORT)
        end = following
    content = content[:end]
    _check_tail(content)
    if b"avif" not in brands and b"avis" not in brands:
        return Container("HEIF", content)
    # Pillow reads an AVIF's EXIF while it opens the file, and fails if that is damaged: rename the item so that it is
    # not found, and read it here. The turn of the picture is told by the container, not by EXIF (MIAF, ISO 23000-22).
    hidden, exif = _EXIF_ITEM.subn(rb"\1free", content)
    block = _TIFF_HEAD.search(content) if exif else None
    config = content.find(b"av1C")
    flags = content[config + 6] if 0 <= config < len(content) - 6 else 0
    bits = 8 if not flags & 0x40 else 12 if flags & 0x20 else 10
    found = read_exif(content[block.start() :]) if block else _NO_EXIF
    return Container("AVIF", hidden, bits=bits, exif=replace(found, orientation=1))


def _boxes(content: bytes) -> Iterator[tuple[bytes, int]]:
    """Top-level boxes: name, and the byte behind the last (which may lie beyond the end of a cut file)."""
    at = 0
    while at + 8 <= len(content):
        length, name = struct.unpack_from(">I4s", content, at)
        if length == 1:
            length = struct.unpack_from(">Q", content, at + 8)[0] if at + 16 <= len(content) else len(content)
        following = at + length if length else len(content)
        if following < at + 8:
            return
        yield name, following
        at = following


_SIGNATURES: tuple[tuple[re.Pattern[bytes], Callable[[bytes], Container]], ...] = tuple(
    (re.compile(pattern, re.DOTALL), read)
    for pattern, read in (
        (rb"\xff\xd8\xff", _read_jpeg),
        (rb"\x89PNG\r\n\x1a\n", _read_png),
        (rb"GIF8[79]a", _read_gif),
        (rb"RIFF....WEBP", _read_webp),
        (rb"BM", _read_bmp),
        (rb"II[*+]\0|MM\0[*+]", _read_tiff),
        (rb"....ftyp", _read_isobmff),
        (rb"P[1-6]\s", _read_pnm),
    )
)
