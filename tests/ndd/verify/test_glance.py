"""A glance: copies are worth a look, strangers hardly ever, whichever of the two comes first."""

from __future__ import annotations

import dataclasses
import json
import math
from itertools import combinations, product

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from ndd.verify.geometry import Alike, lie_alike
from ndd.verify.glance import FEATURES, FEW, LEAST, WEIGHTS, evidence, glance
from ndd.verify.keypoints import VOTERS, VOTING_SIDE, Keypoints, extract, grey_within
from tests.samples import photographs

Pixels = NDArray[np.uint8]


def voters(pixels: Pixels) -> Keypoints:
    return extract(grey_within(pixels, VOTING_SIDE), most=VOTERS)


def turned(pixels: Pixels) -> Pixels:
    height, width = pixels.shape[:2]
    about = cv2.getRotationMatrix2D((width / 2, height / 2), 25, 1.2)
    return np.asarray(cv2.warpAffine(pixels, about, (width, height), borderMode=cv2.BORDER_REPLICATE), np.uint8)


EDITS = {
    "turned": turned,
    "mirrored": lambda pixels: np.ascontiguousarray(pixels[:, ::-1]),
    "half": lambda pixels: np.ascontiguousarray(pixels[: 2 * len(pixels) // 3, pixels.shape[1] // 3 :]),
    "dark": lambda pixels: (pixels // 2).astype(np.uint8),
}


def test_copies_are_worth_a_look_from_either_side() -> None:
    """Also where their vectors are no nearer than strangers'."""
    missed = set()
    for (name, pixels), edit in product(photographs().items(), EDITS):
        left, right = voters(pixels), voters(np.asarray(EDITS[edit](pixels), np.uint8))
        assert glance(left, right, standout=0.0) == glance(right, left, standout=0.0)
        if glance(left, right, standout=0.0) < LEAST:
            missed.add((name, edit))
    assert missed <= {("rocket", "half")}, "mist and a tower: few keypoints, and half of them cut off"


def test_strangers_hardly_ever_are_and_nobody_minds_the_order() -> None:
    seen = {name: voters(pixels) for name, pixels in photographs().items()}
    pairs = list(combinations(seen, 2))
    there, back = (
        [glance(seen[first], seen[second], standout=0.0) for first, second in ordered]
        for ordered in (pairs, [(b, a) for a, b in pairs])
    )
    assert there == back
    assert sum(odds >= LEAST for odds in there) <= len(pairs) // 10


def test_the_nearer_two_vectors_the_less_is_asked_of_keypoints() -> None:
    seen = [voters(pixels) for pixels in photographs().values()]
    far, near = (glance(seen[0], seen[1], standout=standout) for standout in (0.0, 0.5))
    assert near > far + 0.5


def test_pictures_without_enough_keypoints_are_compared_as_a_whole() -> None:
    """A soft gradient with one blob has next to none; its mirrored copy is found, another gradient is not."""
    across = np.linspace(40, 200, 120)[None, :].repeat(80, axis=0)
    spot = np.exp(-((np.arange(120)[None, :] - 30) ** 2 + (np.arange(80)[:, None] - 20) ** 2) / 300) * 50
    picture = np.repeat((across + spot).astype(np.uint8)[..., None], 3, axis=2)
    other = np.repeat((across.T[:80, :1].repeat(120, axis=1)).astype(np.uint8)[..., None], 3, axis=2)
    other = (
        (other + np.repeat((80 * np.sin(np.arange(80) / 6))[:, None, None], 3, axis=2)).clip(0, 255).astype(np.uint8)
    )
    left, right = voters(picture), voters(np.ascontiguousarray(picture[:, ::-1]))
    assert max(len(left), len(right)) < FEW
    assert glance(left, right, standout=0.0) == glance(right, left, standout=0.0) == math.inf
    assert glance(left, voters(other), standout=0.0) == -math.inf
    assert glance(left, voters(other), standout=0.3) == math.inf, "their vectors are enough"


def test_what_lies_alike() -> None:
    keys = voters(photographs()["cat"])
    same = lie_alike(keys, keys)
    assert 8 < same.places <= len(np.unique(keys.points, axis=0))
    assert same.likeness == pytest.approx(1.0, abs=0.01)  # bytes round
    assert same.worth == pytest.approx(math.log1p(len(keys)), abs=0.4)
    assert same.disorder == pytest.approx(0.0, abs=1e-6)
    assert same.narrow == same.wide > 0.05
    nothing = voters(np.full((60, 60, 3), 90, np.uint8))
    assert lie_alike(keys, nothing) == lie_alike(nothing, keys) == Alike()


def test_nothing_alike_says_less_than_something() -> None:
    """A blank is no sign of a copy: with the first weights it was a better one than a single poor match."""
    weights = json.loads(WEIGHTS.read_bytes())
    one = {"likeness": 0.85, "worth": 0.05}
    assert weights["bias"] < LEAST
    assert sum(weights[name] * value for name, value in one.items()) > 1.0
    seen = list(photographs().values())
    keys = voters(seen[0])
    blank = dataclasses.replace(keys, descriptors=255 - keys.descriptors, scales=keys.scales * 1000)
    assert lie_alike(keys, blank) == Alike()
    assert glance(keys, blank, standout=0.0) == pytest.approx(weights["bias"])


def test_matches_of_sizes_that_no_edit_makes_are_none() -> None:
    keys = voters(photographs()["cat"])
    vast = dataclasses.replace(keys, scales=keys.scales * 1000)
    assert lie_alike(keys, vast) == Alike()
    assert lie_alike(keys, dataclasses.replace(keys, scales=keys.scales * 3)).places > 0


def test_half_the_size_lies_closer_together() -> None:
    keys = voters(photographs()["cat"])
    height, width = photographs()["cat"].shape[:2]
    framed = np.full((height, width, 3), 128, np.uint8)
    framed[: height // 2, : width // 2] = cv2.resize(
        photographs()["cat"], (width // 2, height // 2), interpolation=cv2.INTER_AREA
    )
    alike = lie_alike(keys, voters(framed))
    assert alike.places >= 4
    assert alike.narrow / alike.wide == pytest.approx(0.5, abs=0.1)


def test_evidence_of_a_mirror_image_is_that_of_the_picture() -> None:
    keys, other = voters(photographs()["cat"]), voters(photographs()["coffee"])
    plain, mirrored = evidence(keys, keys, standout=0.2), evidence(keys, keys.mirrored(), standout=0.2)
    np.testing.assert_allclose(mirrored, plain, atol=1e-4)
    assert dict(zip(FEATURES, plain, strict=True))["four"] == 1.0
    stranger = evidence(keys, other, standout=0.2)
    assert dict(zip(FEATURES, stranger, strict=True))["four"] == 0.0
