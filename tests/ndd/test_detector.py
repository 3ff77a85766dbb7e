"""The one-page detector: the same evidence as a search, in either order, from paths, bytes or arrays."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from ndd.config import FindConfig
from ndd.detector import Detector
from ndd.errors import DecodeError, InputError, ModelError
from ndd.tables import read_pairs
from ndd.types import Relation
from ndd.verify.score import Scorer
from tests.samples import photographs


@pytest.fixture(scope="module")
def detector(model: Path) -> Detector:
    return Detector(model)


def test_path_bytes_and_array_of_one_picture_are_the_same(detector: Detector, pictures: Path) -> None:
    path = pictures / "cat.png"
    vectors = detector.embed([path, path.read_bytes(), photographs()["cat"]])
    assert vectors.dtype == np.float32
    assert np.array_equal(vectors[0], vectors[1])
    assert np.array_equal(vectors[0], vectors[2])
    assert detector.compare(path, path.read_bytes()).relation is Relation.EXACT
    assert detector.embed([]).shape == (0, 32)


def test_comparing_is_symmetric(detector: Detector, pictures: Path) -> None:
    a, b = pictures / "cat.png", pictures / "cat-mirrored.png"
    there, back = detector.compare(a, b), detector.compare(b, a)
    assert (there.score, there.distance, there.relation) == (back.score, back.distance, back.relation)
    assert there.evidence["inliers"] == back.evidence["inliers"]
    assert there.evidence["mirrored"]


def test_copies_score_above_strangers(detector: Detector, pictures: Path) -> None:
    copy = detector.compare(pictures / "cat.png", pictures / "crops" / "cat.png")
    stranger = detector.compare(pictures / "cat.png", pictures / "rocket.png")
    assert copy.score > 0.9 > 0.1 > stranger.score
    assert not stranger.duplicate


def test_the_same_bytes_are_certain(detector: Detector, pictures: Path) -> None:
    match = detector.compare(pictures / "cat.png", pictures / "crops" / "cat-again.png")
    assert (match.score, match.distance, match.duplicate, match.relation) == (1.0, 0.0, True, Relation.EXACT)


def test_comparing_agrees_with_a_search(detector: Detector, pictures: Path, tmp_path: Path) -> None:
    """Same distance and evidence for every pair of a search; the score differs by the prior alone."""
    run = detector.find([pictures], out=tmp_path / "found")
    rows = [row for row in read_pairs(tmp_path / "found" / "pairs.parquet") if row.relation is not Relation.EXACT]
    assert len(rows) >= 8
    calibrated = Scorer(None).prior
    shift = np.log(run["prior"] / (1 - run["prior"])) - np.log(calibrated / (1 - calibrated))
    for row in rows:
        match = detector.compare(pictures / row.left, pictures / row.right)
        assert np.float32(match.distance) == np.float32(row.distance)
        assert dict(match.evidence) == dict(row.evidence)
        assert match.relation == row.relation
        if 1e-6 < row.score < 1 - 1e-6:
            odds = np.log(match.score / (1 - match.score)) + shift
            assert row.score == pytest.approx(1 / (1 + np.exp(-odds)), abs=1e-6)


def test_queries_find_the_copies_first(detector: Detector, model: Path, pictures: Path) -> None:
    index = Detector(model)
    index.add(
        [pictures / f"{name}.png" for name in ("astronaut", "cat", "coffee", "rocket")], names=["a", "c", "k", "r"]
    )
    found = index.query(pictures / "crops" / "coffee.png", k=3)
    assert len(found) == 3
    assert found[0][0] == "k"
    assert found[0][1] == detector.compare(pictures / "crops" / "coffee.png", pictures / "coffee.png")


def test_an_unreadable_picture_is_named(detector: Detector, pictures: Path) -> None:
    with pytest.raises(DecodeError, match="no-such.jpg"):
        detector.compare(pictures / "cat.png", pictures / "no-such.jpg")
    with pytest.raises(DecodeError):
        detector.compare(pictures / "cat.png", pictures / "cut.jpg")
    with pytest.raises(InputError, match="uint8"):
        detector.embed([np.zeros((4, 4), np.uint8)])


def test_a_place_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="config.json"):
        Detector(tmp_path)


def test_the_wanted_precision_decides_about_a_single_pair(model: Path, pictures: Path) -> None:
    a, b = pictures / "cat.png", pictures / "crops" / "cat.png"
    score = Detector(model).compare(a, b).score
    assert Detector(model, config=FindConfig(precision=score * 0.999)).compare(a, b).duplicate
    assert not Detector(model, config=FindConfig(precision=1 - (1 - score) / 2)).compare(a, b).duplicate


def test_the_drawing_shows_both_pictures_and_their_matches(detector: Detector, pictures: Path, tmp_path: Path) -> None:
    out = detector.explain(pictures / "cat.png", pictures / "cat-mirrored.png", out=tmp_path / "why.png")
    sheet = cv2.imread(str(out))
    assert sheet is not None
    assert sheet.shape[1] >= 2 * 200
    greenish = (sheet[:, :, 1].astype(int) - sheet[:, :, 2] > 60) & (sheet[:, :, 1].astype(int) - sheet[:, :, 0] > 40)
    assert greenish.sum() > 200, "lines between matching keypoints"
