"""Visual words: the nearest of the vocabulary, in the mirrored picture too."""

from __future__ import annotations

import numpy as np

from ndd.verify.keypoints import extract, mirror_descriptors
from ndd.verify.words import NEAREST, mirrored_words, vocabulary, words_of
from tests.samples import photographs


def test_the_nearest_words_are_those_of_a_plain_loop() -> None:
    descriptors = extract(photographs()["coffee"]).descriptors[:40]
    words = vocabulary().astype(np.int64)
    found = words_of(descriptors)
    for descriptor, nearest in zip(descriptors.astype(np.int64), found, strict=True):
        distance = ((words - descriptor) ** 2).sum(axis=1)
        assert np.array_equal(np.sort(distance)[:NEAREST], distance[nearest])


def test_a_mirrored_keypoint_has_mirrored_words() -> None:
    descriptors = extract(photographs()["coffee"]).descriptors[:40]
    words = vocabulary().astype(np.int64)
    turned = mirrored_words(words_of(descriptors))
    for descriptor, nearest in zip(mirror_descriptors(descriptors).astype(np.int64), turned, strict=True):
        distance = ((words - descriptor) ** 2).sum(axis=1)
        assert np.array_equal(np.sort(distance)[:NEAREST], distance[nearest])


def test_words_do_not_depend_on_the_batch() -> None:
    descriptors = extract(photographs()["coffee"]).descriptors
    whole = words_of(descriptors)
    assert np.array_equal(
        np.concatenate([words_of(descriptors[at : at + 7]) for at in range(0, len(descriptors), 7)]), whole
    )
    assert words_of(descriptors[:0]).shape == (0, NEAREST)
