"""Visual words: to which few of a fixed set of typical descriptors a keypoint is nearest.

Sivic & Zisserman 2003, "Video Google: a text retrieval approach to object matching in videos". The vocabulary comes with
the package (`words.npy`, made by `python -m pipelines words`): one that is learnt anew for every album would depend on the
album. It is its own mirror image, so the words of a mirrored keypoint are known without looking.
"""

from __future__ import annotations

import functools
from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt

from ndd.verify.keypoints import mirror_descriptors

__all__ = ["NEAREST", "VOCABULARY", "mirrored_words", "vocabulary", "words_of"]

VOCABULARY = Path(__file__).with_name("words.npy")
NEAREST = 3
"""Words of a keypoint: an edit moves a descriptor over the border between two words in about every third case. On an album of
edited copies a fourth found no pair more, and with two 3 of 2,000 were lost."""


@functools.cache
def vocabulary() -> npt.NDArray[np.uint8]:
    """(W, 128) uint8 descriptors; the second half are the mirror images of the first."""
    half = np.load(VOCABULARY)
    return np.concatenate([half, mirror_descriptors(half)])


def words_of(descriptors_N128: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint16]:
    """(N, NEAREST) numbers of the nearest words, the nearest first.

    Products of bytes are whole numbers that single precision holds exactly, so the answer depends on no batch or thread.
    """
    _, nearest = _quantizer().search(descriptors_N128.astype(np.float32), NEAREST)
    return np.asarray(nearest, np.uint16)


def mirrored_words(words_NK: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint16]:
    """(N, K) words of the same keypoints in the mirrored picture."""
    count = len(vocabulary())
    return np.asarray((words_NK.astype(np.int64) + count // 2) % count, np.uint16)


@functools.cache
def _quantizer() -> faiss.IndexFlatL2:
    index = faiss.IndexFlatL2(vocabulary().shape[1])
    index.add(vocabulary().astype(np.float32))
    return index
