"""What a search knows of a picture after one look at its bytes."""

from __future__ import annotations

import numpy as np
import pytest

from ndd.config import DecodeLimits
from ndd.hashing import HASHED_SIDE, pdq
from ndd.images import decode, to_square
from ndd.stages.decode import DECODE_LONGER, DECODE_SIDE, Decoder
from ndd.verify.keypoints import VOTING_SIDE, grey_within
from tests.ndd.pictures import encode
from tests.samples import photographs


@pytest.mark.parametrize("size", [HASHED_SIDE, 96])
def test_hash_canvas_and_sketch_are_those_of_the_same_pixels(size: int) -> None:
    content = encode(photographs()["cat"], "JPEG")
    reading = Decoder(DecodeLimits(), size=size, sketch=True).read(content)
    pixels = decode(content).pixels
    hashes, quality = pdq(pixels)
    assert reading.facts["hashes"] == hashes.tobytes() and reading.facts["quality"] == quality
    assert np.array_equal(reading.canvas, to_square(pixels, size))
    assert reading.sketch is not None
    assert np.array_equal(reading.sketch, grey_within(pixels, VOTING_SIDE))
    assert max(reading.sketch.shape) == VOTING_SIDE
    assert Decoder(DecodeLimits(), size=size).read(content).sketch is None, "nobody asked for one"
    bare = Decoder(DecodeLimits(), size=size, hashed=False).read(content)
    assert np.array_equal(bare.canvas, reading.canvas)
    assert bare.facts == reading.facts | {"hashes": bytes(256), "quality": 0}


def test_large_jpegs_are_decoded_at_a_reduced_scale_that_keeps_what_is_looked_at() -> None:
    picture = np.repeat(np.repeat(photographs()["cat"], 4, axis=0), 4, axis=1)
    decoder = Decoder(DecodeLimits(), size=64)
    for turned in (picture, picture.transpose(1, 0, 2)):
        height, width = decoder.pixels(encode(np.ascontiguousarray(turned), "JPEG")).shape[:2]
        assert DECODE_SIDE <= min(height, width) < 2 * DECODE_SIDE
        assert DECODE_LONGER <= max(height, width) < 2 * DECODE_LONGER
        assert decoder.pixels(encode(np.ascontiguousarray(turned), "PNG")).shape == turned.shape
    assert min(Decoder(DecodeLimits(), size=160).pixels(encode(picture, "JPEG")).shape[:2]) >= 320
