"""Pictures that look alike and are no duplicates, made by code; and copies in clutter, which are.

Each kind of look-alike is a set of pairs that a search must not accept: its figure is the share of false positives. Kinds of
clutter are pairs that it should accept, with the share it finds.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ndd.detector import Detector
from ndd.errors import DecodeError, UsageError
from ndd.images import decode
from ndd.metrics.intervals import Interval, binomial_interval
from pipelines.album import Photo

__all__ = ["CLUTTER", "LOOKALIKES", "hard", "make_pairs"]

Pixels = NDArray[np.uint8]
Made = tuple[bytes, bytes]
Maker = Callable[[Sequence[Pixels], np.random.Generator], Made]
"""(two or more photographs, generator) → the files of two pictures."""

_EACH = 30
_WORDS = [
    "river",
    "stone",
    "market",
    "window",
    "paper",
    "lantern",
    "harbour",
    "winter",
    "garden",
    "copper",
    "signal",
    "orchard",
    "velvet",
    "bridge",
    "cloud",
]


def hard(photos: Sequence[Photo], model: Path, *, seed: int = 0) -> dict[str, Any]:
    """Kind → pairs, share accepted with its interval, mean score. At least four photographs; raises UsageError."""
    detector = Detector(model)
    found: dict[str, Any] = {}
    for kind, pairs in make_pairs(photos, seed=seed):
        known = detector.look_many([file for pair in pairs for file in pair])
        good = [picture for picture in known if not isinstance(picture, DecodeError)]
        assert len(good) == len(known), "what was made a moment ago can be read"
        matches = [detector.match(left, right) for left, right in zip(good[::2], good[1::2], strict=True)]
        accepted = sum(match.duplicate for match in matches)
        found[kind] = {
            "pairs": len(pairs),
            "duplicates": kind in CLUTTER,
            "accepted": asdict(binomial_interval(accepted, len(pairs))),
            "cosine": float(np.mean([1.0 - match.distance for match in matches])),
            "score": float(np.mean([match.score for match in matches])),
        }
    strangers = [of for of in found.values() if not of["duplicates"]]
    wrong = sum(round(of["accepted"]["value"] * of["pairs"]) for of in strangers)
    total = sum(of["pairs"] for of in strangers)
    return {
        "kinds": found,
        "false_positives": asdict(binomial_interval(wrong, total)),
        "page": _page(found, wrong, total),
    }


def make_pairs(photos: Sequence[Photo], *, seed: int = 0, each: int = _EACH) -> Iterator[tuple[str, list[Made]]]:
    """(kind, pairs of picture files) of every kind; the same photographs and seed give the same pairs."""
    if len(photos) < 4:
        raise UsageError(f"hard pairs are made from at least four photographs, got {len(photos)}")
    for number, (kind, make) in enumerate({**LOOKALIKES, **CLUTTER}.items()):
        rng = np.random.default_rng([seed, number])
        pairs = []
        for _ in range(each):
            chosen = rng.choice(len(photos), 4, replace=False)
            pairs.append(make([decode(photos[at].content).pixels for at in chosen], rng))
        yield kind, pairs


def template_text(photos: Sequence[Pixels], rng: np.random.Generator) -> Made:
    """One poster template, two texts."""
    colours = rng.integers(40, 216, (2, 3))
    return _twice(lambda: _poster(colours, _phrase(rng, 6)))


def same_logo(photos: Sequence[Pixels], rng: np.random.Generator) -> Made:
    """Two photographs with the same large logo."""
    logo = _logo(rng)
    return _png(_stamped(_sized(photos[0]), logo)), _png(_stamped(_sized(photos[1]), logo))


def burst_neighbours(photos: Sequence[Pixels], rng: np.random.Generator) -> Made:
    """One background, another subject in front of it, as in two shots of a series."""
    back = _sized(photos[0])
    return _png(_in_front(back, photos[1], rng)), _png(_in_front(back, photos[2], rng))


def screenshots(photos: Sequence[Pixels], rng: np.random.Generator) -> Made:
    """Two screens of one application: the same frame, other contents."""
    colour = tuple(int(c) for c in rng.integers(60, 200, 3))
    return _png(_screen(photos[0], colour, rng)), _png(_screen(photos[1], colour, rng))


def flat_frames(photos: Sequence[Pixels], rng: np.random.Generator) -> Made:
    """Nearly one colour, with noise: a covered lens, a night sky."""
    level = int(rng.choice((4, 12, 128, 245)))
    return _twice(lambda: _png(np.clip(rng.normal(level, 3.0, (240, 320, 3)), 0, 255).astype(np.uint8)))


def transparent(photos: Sequence[Pixels], rng: np.random.Generator) -> Made:
    """Two icons on transparent ground: what is not seen differs as little as what is plain."""
    return _twice(lambda: _icon(rng))


def charts(photos: Sequence[Pixels], rng: np.random.Generator) -> Made:
    """The same axes, other bars."""
    colour = tuple(int(c) for c in rng.integers(30, 200, 3))
    return _twice(lambda: _chart(rng, colour))


def two_colours(photos: Sequence[Pixels], rng: np.random.Generator) -> Made:
    """One product in two shapes and colours on white: shots of a catalogue."""
    return _twice(lambda: _product(rng))


def same_caption(photos: Sequence[Pixels], rng: np.random.Generator) -> Made:
    """Two photographs under the same caption bar."""
    words = _phrase(rng, 5)
    return _png(_captioned(_sized(photos[0]), words)), _png(_captioned(_sized(photos[1]), words))


def picture_in_picture(photos: Sequence[Pixels], rng: np.random.Generator) -> Made:
    """A photograph, and the same within another one."""
    inner = _sized(photos[0])
    outer = cv2.resize(photos[1], (640, 480), interpolation=cv2.INTER_AREA)
    left, top = int(rng.integers(0, 320)), int(rng.integers(0, 240))
    outer[top : top + 240, left : left + 320] = inner
    return _png(inner), _png(np.asarray(outer, np.uint8))


def collage(photos: Sequence[Pixels], rng: np.random.Generator) -> Made:
    """A photograph, and a collage of four that holds it."""
    cells = [_sized(photo) for photo in photos]
    order = rng.permutation(4)
    rows = [np.hstack([cells[order[0]], cells[order[1]]]), np.hstack([cells[order[2]], cells[order[3]]])]
    return _png(cells[0]), _png(np.vstack(rows))


LOOKALIKES: Mapping[str, Maker] = {
    "same template, other text": template_text,
    "same logo": same_logo,
    "burst neighbours": burst_neighbours,
    "screens of one application": screenshots,
    "flat and dark frames": flat_frames,
    "transparent icons": transparent,
    "charts": charts,
    "product shots": two_colours,
    "same caption": same_caption,
}
"""No duplicates, however alike."""
CLUTTER: Mapping[str, Maker] = {"picture in picture": picture_in_picture, "collage of four": collage}
"""Duplicates in part: the picture is there, smaller and among others."""


def _twice(make: Callable[[], bytes]) -> Made:
    return make(), make()


def _sized(pixels: Pixels) -> Pixels:
    return np.asarray(cv2.resize(pixels, (320, 240), interpolation=cv2.INTER_AREA), np.uint8)


def _png(pixels: Pixels) -> bytes:
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, "PNG")
    return held.getvalue()


def _phrase(rng: np.random.Generator, count: int) -> str:
    return " ".join(rng.choice(_WORDS, count))


def _poster(colours: NDArray[np.int64], words: str) -> bytes:
    back, bar = (tuple(int(c) for c in colour) for colour in colours)
    image = Image.new("RGB", (320, 240), back)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, 320, 44), fill=bar)
    draw.rectangle((20, 196, 300, 224), outline="white", width=2)
    draw.ellipse((236, 60, 296, 120), fill=bar)
    for at, word in enumerate(words.split()):
        draw.text((24, 56 + 22 * at), word, fill="white", font=ImageFont.load_default(size=20))
    return _png(np.asarray(image))


def _logo(rng: np.random.Generator) -> Image.Image:
    logo = Image.new("RGBA", (120, 80), (0, 0, 0, 0))
    draw = ImageDraw.Draw(logo)
    fill = (*(int(c) for c in rng.integers(0, 256, 3)), 255)
    draw.rounded_rectangle((2, 2, 117, 77), 16, fill=fill, outline="white", width=3)
    draw.text((16, 26), _phrase(rng, 1), fill="white", font=ImageFont.load_default(size=22))
    return logo


def _stamped(pixels: Pixels, logo: Image.Image) -> Pixels:
    image = Image.fromarray(pixels)
    image.paste(logo, (190, 10), logo)
    return np.asarray(image)


def _in_front(back: Pixels, subject: Pixels, rng: np.random.Generator) -> Pixels:
    frame = back.copy()
    mask = np.zeros((240, 320), np.uint8)
    centre = (int(rng.integers(130, 190)), 140)
    cv2.ellipse(mask, centre, (90, 95), 0, 0, 360, 255, -1)
    frame[mask > 0] = _sized(subject)[mask > 0]
    return frame


def _screen(content: Pixels, colour: tuple[int, ...], rng: np.random.Generator) -> Pixels:
    image = Image.new("RGB", (240, 420), "white")
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, 240, 50), fill=colour)
    draw.text((12, 14), "Messages", fill="white", font=ImageFont.load_default(size=18))
    image.paste(Image.fromarray(content).resize((200, 150)), (20, 64))
    for row in range(5):
        draw.text((20, 228 + 28 * row), _phrase(rng, 3), fill="black", font=ImageFont.load_default(size=13))
    draw.rectangle((0, 380, 240, 420), fill=colour)
    for at in range(4):
        draw.ellipse((22 + 58 * at, 388, 46 + 58 * at, 412), fill="white")
    return np.asarray(image)


def _icon(rng: np.random.Generator) -> bytes:
    image = Image.new("RGBA", (256, 256), (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)
    for _ in range(3):
        x, y, side = (int(v) for v in rng.integers((20, 20, 40), (150, 150, 100)))
        fill = (*(int(c) for c in rng.integers(0, 256, 3)), 255)
        shape = (draw.ellipse, draw.rectangle)[int(rng.integers(2))]
        shape((x, y, x + side, y + side), fill=fill)
    held = io.BytesIO()
    image.save(held, "PNG")
    return held.getvalue()


def _chart(rng: np.random.Generator, colour: tuple[int, ...]) -> bytes:
    image = Image.new("RGB", (360, 260), "white")
    draw = ImageDraw.Draw(image)
    for line in range(5):
        draw.line((40, 30 + 45 * line, 340, 30 + 45 * line), fill=(210, 210, 210))
        draw.text((8, 24 + 45 * line), str(100 - 25 * line), fill="black", font=ImageFont.load_default(size=12))
    for bar in range(8):
        height = int(rng.integers(10, 180))
        draw.rectangle((50 + 36 * bar, 210 - height, 74 + 36 * bar, 210), fill=colour)
        draw.text((52 + 36 * bar, 216), f"Q{bar % 4 + 1}", fill="black", font=ImageFont.load_default(size=11))
    return _png(np.asarray(image))


def _product(rng: np.random.Generator) -> bytes:
    image = Image.new("RGB", (300, 300), "white")
    draw = ImageDraw.Draw(image)
    fill = tuple(int(c) for c in rng.integers(20, 220, 3))
    width, height = (int(v) for v in rng.integers((70, 110), (120, 180)))
    left, top = 150 - width // 2, 160 - height // 2
    draw.rounded_rectangle((left, top, left + width, top + height), int(rng.integers(5, 40)), fill=fill)
    draw.arc((left + width - 24, top + 30, left + width + 46, top + height - 40), -90, 90, fill=fill, width=14)
    draw.ellipse((left, top - 14, left + width, top + 14), fill=tuple(c // 2 for c in fill))
    return _png(np.asarray(image))


def _captioned(pixels: Pixels, words: str) -> Pixels:
    image = Image.new("RGB", (320, 300), "white")
    image.paste(Image.fromarray(pixels), (0, 60))
    draw = ImageDraw.Draw(image)
    for line, part in enumerate((words[: len(words) // 2], words[len(words) // 2 :])):
        draw.text((8, 4 + 26 * line), part.upper(), fill="black", font=ImageFont.load_default(size=20))
    return np.asarray(image)


def _page(found: Mapping[str, Any], wrong: int, total: int) -> dict[str, Any]:
    rows = []
    for kind, of in found.items():
        said = Interval(**of["accepted"])
        accepted = f"{100 * said.value:.1f} % ({100 * said.low:.1f}–{100 * said.high:.1f})"
        should = "should be found" if of["duplicates"] else "should not"
        rows.append((kind, should, f"{of['pairs']}", accepted, f"{of['score']:.3f}", f"{of['cosine']:.2f}"))
    return {
        "title": "Look-alikes and clutter",
        "summary": f"{wrong} of {total} look-alike pairs were accepted",
        "heads": ("pairs", "", "number", "accepted", "mean score", "mean cosine"),
        "rows": rows,
        "note": "Single pairs, compared as `ndd compare` does, under the calibration's prior. Pictures are made by code from "
        "photographs; a product here is a drawing.",
    }
