"""The baselines' rankings against plain loops."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from ndd.baselines import cosine_rows, dihedral_rows, hamming_rows, phash, sift, sift_scores
from ndd.metrics.retrieval import evaluate_groups


def bits(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> int:
    return int(np.unpackbits(a ^ b).sum())


def test_hamming_rows_count_bits() -> None:
    hashes = np.random.default_rng(0).integers(0, 256, (7, 32), dtype=np.uint8)
    rows = hamming_rows(hashes)
    expected = [[-bits(a, b) for b in hashes] for a in hashes]
    np.testing.assert_array_equal(rows(0, 7), expected)
    np.testing.assert_array_equal(rows(2, 5), expected[2:5])
    assert rows(2, 5).dtype == np.float32


def test_dihedral_rows_take_the_best_form_of_either_side() -> None:
    hashes = np.random.default_rng(1).integers(0, 256, (6, 8, 32), dtype=np.uint8)
    hashes[4, 3] = hashes[1, 0]
    got = dihedral_rows(hashes)(0, 6)
    for i in range(6):
        for j in range(6):
            forms = [bits(hashes[i, 0], hashes[j, k]) for k in range(8)]
            forms += [bits(hashes[j, 0], hashes[i, k]) for k in range(8)]
            assert got[i, j] == -min(forms)
    assert got[1, 4] == got[4, 1] == 0
    np.testing.assert_array_equal(got, got.T)


def test_cosine_rows_are_cosines_whatever_the_norm() -> None:
    vectors = np.random.default_rng(2).normal(size=(5, 9)) * np.array([[1], [10], [0.1], [3], [7]])
    expected = [[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in vectors] for a in vectors]
    np.testing.assert_allclose(cosine_rows(vectors)(1, 4), expected[1:4], atol=1e-6)
    vectors[3] = 0
    with pytest.raises(ValueError, match="vector 3 is zero"):
        cosine_rows(vectors)


def picture(seed: int) -> NDArray[np.uint8]:
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (240, 180), interpolation=cv2.INTER_CUBIC), np.uint8)


def test_phash_bits_are_low_frequencies_above_their_median() -> None:
    pixels = picture(0)
    code = phash(pixels)
    assert code.shape == (32,)
    assert np.unpackbits(code).sum() == 128, "half of the coefficients lie above their median"
    small = cv2.resize(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), (64, 64), interpolation=cv2.INTER_AREA).astype(float)
    n = np.arange(64)
    basis = np.cos(np.pi * (2 * n[None, :] + 1) * n[:, None] / 128) * np.where(n[:, None] == 0, 1 / 8, 2**0.5 / 8)
    low = (basis @ small @ basis.T)[:16, :16]
    agree = (np.unpackbits(code).reshape(16, 16).astype(bool) == (low > np.median(low))).mean()
    assert agree >= 0.99, "the orthonormal DCT-II written out"


def test_phash_stands_recompression_and_scaling_and_tells_pictures_apart() -> None:
    pixels = picture(1)
    encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 40])[1]
    again = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), np.uint8)
    smaller = np.asarray(cv2.resize(pixels, (120, 90), interpolation=cv2.INTER_AREA), np.uint8)
    assert bits(phash(pixels), phash(again)) < 40
    assert bits(phash(pixels), phash(smaller)) < 40
    assert bits(phash(pixels), phash(picture(2))) > 80


def test_a_perfect_and_a_blind_ranking_score_so() -> None:
    hashes = np.repeat(np.random.default_rng(3).integers(0, 256, (4, 32), dtype=np.uint8), 3, axis=0)
    groups = [str(i // 3) for i in range(12)]
    perfect = evaluate_groups(hamming_rows(hashes), groups, chunk=5)
    assert perfect.mean_average_precision == perfect.micro_average_precision == 1.0
    blind = evaluate_groups(hamming_rows(np.zeros((12, 32), np.uint8)), groups, chunk=5)
    assert blind.micro_average_precision == pytest.approx(12 / 66)


def test_hashes_of_half_words_are_refused() -> None:
    with pytest.raises(ValueError, match="64-bit"):
        hamming_rows(np.zeros((2, 12), np.uint8))


def test_sift_finds_the_turned_picture_by_its_matches() -> None:
    rng = np.random.default_rng(0)
    squares = [np.kron(rng.integers(0, 256, (24, 32), dtype=np.uint8), np.ones((10, 10), np.uint8)) for _ in range(3)]
    pictures = [np.repeat(cv2.GaussianBlur(square, (0, 0), 2)[..., None], 3, axis=2) for square in squares]
    pictures.append(np.ascontiguousarray(np.rot90(pictures[1])))
    described = [sift(np.asarray(p, np.uint8)) for p in pictures]
    assert min(map(len, described)) >= 500 and described[0].shape[1] == 128
    scores = sift_scores([*described, np.zeros((0, 128), np.float32)])
    np.testing.assert_array_equal(scores, scores.T)
    assert scores[1, 3] > 5 * max(scores[0, 1], scores[0, 2], scores[0, 3], scores[1, 2], scores[2, 3])
    assert not scores[4].any(), "a picture without keypoints matches nothing"
    np.testing.assert_array_equal(sift_scores(described), scores[:4, :4])
