"""Smooth fields of displacements, and the matches that are grown along them."""

import numpy as np
from numpy.typing import NDArray

from ndd.verify.deformation import Deformation
from ndd.verify.guide import Guide
from ndd.verify.keypoints import Keypoints

Complex = NDArray[np.complex64]


def _wave(places: Complex) -> Complex:
    return np.asarray(0.03 * np.sin(12.0 * places.imag) + 0.03j * np.sin(12.0 * places.real), np.complex64)


def _spread(count: int, seed: int) -> Complex:
    rng = np.random.default_rng(seed)
    return np.asarray(rng.random(count) + 1j * rng.random(count), np.complex64)


def test_a_wave_is_learned_between_its_keypoints() -> None:
    places = _spread(90, seed=2)
    asked = np.asarray(0.15 + 0.15j + 0.7 * _spread(50, seed=3), np.complex64)
    learned = Deformation.fit(places, _wave(places)).at(asked)
    wrong = np.abs(learned - _wave(asked))
    assert np.median(wrong) < 0.002 and wrong.max() < 0.01


def test_slopes_are_the_derivatives_of_the_field() -> None:
    places = _spread(40, seed=4)
    bend = Deformation.fit(places, _wave(places))
    asked, step = _spread(20, seed=5), np.complex64(2e-3)
    shifts, (along_x, along_y), _ = bend.around(asked)
    np.testing.assert_array_equal(shifts, bend.at(asked))
    for slope, way in ((along_x, step), (along_y, np.complex64(1j) * step)):
        seen = (bend.at(asked + way) - bend.at(asked - way)) / (2 * abs(step))
        assert np.abs(slope - seen).max() < 0.02


def test_far_from_all_keypoints_nothing_moves() -> None:
    bend = Deformation.fit(np.array([0.5 + 0.5j], np.complex64), np.array([0.03 + 0j], np.complex64))
    near, far = bend.at(np.array([0.5 + 0.5j, 1.4 + 1.4j], np.complex64))
    assert 0.025 < near.real < 0.03 and abs(far) < 1e-6
    _, _, (here, away) = bend.around(np.array([0.5 + 0.5j, 1.4 + 1.4j], np.complex64))
    assert here == 1.0 and away < 1e-6


def test_many_keypoints_make_no_other_field_than_the_first_of_them() -> None:
    """The bound that keeps the solver out of LAPACK, whose sums depend on its threads."""
    places = _spread(140, seed=6)
    asked = _spread(9, seed=7)
    whole, first = (Deformation.fit(places[:n], _wave(places[:n])).at(asked) for n in (140, 96))
    assert np.array_equal(whole, first)


def test_matches_grow_along_a_wave_and_past_strays() -> None:
    """Half of the keypoints are carried out of the plane transform's reach; one in six lies somewhere else altogether."""
    left = _spread(120, seed=8)
    right = np.asarray(left + _wave(left), np.complex64)
    rng = np.random.default_rng(9)
    strays = rng.random(120) < 1 / 6
    right[strays] += np.asarray(0.06 * np.exp(1j * rng.uniform(0, 6.3, int(strays.sum()))), np.complex64)
    # Every keypoint is alike to its own counterpart alone, so whatever is refused is refused for its place.
    guide = Guide(_at(left), _at(right), left, right, np.eye(120, dtype=np.float32), np.eye(3))
    rows, columns = guide.plane()
    assert 8 <= len(rows) < 60
    _, more, _ = guide.bent(rows, columns)
    assert strays[more].sum() <= 0.15 * strays.sum()
    assert len(np.setdiff1d(np.flatnonzero(~strays), more)) <= 10


def _at(places: Complex) -> Keypoints:
    """Keypoints of one size and turn at `places` of a square picture."""
    return Keypoints(
        points=np.stack([places.real, places.imag], axis=1).astype(np.float32),
        scales=np.full(len(places), 0.05, np.float32),
        angles=np.zeros(len(places), np.float32),
        descriptors=np.zeros((len(places), 128), np.uint8),
        thumb=np.zeros((64, 64), np.uint8),
        width=640,
        height=640,
    )
