"""Things laid over a photograph: captions, memes, screenshots, watermarks, stickers.

The same shape as every edit: `(pixels, severity, rng) -> pixels` (see `pipelines.edits`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

__all__ = ["caption", "meme", "overlay", "screenshot", "sticker", "watermark"]

Pixels = NDArray[np.uint8]

# fmt: off
_WORDS = (
    "the", "best", "day", "ever", "when", "you", "look", "twice", "nobody", "expected", "this", "again", "monday",
    "summer", "holiday", "memories", "wait", "for", "it", "so", "good", "happy", "birthday", "dear", "friends",
    "see", "you", "soon", "found", "in", "an", "old", "drawer", "sale", "only", "today", "breaking", "news",
    "please", "share", "with", "love", "from", "us", "all", "rights", "reserved", "photo", "by", "my", "phone",
)
# fmt: on


def overlay(pixels: Pixels, severity: float, rng: np.random.Generator) -> Pixels:
    """One of caption, meme, screenshot, watermark and sticker."""
    kinds = (caption, meme, screenshot, watermark, sticker)
    return kinds[int(rng.integers(len(kinds)))](pixels, severity, rng)


def caption(pixels: Pixels, severity: float, rng: np.random.Generator) -> Pixels:
    """One to four lines of text anywhere on the picture, outlined so that they can be read."""
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    size = _text_size(image, 0.05 + 0.07 * severity)
    for _ in range(1 + round(3 * severity)):
        place = (int(rng.integers(0, max(1, image.width // 2))), int(rng.integers(0, max(1, image.height - size))))
        ink, outline = (("white", "black"), ("black", "white"), ("yellow", "black"))[int(rng.integers(3))]
        draw.text(place, _phrase(rng, 5), fill=ink, font=_font(size), stroke_width=1 + size // 20, stroke_fill=outline)
    return np.asarray(image)


def meme(pixels: Pixels, severity: float, rng: np.random.Generator) -> Pixels:
    """Bars above and below (or one of them) with capitals in them, as meme makers do."""
    height, width = pixels.shape[:2]
    bar = max(12, round(height * (0.08 + 0.17 * severity)))
    above, below = ((bar, 0), (0, bar), (bar, bar))[int(rng.integers(3))]
    paper, ink = (("white", "black"), ("black", "white"))[int(rng.integers(2))]
    page = Image.new("RGB", (width, height + above + below), paper)
    page.paste(Image.fromarray(pixels), (0, above))
    draw = ImageDraw.Draw(page)
    for top in ([0] if above else []) + ([above + height] if below else []):
        font = _font(max(8, round(bar * 0.5)))
        draw.text((width / 2, top + bar / 2), _phrase(rng, 5).upper(), fill=ink, font=font, anchor="mm")
    return np.asarray(page)


def screenshot(pixels: Pixels, severity: float, rng: np.random.Generator) -> Pixels:
    """The picture inside a phone's screen: a status bar, a name above, lines of text and buttons below."""
    height, width = pixels.shape[:2]
    margin = round(width * 0.06 * severity)
    top, bottom = round(height * (0.08 + 0.17 * severity)) + 8, round(height * (0.06 + 0.3 * severity)) + 8
    paper, ink, quiet = (("white", "black", "#999999"), ("#15181c", "#eeeeee", "#66707a"))[int(rng.integers(2))]
    page = Image.new("RGB", (width + 2 * margin, height + top + bottom), paper)
    page.paste(Image.fromarray(pixels), (margin, top))
    draw = ImageDraw.Draw(page)
    small = max(8, top // 4)
    draw.text((4, 1), f"{rng.integers(0, 24):02d}:{rng.integers(0, 60):02d}", fill=ink, font=_font(small))
    draw.rectangle((page.width - 3 * small, 2, page.width - small, small), outline=ink)
    draw.ellipse((4, top * 0.4, 4 + top * 0.5, top * 0.9), fill=tuple(int(c) for c in rng.integers(40, 220, 3)))
    draw.text((10 + top * 0.5, top * 0.45), _phrase(rng, 2), fill=ink, font=_font(small))
    line = max(8, round(bottom / 5))
    for row in range(3):
        text = f"{rng.integers(2, 999)} likes" if row == 0 else _phrase(rng, 6)
        draw.text((6, top + height + 2 + row * 1.4 * line), text, fill=ink if row == 0 else quiet, font=_font(line))
    return np.asarray(page)


def watermark(pixels: Pixels, severity: float, rng: np.random.Generator) -> Pixels:
    """Half-transparent text, tiled at a slant or once across the middle."""
    image = Image.fromarray(pixels).convert("RGBA")
    side = 2 * max(image.size)
    layer = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    draw = ImageDraw.Draw(layer)
    ink = (*((255, 255, 255), (0, 0, 0), (200, 200, 200))[int(rng.integers(3))], round(60 + 120 * severity))
    phrase = _phrase(rng, 2)
    if rng.random() < 0.6:
        size = _text_size(image, 0.06 + 0.06 * severity)
        for y in range(0, side, 3 * size):
            for x in range((y // (3 * size)) % 2 * 4 * size, side, 9 * size):
                draw.text((x, y), phrase, fill=ink, font=_font(size))
    else:
        size = _text_size(image, 0.12 + 0.12 * severity)
        draw.text((side / 2, side / 2), phrase, fill=ink, font=_font(size), anchor="mm")
    layer = layer.rotate(float(rng.uniform(-40, 40)), resample=Image.Resampling.BILINEAR)
    left, top = (side - image.width) // 2, (side - image.height) // 2
    window = layer.crop((left, top, left + image.width, top + image.height))
    return np.asarray(Image.alpha_composite(image, window).convert("RGB"))


def sticker(pixels: Pixels, severity: float, rng: np.random.Generator) -> Pixels:
    """One to five opaque discs and boxes that hide up to a quarter of the picture between them."""
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    count = 1 + int(rng.integers(0, 1 + round(4 * severity)))
    area = (0.02 + 0.23 * severity) * image.width * image.height / count
    for _ in range(count):
        side = area**0.5
        left, top = rng.uniform(0, max(1.0, image.width - side)), rng.uniform(0, max(1.0, image.height - side))
        fill = tuple(int(c) for c in rng.integers(0, 256, 3))
        shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
        shape((left, top, left + side, top + side), fill=fill, outline="white")
    return np.asarray(image)


def _phrase(rng: np.random.Generator, most: int) -> str:
    return " ".join(rng.choice(_WORDS, int(rng.integers(1, most + 1))))


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=size)


def _text_size(image: Image.Image, share: float) -> int:
    return max(8, round(share * min(image.size)))
