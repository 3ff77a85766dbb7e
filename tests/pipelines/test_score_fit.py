"""What labels do to a fitted score, on made-up evidence of which the truth is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ndd.errors import ModelError
from ndd.model.directory import EVIDENCE
from ndd.verify.score import VERIFIED_FEATURES, expand
from pipelines.score_fit import Taught, refit

Floats = npt.NDArray[np.float64]
NONE = (np.zeros((0, len(VERIFIED_FEATURES))), np.zeros(0, np.bool_), np.zeros(0))


def evidence(count: int, *, share: float, seed: int, telling: tuple[str, ...]) -> Taught:
    """Pairs of which the features in `telling` are higher for duplicates; the others are noise."""
    random = np.random.default_rng(seed)
    truth = random.random(count) < share
    values = random.random((count, len(VERIFIED_FEATURES)))
    for name in telling:
        values[:, VERIFIED_FEATURES.index(name)] = np.clip(random.normal(0.4 + 0.2 * truth, 0.12), 0.0, 1.0)
    return Taught(values=values, truth=truth)


def odds(section: dict[str, Any], values: Floats) -> Floats:
    columns = expand(values, VERIFIED_FEATURES, section["features"])
    return np.asarray(columns @ np.array(section["weights"]) + section["bias"])


def rise(section: dict[str, Any], name: str) -> float:
    """By how many log-odds the score rises with a feature from .3 to .7."""
    rows = np.full((2, len(VERIFIED_FEATURES)), 0.5)
    rows[:, VERIFIED_FEATURES.index(name)] = 0.3, 0.7
    low, high = odds(section, rows)
    return float(high - low)


def test_labels_bend_what_they_speak_of_and_leave_the_rest() -> None:
    album = evidence(2000, share=0.5, seed=0, telling=("agreement", "cosine"))
    labels = evidence(600, share=0.5, seed=1, telling=("agreement", "cosine", "hash"))
    before = refit(album, *NONE)
    after = refit(album, labels.values, labels.truth, np.full(600, 0.5))
    assert rise(before, "hash") < 0.3 < 0.6 < rise(after, "hash")
    assert rise(after, "agreement") == pytest.approx(rise(before, "agreement"), rel=0.2)
    assert min(after["weights"]) >= 0.0
    test = evidence(4000, share=0.5, seed=2, telling=("agreement", "cosine", "hash"))
    loss = [float(np.logaddexp(0, np.where(test.truth, -1, 1) * odds(s, test.values)).mean()) for s in (before, after)]
    assert loss[1] < 0.93 * loss[0]


def test_labels_that_say_what_the_album_said_change_little_however_rare_duplicates_are() -> None:
    """The share of duplicates among the candidates is no part of the score: each search estimates its own."""
    album = evidence(2000, share=0.5, seed=0, telling=("agreement", "cosine"))
    labels = evidence(400, share=0.05, seed=3, telling=("agreement", "cosine"))
    before, after = refit(album, *NONE), refit(album, labels.values, labels.truth, np.full(400, 0.05))
    moved = odds(after, album.values) - odds(before, album.values)
    assert abs(float(moved.mean())) < 0.1
    wrong = refit(album, labels.values, labels.truth, np.full(400, 0.5))
    assert float((odds(wrong, album.values) - odds(before, album.values)).mean()) < -0.3


def test_no_order_of_the_labels_matters() -> None:
    album = evidence(500, share=0.5, seed=0, telling=("agreement",))
    labels = evidence(60, share=0.3, seed=4, telling=("hash",))
    turned = np.random.default_rng(5).permutation(60)
    prior = np.linspace(0.1, 0.5, 60)
    one = refit(album, labels.values, labels.truth, prior)
    other = refit(album, labels.values[turned], labels.truth[turned], prior[turned])
    assert one["features"] == other["features"]
    np.testing.assert_allclose(one["weights"], other["weights"], atol=1e-3)


def test_the_evidence_comes_back_from_the_model_directory(tmp_path: Path) -> None:
    assert Taught.load(tmp_path) is None
    album = evidence(50, share=0.4, seed=0, telling=())
    album.save(tmp_path)
    found = Taught.load(tmp_path)
    assert found is not None
    np.testing.assert_allclose(found.values, album.values, rtol=1e-6)
    np.testing.assert_array_equal(found.truth, album.truth)


def test_damaged_evidence_is_named_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / EVIDENCE).write_bytes(b"PAR1 and no more")
    with pytest.raises(ModelError, match=r"calibration\.parquet: .*pipelines calibrate"):
        Taught.load(tmp_path)
