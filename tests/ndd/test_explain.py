"""The picture of the evidence: every look of the network is shown, and people get the one that lays the pair alike."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from ndd.explain import aligned, looks
from ndd.images import to_square
from ndd.model import checkpoint
from ndd.model.directory import shipped
from ndd.model.siamese import SiameseEmbedder
from tests.samples import photographs, small_model


@pytest.fixture(scope="module")
def model() -> SiameseEmbedder:
    return checkpoint.load(shipped()).model


def test_a_quarter_turn_is_laid_alike_by_one_of_two_looks(model: SiameseEmbedder) -> None:
    upright = to_square(photographs()["astronaut"], model.config.image_size)
    turned = np.ascontiguousarray(np.rot90(upright))
    seen = looks(model, (upright, turned))
    assert len(seen) == model.looks == 2
    apart = [float(cv2.absdiff(*pair).mean()) for pair in seen]
    assert apart[0] < 2 < float(cv2.absdiff(upright, turned).mean())
    assert np.array_equal(np.stack(aligned(model, (upright, turned))), np.stack(seen[int(np.argmin(apart))]))


def test_one_look_is_one_pair(tmp_path: Path) -> None:
    one = checkpoint.load(small_model(tmp_path / "model")).model
    square = to_square(photographs()["cat"], one.config.image_size)
    assert len(looks(one, (square, square))) == one.looks == 1
