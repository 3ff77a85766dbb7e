"""Whitening folded into the projection, and the background that goes with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ndd.images import to_square
from ndd.model import checkpoint
from ndd.model.directory import describe
from ndd.model.siamese import SiameseEmbedder
from ndd.stages.embed import Embedder
from ndd.training.config import FinishConfig
from ndd.training.finish import finish, whiten
from tests.ndd.training.builders import tiny, tiny_pictures

COUNT = 96


def network() -> SiameseEmbedder:
    torch.manual_seed(0)
    model = SiameseEmbedder(tiny().model)
    return model.eval()


def projected(model: SiameseEmbedder, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.head.project(model.pooled(x))


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_whitening_lowers_the_spread_of_the_directions_as_asked(power: float) -> None:
    model = network()
    x = torch.rand(200, 3, model.config.image_size, model.config.image_size)
    before = projected(model, x)
    said = whiten(model, before, power=power)
    after = projected(model, x)
    torch.testing.assert_close(after, said, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(after.mean(dim=0), torch.zeros(after.shape[1]), rtol=0, atol=1e-3)
    spread = [torch.linalg.eigvalsh(torch.cov(v.double().T, correction=0)) for v in (before, after)]
    mean = spread[0].mean()
    # Each variance v becomes v (v / mean)^-power, whatever its direction.
    expected = (spread[0] * (spread[0] / mean) ** -power).sort().values
    used = expected > 1e-3 * expected.max()
    torch.testing.assert_close(spread[1].sort().values[used], expected[used], rtol=0.05, atol=0)


def test_the_background_holds_the_vectors_that_the_finished_network_makes() -> None:
    model, pictures = network(), tiny_pictures(COUNT)
    rows = np.arange(COUNT)
    background = finish(model, pictures, rows, FinishConfig(background=COUNT), seed=0)
    assert background is not None
    side = model.config.image_size
    x = np.stack([to_square(np.ascontiguousarray(pictures[row]), side) for row in rows])
    with torch.no_grad():
        z = model(torch.from_numpy(x).permute(0, 3, 1, 2).float() / 255)
    np.testing.assert_allclose(background.vectors.astype(np.float32), z.numpy(), atol=2e-3)


def test_only_the_given_rows_and_no_more_than_asked_for() -> None:
    pictures = tiny_pictures(COUNT)
    whole = finish(network(), pictures, np.arange(COUNT), FinishConfig(background=COUNT, whitening=0.0), seed=1)
    part = finish(network(), pictures, np.arange(10, 60), FinishConfig(background=20, whitening=0.0), seed=1)
    assert whole is not None
    assert part is not None
    assert part.vectors.shape == (20, whole.vectors.shape[1])
    allowed = {row.tobytes() for row in whole.vectors[10:60]}
    assert len(allowed) == 50
    near = np.abs(part.vectors[:, None].astype(np.float32) - whole.vectors[None, 10:60].astype(np.float32)).max(axis=2)
    assert (near.min(axis=1) < 2e-3).all()


def test_too_few_pictures_leave_the_descriptors_as_they_are() -> None:
    model = network()
    before = model.head.project.weight.clone()
    rows = np.arange(2 * model.config.dim)
    finish(model, tiny_pictures(len(rows)), rows, FinishConfig(), seed=0)
    assert torch.equal(model.head.project.weight, before)


def test_nothing_is_made_where_nothing_is_wanted() -> None:
    model = network()
    before = model.head.project.weight.clone()
    assert finish(model, tiny_pictures(8), np.arange(8), FinishConfig(background=0, whitening=0.0), seed=0) is None
    assert torch.equal(model.head.project.weight, before)


def test_a_saved_model_judges_by_its_background(tmp_path: Path) -> None:
    directory = tmp_path / "model"
    model = network()
    background = finish(model, tiny_pictures(COUNT), np.arange(COUNT), FinishConfig(whitening=0.0), seed=0)
    checkpoint.save(directory, model, card={})
    without = describe(directory).embedding_digest
    checkpoint.save(directory, model, card={}, background=background)
    said = describe(directory)
    assert said.embedding_digest != without  # what a vector is judged by is part of what it means
    embedder = Embedder(said)
    side = model.config.image_size
    vectors = embedder.embed(np.random.default_rng(0).integers(0, 256, (3, side, side, 3)).astype(np.uint8))
    assert background is not None
    assert embedder.hubness(vectors).tobytes() == background.hubness(vectors).tobytes()
    checkpoint.save(directory, model, card={})  # the background is not that of other weights
    assert Embedder(describe(directory)).hubness(vectors).tolist() == [0.0, 0.0, 0.0]
