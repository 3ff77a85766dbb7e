"""How near pictures are to strangers: against plain loops, and as a file of the model directory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ndd.errors import ModelError
from ndd.model.background import BACKGROUND, NEAREST, Background

DIM = 12


def unit(count: int, seed: int) -> NDArray[np.float16]:
    x = np.random.default_rng(seed).normal(size=(count, DIM))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16)


def test_hubness_is_the_mean_cosine_to_the_nearest_strangers_but_one() -> None:
    strangers, asked = unit(40, 0), unit(9, 1)
    expected = []
    for a in asked.astype(np.float64):
        cosines = sorted(
            float(a @ s) / float(np.linalg.norm(a) * np.linalg.norm(s)) for s in strangers.astype(np.float64)
        )
        expected.append(sum(cosines[-NEAREST - 1 : -1]) / NEAREST)
    np.testing.assert_allclose(Background(strangers).hubness(asked), expected, rtol=0, atol=1e-12)


def test_hubness_does_not_depend_on_how_the_work_is_cut() -> None:
    strangers, asked = unit(3000, 2), unit(700, 3)
    background = Background(strangers)
    whole = background.hubness(asked)
    cut = np.concatenate([background.hubness(asked[start : start + 37]) for start in range(0, len(asked), 37)])
    shuffled = Background(strangers[np.random.default_rng(4).permutation(len(strangers))]).hubness(asked)
    assert whole.tobytes() == cut.tobytes() == shuffled.tobytes()


def test_a_stranger_that_is_the_picture_itself_changes_nothing() -> None:
    asked, strangers = unit(1, 5), unit(50, 6)
    with_itself = Background(np.concatenate([strangers, asked])).hubness(asked)
    cosines = np.sort(strangers.astype(np.float64) @ asked[0].astype(np.float64))[::-1]
    assert with_itself[0] == pytest.approx(cosines[:NEAREST].mean(), abs=1e-3)


def test_a_vector_of_zeros_is_near_to_nobody() -> None:
    assert Background(unit(20, 7)).hubness(np.zeros((1, DIM), np.float16)).tolist() == [0.0]


def test_it_is_kept_in_the_model_directory(tmp_path: Path) -> None:
    background = Background(unit(20, 8))
    assert Background.load(tmp_path, dim=DIM) is None
    background.save(tmp_path)
    again = Background.load(tmp_path, dim=DIM)
    assert again is not None
    assert again.vectors.tobytes() == background.vectors.tobytes()


def test_a_background_of_another_network_is_refused(tmp_path: Path) -> None:
    Background(unit(20, 8)).save(tmp_path)
    with pytest.raises(ModelError, match=rf"{BACKGROUND}: vectors of shape \(20, 12\), the network's have 13"):
        Background.load(tmp_path, dim=13)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    Background(unit(20, 8)).save(tmp_path)
    whole = (tmp_path / BACKGROUND).read_bytes()
    (tmp_path / BACKGROUND).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match=f"{BACKGROUND}: .*copy the directory again"):
        Background.load(tmp_path, dim=DIM)


@pytest.mark.parametrize("vectors", [unit(NEAREST, 9), unit(20, 9).astype(np.float32), unit(20, 9)[0]])
def test_too_few_or_of_another_type(vectors: NDArray[np.float16]) -> None:
    with pytest.raises(ValueError, match="a background is at least"):
        Background(vectors)
