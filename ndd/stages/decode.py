"""Files → what the later steps need to know of each picture; a picture that cannot be read becomes a failure, not an end.

Shapes: N pictures, S × S pixels.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ndd.config import DecodeLimits
from ndd.errors import DecodeError
from ndd.hashing import HASHED_SIDE, pdq
from ndd.images import Picture, Pixels, decode, read_file, to_square
from ndd.types import Failure, image_id
from ndd.verify.keypoints import VOTING_SIDE, grey_within

__all__ = ["DECODE_LONGER", "DECODE_SIDE", "HEADER", "Decoder", "Reading"]

DECODE_SIDE, DECODE_LONGER = 160, 240
"""JPEG files may be decoded at a reduced scale down to this shorter and this longer side: a quarter more than keypoints are
looked for at. Fixed, because the pixels depend on it."""

_NO_HASHES = bytes(256)

HEADER = ("width", "height", "format", "frames", "alpha", "bits", "taken", "exif_fields")
"""Fields of `ndd.images.Picture` that are kept of each picture."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Reading:
    """One readable picture. The decoded pixels are gone: a batch of large ones would not fit into memory.

    facts: id, the `HEADER` fields, hashes (256 bytes: PDQ in its eight dihedral forms), quality (PDQ's, 0…100), both zero
    where the decoder was told not to hash, and flat: (nearly) a single colour, so that nothing can be concluded from its looks.
    canvas: (S, S, 3) uint8, the square that the model sees. sketch: (h, w) uint8 grey, what is looked at for keypoints that
    vote, its longer side at most VOTING_SIDE; None unless the decoder was asked for it.
    """

    facts: dict[str, Any]
    canvas: NDArray[np.uint8]
    sketch: NDArray[np.uint8] | None


class Decoder:
    """Reads, identifies, decodes, hashes and scales pictures, one at a time. Holds no state: use it from any thread."""

    def __init__(self, limits: DecodeLimits, *, size: int, sketch: bool = False, hashed: bool = True) -> None:
        """size: S, side of the model's square. sketch, hashed: whether readings have a sketch, and hashes."""
        self._limits = limits
        self._size = size
        self._sketch, self._hashed = sketch, hashed

    def pixels(self, content: bytes) -> Pixels:
        """(H, W, 3) as every later step sees them: large JPEGs at a reduced scale. Raises DecodeError."""
        return self._decode(content).pixels

    def file(self, uri: str | os.PathLike[str]) -> bytes:
        """The bytes of a file. Raises DecodeError."""
        return read_file(uri, limits=self._limits)

    def read(self, content: bytes) -> Reading:
        """What is to be known of a picture's bytes. Raises DecodeError."""
        picture = self._decode(content)
        canvas = to_square(picture.pixels, self._size)
        hashes, quality = _NO_HASHES, 0
        if self._hashed:
            made, quality = pdq(canvas if self._size == HASHED_SIDE else picture.pixels)
            hashes = made.tobytes()
        facts = {"id": image_id(content), "hashes": hashes, "quality": quality, "flat": _is_flat(canvas)}
        facts |= {name: getattr(picture, name) for name in HEADER}
        sketch = grey_within(picture.pixels, VOTING_SIDE) if self._sketch else None
        return Reading(facts=facts, canvas=canvas, sketch=sketch)

    def attempt(self, path: str, uri: str) -> Reading | Failure:
        """The picture in the file `uri`, or why it cannot be used; never raises for what a file holds."""
        try:
            return self.read(self.file(uri))
        except DecodeError as error:
            return Failure(path=path, stage=error.stage, reason=error.reason)
        except (MemoryError, OSError, ValueError, ArithmeticError, RuntimeError) as error:
            # A decoder met something nobody foresaw. One odd file must not end a run over a million others.
            return Failure(path=path, stage="decode", reason=f"unexpected {type(error).__name__}: {error}"[:300])

    def __call__(self, batch: dict[str, Sequence[str]]) -> list[Reading | Failure]:
        """{"path": …, "uri": …} → one answer per picture, in order."""
        return [self.attempt(path, uri) for path, uri in zip(batch["path"], batch["uri"], strict=True)]

    def _decode(self, content: bytes) -> Picture:
        side = max(DECODE_SIDE, 2 * self._size)
        return decode(content, limits=self._limits, min_side=side, min_longer=DECODE_LONGER)


def _is_flat(canvas: NDArray[np.uint8]) -> bool:
    """True where no channel varies by more than the noise of an encoder: a standard deviation below 2.5 of 255."""
    _, deviations = cv2.meanStdDev(canvas)
    return bool(deviations.max() < 2.5)
