"""A vector does not depend on its batch-mates, on its place among them, or on how many threads run."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ndd.model import checkpoint
from ndd.model.checkpoint import Checkpoint
from ndd.stages.embed import MICRO_BATCH, Embedder
from tests.samples import small_model


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return checkpoint.load(small_model(tmp_path_factory.mktemp("models") / "model"))


@pytest.fixture(scope="module")
def embedder(loaded: Checkpoint) -> Embedder:
    return Embedder(loaded)


@pytest.fixture(scope="module")
def canvases() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (2 * MICRO_BATCH + 5, 64, 64, 3), dtype=np.uint8)


def test_vectors_are_the_networks_in_half_precision(
    loaded: Checkpoint, embedder: Embedder, canvases: NDArray[np.uint8]
) -> None:
    x_B3SS = torch.from_numpy(canvases[:3]).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        expected = loaded.model(x_B3SS).numpy()
    found = embedder.embed(canvases[:3])
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, expected, atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(found.astype(np.float64), axis=1), 1.0, atol=1e-3)


@pytest.mark.parametrize("size", [1, 3, MICRO_BATCH, MICRO_BATCH + 1])
def test_bit_equal_in_any_batch(embedder: Embedder, canvases: NDArray[np.uint8], size: int) -> None:
    whole = embedder.embed(canvases)
    order = np.random.default_rng(size).permutation(len(canvases))
    parts = [embedder.embed(canvases[order[at : at + size]]) for at in range(0, len(order), size)]
    assert np.array_equal(np.concatenate(parts), whole[order])
    assert len(np.unique(whole, axis=0)) == len(whole)


def test_bit_equal_on_several_threads(embedder: Embedder, canvases: NDArray[np.uint8]) -> None:
    whole = embedder.embed(canvases)
    with ThreadPoolExecutor(3) as pool:
        parts = list(pool.map(lambda at: embedder.embed(canvases[at : at + 4]), range(0, len(canvases), 4)))
    assert np.array_equal(np.concatenate(parts), whole)


def test_the_callers_thread_count_is_left_alone(embedder: Embedder, canvases: NDArray[np.uint8]) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        embedder.embed(canvases[:1])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("wrong", [np.zeros((1, 32, 32, 3), np.uint8), np.zeros((1, 64, 64, 3), np.float32)])
def test_another_shape_or_type_is_refused(embedder: Embedder, wrong: NDArray[np.generic]) -> None:
    with pytest.raises(ValueError, match="expected"):
        embedder.embed(wrong)  # type: ignore[arg-type]


def test_nothing_gives_nothing(embedder: Embedder) -> None:
    assert embedder.embed(np.zeros((0, 64, 64, 3), np.uint8)).shape == (0, 32)
