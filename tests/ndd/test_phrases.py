"""Words for numbers, paths and evidence."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndd.phrases import (
    evidence_text,
    path_text,
    relation_text,
    score_text,
    share_text,
    size_text,
    without_size,
)
from ndd.types import Relation


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (53_940, "53.9 kB"),
        (99_500, "100 kB"),
        (3_200_000, "3.2 MB"),
        (999_600, "1.0 MB"),
        (645_000_000, "645 MB"),
        (1_250_000_000_000, "1.2 TB"),
        (4_000_000_000_000_000, "4,000 TB"),
    ],
)
def test_sizes(number: int, text: str) -> None:
    assert plain(size_text(number)) == text


@pytest.mark.parametrize(
    ("score", "text"),
    [(1.0, "100 %"), (0.99987, "99.9 %"), (0.999999, "99.9 %"), (0.29, "29.0 %"), (0.0, "0.0 %"), (math.nan, "–")],
)
def test_scores_never_round_up_to_certainty(score: float, text: str) -> None:
    assert plain(score_text(score)) == text


def test_paths_cannot_deceive() -> None:
    assert path_text("holiday/évian 東京 🏔.jpg") == "holiday/évian 東京 🏔.jpg"
    assert path_text("phone/\u202egpj.exe") == "phone/\\u202egpj.exe"
    assert path_text("a\nb\x1b[31m\x7f.jpg") == "a\\x0ab\\x1b[31m\\x7f.jpg"
    assert path_text("caf\udce9.jpg") == "caf%E9.jpg"
    assert path_text("x\ud800y\u2066") == "x\\ud800y\\u2066"


@given(st.text())
def test_any_path_can_be_written_and_shows_no_control_character(path: str) -> None:
    shown = path_text(path)
    shown.encode()
    assert not any(ord(character) < 32 or character in "\u202a\u202e\u2028\u200f" for character in shown)


def test_relations_in_a_sentence() -> None:
    assert [relation_text(relation, 1) for relation in Relation] == [
        "identical file",
        "re-saved copy",
        "edited copy",
        "picture of the same scene",
    ]
    assert relation_text(Relation.EDITED, 2) == "edited copies"


# ---- evidence

LEFT, RIGHT = (4000, 3000), (800, 600)


def said(evidence: dict[str, object], *, copy_is_left: bool = False, left: tuple[int, int] = LEFT) -> str:
    text = evidence_text(evidence, copy_is_left=copy_is_left, left=left, right=RIGHT, other="the kept picture")
    return plain(text)


def rotation(degrees: float, *, mirrored: bool = False) -> list[list[float]]:
    """[0, 1]² of LEFT → [0, 1]² of RIGHT: turned about the middle in pixels, flipped first if asked."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turn = np.array([[c, -s], [s, c]]) @ np.diag([-1.0 if mirrored else 1.0, 1.0])
    linear = np.diag([1 / 4, 1 / 3]) @ turn @ np.diag([4, 3])
    shift = np.array([0.5, 0.5]) - linear @ np.array([0.5, 0.5])
    return [[*linear[0].tolist(), float(shift[0])], [*linear[1].tolist(), float(shift[1])], [0.0, 0.0, 1.0]]


def test_a_crop_is_described_from_the_side_of_the_copy() -> None:
    crop = {"inliers": 1214, "overlap_left": 0.62, "overlap_right": 1.0, "mirrored": True, "hash_bits": 90}
    assert said(crop) == "1,214 keypoints agree · mirrored · shows 62 % of the kept picture"
    assert said(crop, copy_is_left=True) == "1,214 keypoints agree · mirrored · 38 % of it is new"


@pytest.mark.parametrize(("degrees", "shown"), [(0, ""), (1, ""), (30, "30°"), (-90, "90°"), (180, "180°")])
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_turn_is_measured_in_pixels_not_in_shares(degrees: float, shown: str, mirrored: bool) -> None:
    text = said({"inliers": 50, "transform": rotation(degrees, mirrored=mirrored)})
    assert text == "50 keypoints agree" + (f" · turned by {shown}" if shown else "")


def test_other_evidence() -> None:
    assert said({"sha256": "ab", "inliers": 3}) == "every byte is the same"
    assert said({"hash_bits": 12}) == "perceptual hashes differ in 12 of 256 bits"
    assert said({"hash_bits": 12, "decision": "duplicate"}).startswith("you said: duplicates · ")
    assert said({}) == ""


@pytest.mark.parametrize("value", [None, "many", float("nan"), True, [], {"a": 1}])
def test_odd_evidence_is_passed_over(value: object) -> None:
    assert said({"inliers": value, "transform": value, "decision": value, "unknown": value}) == ""
    assert said({"inliers": 9, "transform": value, "overlap_left": value}) == "9 keypoints agree"
    assert said({"inliers": 9, "transform": [[0, 0, 0]] * 3}, left=(0, 0)) == "9 keypoints agree"


def test_a_reason_without_what_stands_beside_it() -> None:
    assert without_size("kept: 40×30 PNG, sharpest of 3", width=40, height=30, format="PNG") == "kept: sharpest of 3"
    assert (
        without_size("same picture, 40×30, less detail", width=40, height=30, format="PNG")
        == "same picture, less detail"
    )
    assert share_text(0.625) in ("62\N{NO-BREAK SPACE}%", "63\N{NO-BREAK SPACE}%")
