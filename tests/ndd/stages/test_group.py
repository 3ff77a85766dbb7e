"""From evidence to groups: what the last steps add to the parts that are tested by themselves."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from ndd.config import FindConfig
from ndd.find import FindRequest, find
from ndd.local import LocalRunner
from ndd.model.directory import shipped
from ndd.stages.group import parts
from ndd.tables import PairRow, read_groups
from ndd.types import Relation
from tests.samples import photographs, small_model


def test_a_group_larger_than_the_neighbourhood_comes_out_whole(tmp_path: Path) -> None:
    """With one neighbour and two votes each, ten copies are linked loosely; the second look makes them one group."""
    album = tmp_path / "album"
    album.mkdir()
    pixels = photographs()["astronaut"]
    for number in range(10):
        cutting = pixels[number : number + 150, 2 * number : 2 * number + 170, ::-1]
        cv2.imwrite(str(album / f"{number}.png"), np.ascontiguousarray(cutting))
    config = FindConfig(neighbours=1, hash_bits=0)
    request = FindRequest(paths=[album], out=tmp_path / "out", model=small_model(tmp_path / "model"), config=config)
    run = find(request, LocalRunner(workers=1))
    assert run["candidates"]["pairs"] - run["candidates"]["completing"] <= 30
    assert run["candidates"]["completing"] > 0
    assert [row.path for row in read_groups(tmp_path / "out" / "groups.parquet")] == [f"{n}.png" for n in range(10)]
    assert run["groups"] == 1


def test_what_was_done_to_a_copy_is_said_of_the_one_that_is_kept_whichever_of_its_names(tmp_path: Path) -> None:
    """The source lies there twice; the shorter name is kept, the other one stood for both in the comparison."""
    album = tmp_path / "album"
    album.mkdir()
    pixels = np.ascontiguousarray(photographs()["coffee"][..., ::-1])
    turn = cv2.getRotationMatrix2D((pixels.shape[1] / 2, pixels.shape[0] / 2), 20, 1.4)
    copies = {
        "a-long-name": pixels,
        "s": pixels,
        "mirrored-copy": pixels[:, ::-1],
        "turned-copy": cv2.warpAffine(pixels, turn, pixels.shape[1::-1]),
        "darkened-copy": (pixels * 0.55).astype(np.uint8),
    }
    for name, copy in copies.items():
        cv2.imwrite(str(album / f"{name}.png"), np.ascontiguousarray(copy))
    find(FindRequest(paths=[album], out=tmp_path / "out", model=shipped()), LocalRunner(workers=1))
    reasons = {row.path: row.reason for row in read_groups(tmp_path / "out" / "groups.parquet")}
    assert reasons["s.png"].startswith("kept: ")
    assert "mirrored, unlike the one that is kept" in reasons["mirrored-copy.png"]
    assert "brightness or contrast changed, unlike the one that is kept" in reasons["darkened-copy.png"]


def pair(**evidence: object) -> PairRow:
    base = {"transform": [[1, 0, 0], [0, 1, 0], [0, 0, 1]]}
    return PairRow(
        left="a", right="b", score=1.0, duplicate=True, relation=Relation.EDITED, distance=0.1, evidence=base | evidence
    )


@pytest.mark.parametrize(
    ("overlaps", "explained", "expected"),
    [
        ((1.0, 0.4), (0.9, 0.36), {"a": 0.4}),  # a is a crop of b
        ((0.3, 1.0), (0.24, 0.8), {"b": 0.3}),  # b is a crop of a
        ((1.0, 0.6), (0.9, 0.9), {}),  # b is a with a plain border: as much contrast, nothing cut off
        ((0.7, 0.7), (0.6, 0.6), {}),  # shifted: neither lies in the other
        ((1.0, 0.2), (0.3, 0.06), {}),  # too little of a is explained to say so
    ],
)
def test_a_crop_is_a_part_and_a_bordered_copy_is_not(
    overlaps: tuple[float, float], explained: tuple[float, float], expected: dict[str, float]
) -> None:
    evidence = dict(zip(("overlap_left", "overlap_right"), overlaps, strict=True))
    evidence |= dict(zip(("explained_left", "explained_right"), explained, strict=True))
    assert parts([pair(**evidence)]) == pytest.approx(expected)


def test_without_an_alignment_nothing_is_said_of_parts() -> None:
    assert parts([pair(transform=None)]) == {}
