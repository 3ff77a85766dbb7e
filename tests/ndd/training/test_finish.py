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
from ndd.training import finish as module
from ndd.training.config import TrainConfig
from ndd.training.finish import finish, whiten, whiten_within
from tests.ndd.training.builders import tiny, tiny_pictures

COUNT = 96


def finishing(*, seed: int = 0, **settings: float) -> TrainConfig:
    """The tiny run, `settings` of its finish."""
    return tiny(seed=seed, **{f"finish__{name}": value for name, value in settings.items()})


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


def features(channels: int, *, pictures: int = 600, views: int = 6) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """Pooled features of pictures and of their views, which differ twenty times as much in the first eight channels, where
    pictures differ most too."""
    rng = torch.Generator().manual_seed(1)
    clean = torch.randn(pictures, channels, generator=rng)
    clean[:, :8] *= 3.0
    of = np.tile(np.arange(pictures), views)
    moved = 0.2 * torch.randn(len(of), channels, generator=rng)
    moved[:, :8] *= 20.0
    return clean, clean[of] + moved, of


def apart(vectors: torch.Tensor, views: torch.Tensor, of: np.ndarray) -> float:
    """Share of views whose nearest picture is their own."""
    normal = torch.nn.functional.normalize
    nearest = (normal(views, dim=1) @ normal(vectors, dim=1).T).argmax(dim=1)
    return float((nearest.numpy() == of).mean())


def test_a_learned_whitening_makes_edits_move_every_direction_alike() -> None:
    model = network()
    clean, views, of = features(model.head.project.in_features)
    whiten_within(model, clean, views, of, shrinkage=0.0)
    with torch.no_grad():
        made, seen = model.head.project(clean).double(), model.head.project(views).double()
    means = torch.stack([torch.cat([made[[at]], seen[of == at]]).mean(dim=0) for at in range(len(made))])
    off = torch.cat([made - means, seen - means[of]])
    within = off.T @ off / (len(off) - len(made))
    torch.testing.assert_close(
        within, within.diagonal().mean() * torch.eye(len(within), dtype=within.dtype), rtol=0.01, atol=1e-3
    )
    torch.testing.assert_close(made.mean(dim=0), torch.zeros(made.shape[1], dtype=made.dtype), rtol=0, atol=1e-3)


def test_a_learned_whitening_finds_copies_that_one_by_variance_loses() -> None:
    found = {}
    for name in ("within", "variance"):
        model = network()
        clean, views, of = features(model.head.project.in_features)
        before = projected_of(model, clean)
        if name == "within":
            whiten_within(model, clean, views, of)
        else:
            whiten(model, before, power=0.75)
        found[name] = apart(projected_of(model, clean), projected_of(model, views), of)
    assert found["within"] > found["variance"] + 0.1


def projected_of(model: SiameseEmbedder, pooled: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.head.project(pooled)


def test_a_learned_whitening_lies_near_to_what_was_there() -> None:
    model = network()
    clean, views, of = features(model.head.project.in_features)
    before = projected_of(model, clean)
    before = before - before.mean(dim=0)
    whiten_within(model, clean, views, of)
    after = projected_of(model, clean)
    assert float(after.norm(dim=1).mean()) == pytest.approx(float(before.norm(dim=1).mean()), rel=0.01)
    here = torch.trace(after.T @ before)
    turned, _ = torch.linalg.qr(torch.randn(len(after.T), len(after.T), generator=torch.Generator().manual_seed(2)))
    assert all(here >= torch.trace((after @ q).T @ before) for q in (turned, -torch.eye(len(turned)), turned.T))


def test_views_are_learnt_from_where_there_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures, rows = tiny_pictures(COUNT), np.arange(COUNT)
    by_variance, too_few, learned, again = network(), network(), network(), network()
    finish(by_variance, pictures, rows, finishing())
    finish(too_few, pictures, rows, finishing(views=2))
    assert torch.equal(too_few.head.project.weight, by_variance.head.project.weight)
    monkeypatch.setattr(module, "_LEAST", 0.1)
    background = finish(learned, pictures, rows, finishing(views=2))
    finish(again, pictures, rows, finishing(views=2))
    assert torch.equal(learned.head.project.weight, again.head.project.weight)
    assert not torch.allclose(learned.head.project.weight, by_variance.head.project.weight, atol=1e-3)
    side = learned.config.image_size
    x = np.stack([to_square(np.ascontiguousarray(pictures[row]), side) for row in rows])
    with torch.no_grad():
        z = learned(torch.from_numpy(x).permute(0, 3, 1, 2).float() / 255)
    assert background is not None
    np.testing.assert_allclose(background.vectors.astype(np.float32), z.numpy(), atol=2e-3)


def test_the_background_holds_the_vectors_that_the_finished_network_makes() -> None:
    model, pictures = network(), tiny_pictures(COUNT)
    rows = np.arange(COUNT)
    background = finish(model, pictures, rows, finishing(background=COUNT))
    assert background is not None
    side = model.config.image_size
    x = np.stack([to_square(np.ascontiguousarray(pictures[row]), side) for row in rows])
    with torch.no_grad():
        z = model(torch.from_numpy(x).permute(0, 3, 1, 2).float() / 255)
    np.testing.assert_allclose(background.vectors.astype(np.float32), z.numpy(), atol=2e-3)


def test_only_the_given_rows_and_no_more_than_asked_for() -> None:
    pictures = tiny_pictures(COUNT)
    whole = finish(network(), pictures, np.arange(COUNT), finishing(background=COUNT, whitening=0.0, seed=1))
    part = finish(network(), pictures, np.arange(10, 60), finishing(background=20, whitening=0.0, seed=1))
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
    finish(model, tiny_pictures(len(rows)), rows, finishing())
    assert torch.equal(model.head.project.weight, before)


def test_nothing_is_made_where_nothing_is_wanted() -> None:
    model = network()
    before = model.head.project.weight.clone()
    assert finish(model, tiny_pictures(8), np.arange(8), finishing(background=0, whitening=0.0)) is None
    assert torch.equal(model.head.project.weight, before)


def test_a_saved_model_judges_by_its_background(tmp_path: Path) -> None:
    directory = tmp_path / "model"
    model = network()
    background = finish(model, tiny_pictures(COUNT), np.arange(COUNT), finishing(whitening=0.0))
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
