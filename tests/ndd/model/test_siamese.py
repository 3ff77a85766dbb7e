"""The network as a whole: unit vectors, one set of weights for both branches, a twin that lacks the STN alone."""

from __future__ import annotations

import pytest
import torch

from ndd.config import ModelConfig, StnConfig
from ndd.model.siamese import SiameseEmbedder

SMALL = ModelConfig(image_size=32, dim=12, stn=StnConfig(size=16, width=4))


def embedder(**overrides: str) -> SiameseEmbedder:
    torch.manual_seed(0)
    return SiameseEmbedder(SMALL.with_overrides(overrides)).eval()


def pictures(count: int, size: int = 32) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(count))


@pytest.mark.parametrize("kind", ["none", "affine", "homography", "tps"])
def test_vectors_have_unit_length(kind: str) -> None:
    model = embedder(**{"stn.kind": kind})
    with torch.no_grad():
        z, theta = model.embed_with_pose(pictures(3))
    assert z.shape == (3, 12)
    assert torch.allclose(z.norm(dim=1), torch.ones(3), atol=1e-6)
    assert (theta is None) == (kind == "none")


def test_any_size_is_taken() -> None:
    with torch.no_grad():
        assert embedder()(pictures(2, size=48)).shape == (2, 12)


@torch.no_grad()
def test_twin_lacks_the_stn_and_nothing_else() -> None:
    model, twin = embedder(), embedder(**{"stn.kind": "none"})
    assert {n for n in model.state_dict() if not n.startswith("stn.")} == set(twin.state_dict())
    twin.load_state_dict({n: v for n, v in model.state_dict().items() if not n.startswith("stn.")})
    # The transformer starts as the identity, so at the start both say the same.
    assert torch.allclose(model(pictures(2)), twin(pictures(2)), atol=1e-5)


@torch.no_grad()
def test_align_shows_what_the_trunk_sees() -> None:
    model, twin = embedder(), embedder(**{"stn.kind": "none"})
    twin.load_state_dict({n: v for n, v in model.state_dict().items() if not n.startswith("stn.")})
    assert model.stn is not None
    model.stn.localization.theta.bias.copy_(torch.tensor([-0.5, 0, 0.1, 0, -0.5, 0]))
    x = pictures(2)
    warped, corners = model.align(x)
    assert torch.allclose(corners[0], torch.tensor([[-0.4, -0.5], [0.6, -0.5], [0.6, 0.5], [-0.4, 0.5]]))
    assert torch.allclose(model(x), twin(warped), atol=1e-6)
    untouched, frame = twin.align(x)
    assert torch.equal(untouched, x)
    assert frame[1].tolist() == [[-1, -1], [1, -1], [1, 1], [-1, 1]]


@torch.no_grad()
def test_vector_of_a_picture_does_not_depend_on_its_companions() -> None:
    model, x = embedder(), pictures(5)
    alone = torch.cat([model(row[None]) for row in x])
    assert torch.allclose(model(x), alone, atol=1e-5)


@torch.no_grad()
def test_generalised_mean_lies_between_average_and_maximum() -> None:
    from ndd.model.pooling import AveragePooling, GeneralizedMeanPooling

    x = torch.rand(2, 5, 4, 3, generator=torch.Generator().manual_seed(1)) + 0.1
    gem = GeneralizedMeanPooling(power=3.0)
    assert torch.allclose(gem(x), x.pow(3).mean(dim=(2, 3)).pow(1 / 3))
    assert torch.allclose(GeneralizedMeanPooling(power=1.0)(x), AveragePooling()(x))
    assert torch.allclose(GeneralizedMeanPooling(power=200.0)(x), x.amax(dim=(2, 3)), rtol=0.02)
    assert torch.isfinite(gem(torch.zeros(1, 2, 3, 3))).all()
