"""Colour profiles: the numbers of a picture → what they mean in sRGB, the space in which everything is compared.

A copy saved by another program often has other numbers and another profile for the same colours, or the same colours
with the profile dropped; only what the profile says makes the first two equal.
"""

from __future__ import annotations

import io

from PIL import Image, ImageCms

__all__ = ["MAX_PROFILE", "to_srgb"]

MAX_PROFILE = 4 * 2**20
"""Largest profile that is looked at, bytes. Those of printers have one or two million."""

_SPACES = {"RGB": "RGB", "RGBA": "RGB", "L": "GRAY", "CMYK": "CMYK"}
_INTENT = ImageCms.Intent.RELATIVE_COLORIMETRIC


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """The picture in sRGB, as `profile` (ICC.1) says; untouched without one, or with one that cannot be used.

    Untouched too: sRGB's own profile, a profile for another kind of picture, 16 bits, palettes, and a picture with one
    transparent colour, which must be found first. A picture is never refused for its profile.
    """
    if not profile or len(profile) >= MAX_PROFILE or image.mode not in _SPACES or "transparency" in image.info:
        return image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "srgb" in (ImageCms.getProfileDescription(source) or "").lower():
            return image
        if source.profile.xcolor_space.strip() != _SPACES[image.mode]:
            return image
        target = image.mode if image.mode == "RGBA" else "RGB"
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), image.mode, target, _INTENT)
        return transform.apply(image)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return image
