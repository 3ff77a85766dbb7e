"""What people and platforms do to a photograph, one function per family, for albums with known truth.

Every edit has the shape `(pixels, severity, rng) -> pixels`: pixels (H,W,3) uint8 RGB, severity in [0, 1] from barely
visible to as strong as is met in practice, `rng` a seeded numpy Generator that decides the rest. The result may have
another size. Written with OpenCV, Pillow and numpy on purpose: an album that shared code with the training edits
(`ndd.data.augment`) would measure a model on its own habits.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.overlays import overlay

__all__ = ["FAMILIES", "Edit", "Pixels", "apply_edit", "apply_mixture", "mixture_parts"]

Pixels = NDArray[np.uint8]
Edit = Callable[[Pixels, float, np.random.Generator], Pixels]

_SMALLEST = 32
"""No edit makes a side shorter than this, pixels."""


def apply_edit(family: str, pixels: Pixels, *, severity: float, rng: np.random.Generator) -> Pixels:
    """One edit of `family`; raises KeyError unless it is in FAMILIES, ValueError for a severity outside [0, 1]."""
    if not 0.0 <= severity <= 1.0:
        raise ValueError(f"severity must lie in [0, 1], got {severity}")
    return np.ascontiguousarray(FAMILIES[family](pixels, severity, rng))


def rotation(pixels: Pixels, severity: float, rng: np.random.Generator) -> Pixels:
    """Rotated by up to ±45°, and either cropped to the largest upright rectangle inside or grown and filled."""
    height, width = pixels.shape[:2]
    angle = float(rng.choice((-1.0, 1.0))) * _between(3.0, 45.0, severity)
    radians = np.deg2rad(abs(angle))
    grown_w = round(height * np.sin(radians) + width * np.cos(radians))
    grown_h = round(height * np.cos(radians) + width * np.sin(radians))
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1.0)
    matrix[:, 2] += ((grown_w - width) / 2, (grown_h - height) / 2)
    fill = _fill_colour(pixels, rng)
    turned = cv2.warpAffine(pixels, matrix, (grown_w, grown_h), flags=cv2.INTER_LINEAR, borderValue=fill)
    if rng.random() < 0.5:
        return _as_pixels(turned)
    inner_w, inner_h = _inner_rectangle(width, height, radians)
    return _centre(_as_pixels(turned), max(inner_w, _SMALLEST), max(inner_h, _SMALLEST))


def quarter_turn(pixels: Pixels, severity: float, rng: np.random.Generator) -> Pixels:
    """Turned by 90°, 180° or 270°; there is no half a quarter turn, so severity plays no part."""
    return np.rot90(pixels, int(rng.integers(1, 4)))


def mirror(pixels: Pixels, severity: float, rng: np.random.Generator) -> Pixels:
    """Mirrored left to right, now and then top to bottom."""
    return pixels[::-1] if rng.random() < 0.3 * severity else pixels[:, ::-1]


def scale(pixels: Pixels, severity: float, rng: np.random.Generator) -> Pixels:
    """Made smaller (down to a fifth) or larger (up to double), its aspect ratio changed by up to 15 %."""
    height, width = pixels.shape[:2]
    factor = _between(0.85, 0.2, severity) if rng.random() < 0.75 else _between(1.15, 2.0, severity)
    squeeze = 1.0 + 0.15 * severity * rng.uniform(-1.0, 1.0)
    size = (max(round(width * factor * squeeze), _SMALLEST), max(round(height * factor / squeeze), _SMALLEST))
    methods = (Image.Resampling.LANCZOS, Image.Resampling.BICUBIC, Image.Resampling.BILINEAR, Image.Resampling.NEAREST)
    weights = (0.4, 0.3, 0.2, 0.1)
    method = methods[int(rng.choice(len(methods), p=weights))]
    return np.asarray(Image.fromarray(pixels).resize(size, method))


def crop(pixels: Pixels, severity: float, rng: np.random.Generator) -> Pixels:
    """A window of 90 % down to 30 % of the area, anywhere, its aspect ratio off by up to a third."""
    height, width = pixels.shape[:2]
    area = _between(0.9, 0.3, severity)
    stretch = float(np.exp(rng.uniform(-0.3, 0.3) * severity))
    # Stretching beyond the frame is taken back, so that the area stays what the severity says.
    stretch = min(max(stretch, area**0.5), area**-0.5)
    new_w = min(max(round(width * area**0.5 * stretch), _SMALLEST), width)
    new_h = min(max(round(height * area**0.5 / stretch), _SMALLEST), height)
    left, top = int(rng.integers(0, width - new_w + 1)), int(rng.integers(0, height - new_h + 1))
    return pixels[top : top + new_h, left : left + new_w]


def perspective(pixels: Pixels, severity: float, rng: np.random.Generator) -> Pixels:
    """Seen at a slant: corners moved by up to a quarter of the sides, inwards (zoomed) or outwards (filled)."""
    height, width = pixels.shape[:2]
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    inwards = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]], np.float32)
    reach = _between(0.04, 0.25, severity)
    moved = corners + inwards * rng.uniform(0.2, 1.0, (4, 2)).astype(np.float32) * reach * (width, height)
    moved = moved.astype(np.float32)
    fill = _fill_colour(pixels, rng)
    source, target = (moved, corners) if rng.random() < 0.5 else (corners, moved)
    matrix = cv2.getPerspectiveTransform(source, target)
    return _as_pixels(cv2.warpPerspective(pixels, matrix, (width, height), flags=cv2.INTER_LINEAR, borderValue=fill))


def compression(pixels: Pixels, severity: float, rng: np.random.Generator) -> Pixels:
    """Sent through JPEG or WebP at low quality, up to three times over."""
    for _ in range(1 + int(rng.integers(0, 1 + round(2 * severity)))):
        quality = round(_between(60, 8, severity) * rng.uniform(0.8, 1.2))
        pixels = _through_codec(pixels, "JPEG" if rng.random() < 0.7 else "WEBP", quality)
    return pixels


def colour(pixels: Pixels, severity: float, rng: np.random.Generator) -> Pixels:
    """Brightness, contrast, saturation, hue or white balance shifted, up to three of them; or plain grey."""
    if rng.random() < 0.2 * severity:
        return np.repeat(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[:, :, None], 3, axis=2).astype(np.uint8)
    x = pixels.astype(np.float32) / 255.0
    for name in rng.choice(("brightness", "contrast", "saturation", "hue", "balance"), int(rng.integers(1, 4)), False):
        amount = float(rng.choice((-1.0, 1.0))) * _between(0.08, 0.5, severity)
        if name == "brightness":
            x = x ** float(np.exp2(-2.0 * amount))
        elif name == "contrast":
            x = 0.5 + (x - 0.5) * (1.0 + 1.2 * amount)
        elif name == "saturation":
            grey = x.mean(axis=2, keepdims=True)
            x = grey + (x - grey) * (1.0 + 1.6 * amount)
        elif name == "hue":
            x = _turn_hue(x, 120.0 * amount)
        else:
            x = x * (1.0 + 0.6 * amount * rng.uniform(-1.0, 1.0, 3)).astype(np.float32)
        x = np.clip(x, 0.0, 1.0)
    return _quantised(x * 255.0)


def blur_noise(pixels: Pixels, severity: float, rng: np.random.Generator) -> Pixels:
    """Out of focus or shaken, noisy, or both. Strength follows the size of the picture."""
    kind = rng.choice(("blur", "noise", "both"))
    x = pixels.astype(np.float32)
    radius = _between(0.4, 2.6, severity) * min(pixels.shape[:2]) / 256
    if kind != "noise":
        if rng.random() < 0.3:
            length = max(3, round(5 * radius))
            kernel = cv2.warpAffine(
                np.pad(np.ones((1, length), np.float32), ((length // 2, length - 1 - length // 2), (0, 0))),
                cv2.getRotationMatrix2D(((length - 1) / 2, (length - 1) / 2), float(rng.uniform(0, 180)), 1.0),
                (length, length),
            )
            x = cv2.filter2D(x, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT).astype(np.float32)
        else:
            x = cv2.GaussianBlur(x, (0, 0), max(radius, 0.3)).astype(np.float32)
    if kind != "blur":
        x = x + rng.normal(0.0, _between(4.0, 35.0, severity), x.shape).astype(np.float32)
    return _quantised(x)


def border(pixels: Pixels, severity: float, rng: np.random.Generator) -> Pixels:
    """A frame, letterbox bars, or a square canvas filled with colour or with the blurred picture itself."""
    height, width = pixels.shape[:2]
    share = _between(0.03, 0.3, severity)
    kind = rng.choice(("frame", "letterbox", "square"))
    if kind == "frame":
        top = left = max(1, round(share * min(width, height) * 0.7))
    elif kind == "letterbox":
        top, left = (round(share * height), 0) if rng.random() < 0.6 else (0, round(share * width))
    else:
        side = max(width, height) + 2 * round(share * 0.3 * max(width, height))
        top, left = (side - height) // 2, (side - width) // 2
    out_w, out_h = width + 2 * left, height + 2 * top
    if kind == "square" and rng.random() < 0.5:
        canvas = _as_pixels(cv2.GaussianBlur(cv2.resize(pixels, (out_w, out_h)), (0, 0), 0.06 * out_w))
    else:
        canvas = np.full((out_h, out_w, 3), _fill_colour(pixels, rng), np.uint8)
    canvas[top : top + height, left : left + width] = pixels
    return canvas


def wave(pixels: Pixels, severity: float, rng: np.random.Generator) -> Pixels:
    """Rows and columns shifted along sine waves, by up to 4 % of the shorter side."""
    height, width = pixels.shape[:2]
    reach = _between(0.006, 0.04, severity) * min(width, height)
    ys, xs = np.mgrid[0:height, 0:width].astype(np.float32)
    periods, phases = rng.uniform(0.25, 0.8, 2) * (height, width), rng.uniform(0, 2 * np.pi, 2)
    map_x = xs + reach * np.sin(2 * np.pi * ys / periods[0] + phases[0])
    map_y = ys + reach * np.sin(2 * np.pi * xs / periods[1] + phases[1])
    warped = cv2.remap(
        pixels, map_x.astype(np.float32), map_y.astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
    )
    return _as_pixels(warped)


def mixture(pixels: Pixels, severity: float, rng: np.random.Generator) -> Pixels:
    """Two to four different edits, one after the other; a strong mixture has more of them."""
    return apply_mixture(mixture_parts(severity, rng), pixels, severity, rng)


def mixture_parts(severity: float, rng: np.random.Generator) -> tuple[str, ...]:
    """The names of the two to four edits of a mixture, in the order in which they are applied."""
    single = [name for name in FAMILIES if name != "mixture"]
    count = 2 + int(rng.binomial(2, severity))
    return tuple(str(name) for name in rng.choice(single, count, replace=False))


def apply_mixture(parts: tuple[str, ...], pixels: Pixels, severity: float, rng: np.random.Generator) -> Pixels:
    """The edits `parts` in order, each at 50–100 % of `severity`."""
    for name in parts:
        pixels = apply_edit(name, pixels, severity=severity * float(rng.uniform(0.5, 1.0)), rng=rng)
    return pixels


FAMILIES: Mapping[str, Edit] = {
    "rotation": rotation,
    "quarter_turn": quarter_turn,
    "mirror": mirror,
    "scale": scale,
    "crop": crop,
    "perspective": perspective,
    "compression": compression,
    "colour": colour,
    "blur_noise": blur_noise,
    "border": border,
    "overlay": overlay,
    "wave": wave,
    "mixture": mixture,
}


def _between(weak: float, strong: float, severity: float) -> float:
    return weak + (strong - weak) * severity


def _as_pixels(array: NDArray[np.generic]) -> Pixels:
    """OpenCV's stubs promise any dtype; the edits hand it uint8 and get uint8 back."""
    assert array.dtype == np.uint8
    return array  # type: ignore[return-value]


def _quantised(x: NDArray[np.float32]) -> Pixels:
    return np.clip(np.rint(x), 0, 255).astype(np.uint8)


def _fill_colour(pixels: Pixels, rng: np.random.Generator) -> tuple[int, int, int]:
    """Black, white, grey, the picture's mean or anything: what editors put where there is no picture."""
    mean = pixels.reshape(-1, 3).mean(axis=0).round()
    chance = rng.integers(0, 256, 3)
    palette = ((0, 0, 0), (255, 255, 255), (128, 128, 128), mean, chance)
    red, green, blue = palette[int(rng.integers(len(palette)))]
    return int(red), int(green), int(blue)


def _inner_rectangle(width: int, height: int, radians: float) -> tuple[int, int]:
    """Sides of the largest upright rectangle inside a `width` × `height` rectangle turned by `radians` in [0, π/2]."""
    long, short = max(width, height), min(width, height)
    sine, cosine = abs(np.sin(radians)), abs(np.cos(radians))
    if short <= 2.0 * sine * cosine * long:  # two corners touch the long sides
        half = 0.5 * short
        inner = (half / sine, half / cosine) if width >= height else (half / cosine, half / sine)
    else:
        double = cosine * cosine - sine * sine
        inner = ((width * cosine - height * sine) / double, (height * cosine - width * sine) / double)
    return int(inner[0]), int(inner[1])


def _centre(pixels: Pixels, width: int, height: int) -> Pixels:
    top, left = max(0, (pixels.shape[0] - height) // 2), max(0, (pixels.shape[1] - width) // 2)
    return pixels[top : top + height, left : left + width]


def _through_codec(pixels: Pixels, codec: str, quality: int) -> Pixels:
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, codec, quality=min(max(quality, 1), 100))
    with Image.open(held) as image:
        return np.asarray(image.convert("RGB"))


def _turn_hue(x: NDArray[np.float32], degrees: float) -> NDArray[np.float32]:
    hsv = cv2.cvtColor(x, cv2.COLOR_RGB2HSV)
    hsv[:, :, 0] = (hsv[:, :, 0] + degrees) % 360.0
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB).astype(np.float32)
