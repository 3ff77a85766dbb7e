"""The localization network with frames: what holds whatever its weights are, and what its frames do."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ndd.config import ModelConfig, StnConfig
from ndd.errors import ConfigError
from ndd.model.moments import SymmetricConv, frame_of, square_root
from ndd.model.siamese import SiameseEmbedder
from ndd.model.stn import MomentLocalizationNet, SpatialTransformer, base_grid

CONFIG = StnConfig(localization="moments", width=12, size=32, angles=48)


def transformer(seed: int = 0) -> SpatialTransformer:
    """With weights that make its attention uneven, as trained ones do."""
    torch.manual_seed(seed)
    stn = SpatialTransformer(CONFIG).eval()
    assert isinstance(stn.localization, MomentLocalizationNet)
    nn.init.normal_(stn.localization.attention.logit.weight, std=2.0)
    return stn


def smooth(count: int, side: int) -> Tensor:
    torch.manual_seed(1)
    return F.interpolate(torch.rand(count, 3, 6, 6), size=(side, side), mode="bicubic").clamp(0, 1)


def test_the_root_is_the_root() -> None:
    half = torch.randn(20, 2, 2, dtype=torch.float64)
    matrix = half @ half.mT + 0.01 * torch.eye(2)
    root = square_root(matrix[:, 0, 0], matrix[:, 1, 1], matrix[:, 0, 1])
    assert torch.allclose(root @ root, matrix, atol=1e-9)
    assert torch.equal(root, root.mT)


def test_even_attention_is_the_whole_picture() -> None:
    places = base_grid(12, 12, like=torch.zeros(1)).reshape(-1, 2)
    centre, shape = frame_of(torch.zeros(3, 144), places, torch.tensor(0.9))
    assert torch.allclose(centre, torch.zeros(3, 2), atol=1e-6)
    assert torch.allclose(shape, 0.9 * torch.eye(2).expand(3, 2, 2), atol=0.02)


def test_frames_follow_every_affine_edit() -> None:
    """A spot of attention squashed, sheared and shifted has the frame squashed, sheared and shifted, up to a rotation."""
    places = base_grid(64, 64, like=torch.zeros(1)).reshape(-1, 2)
    edit, shift = torch.tensor([[0.7, 0.25], [-0.1, 1.2]]), torch.tensor([0.1, -0.15])
    spread = torch.tensor([[0.08, 0.02], [0.02, 0.05]])

    def spot(points: Tensor) -> Tensor:
        return -0.5 * (points @ torch.linalg.inv(spread) * points).sum(dim=1)[None]

    centre, shape = frame_of(spot(places), places, torch.tensor(1.0))
    # Where the picture shows at q what was at edit q + shift.
    moved_centre, moved_shape = frame_of(spot(places @ edit.T + shift), places, torch.tensor(1.0))
    assert torch.allclose(edit @ moved_centre[0] + shift, centre[0], atol=0.01)
    turn = torch.linalg.inv(shape[0]) @ edit @ moved_shape[0]
    # Not exactly: there is a floor under the variances.
    assert torch.allclose(turn @ turn.T, torch.eye(2), atol=0.15)
    still = torch.linalg.inv(shape[0]) @ edit @ shape[0]
    assert (still @ still.T - torch.eye(2)).norm() > 2 * (turn @ turn.T - torch.eye(2)).norm()


def test_kernels_do_not_know_left_from_right() -> None:
    torch.manual_seed(0)
    conv = SymmetricConv(3, 4)
    x = torch.randn(2, 3, 9, 9)
    for move in (lambda t: t.rot90(1, (2, 3)), lambda t: t.flip(3), lambda t: t.mT):
        assert torch.allclose(conv(move(x)), move(conv(x)), atol=1e-5)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_quarter_turns_are_undone_exactly(quarters: int) -> None:
    """Whatever the weights are: the canonical views of a picture and of its quarter turn are the same."""
    stn, x = transformer(), smooth(6, 64)
    with torch.no_grad():
        still, _ = stn(x)
        moved, pose = stn(x.rot90(quarters, (2, 3)))
    assert torch.allclose(still, moved, atol=2e-3)
    assert (pose.theta[:, [1, 2, 3, 5]].abs().amax(dim=1) > 0.02).all()  # frames are not all the whole picture, zoomed
    assert pose.angle.std() > 0.1


def test_a_mirror_image_has_the_mirrored_frame() -> None:
    stn, x = transformer(), smooth(4, 64)
    assert isinstance(stn.localization, MomentLocalizationNet)
    with torch.no_grad():
        centre, shape = stn.localization.frame(stn.shrink(x))
        mirrored_centre, mirrored_shape = stn.localization.frame(stn.shrink(x.flip(3)))
    flip = torch.diag(torch.tensor([-1.0, 1.0]))
    assert torch.allclose(mirrored_centre, centre @ flip, atol=1e-4)
    assert torch.allclose(mirrored_shape, flip @ shape @ flip, atol=1e-4)


def test_frames_are_the_poses_before_the_rotation() -> None:
    """input = centre + shape · R(a) p, whichever way it is written."""
    stn, x = transformer(), smooth(5, 64)
    assert isinstance(stn.localization, MomentLocalizationNet)
    with torch.no_grad():
        pose = stn.predict(x)
        centre, shape = stn.localization.frame(stn.shrink(x))
        frames = stn.frames(pose)
    frame = torch.tensor([[-1.0, -1], [1, -1], [1, 1], [-1, 1]])
    cos, sin = pose.angle.cos(), pose.angle.sin()
    turn = torch.stack([cos, -sin, sin, cos], dim=1).view(-1, 2, 2)
    expected = (shape @ turn @ frame.T).mT + centre[:, None]
    assert torch.allclose(stn.corners(pose.theta, pose.angle), expected, atol=1e-4)
    assert torch.allclose(stn.corners(frames.theta, frames.angle), (shape @ frame.T).mT + centre[:, None], atol=1e-4)


def test_no_gradient_of_the_descriptor_reaches_the_transformer_where_it_shall_not() -> None:
    torch.manual_seed(0)
    model = SiameseEmbedder(ModelConfig(image_size=32, dim=16, stn=CONFIG))
    assert model.stn is not None and isinstance(model.stn.localization, MomentLocalizationNet)
    nn.init.normal_(model.stn.localization.attention.logit.weight, std=1.0)
    for into_stn in (False, True):
        model.zero_grad()
        vectors, _ = model.embed_with_pose(smooth(4, 32), into_stn=into_stn)
        assert vectors is not None
        vectors[:, 0].sum().backward()
        reached = model.stn.localization.attention.logit.weight.grad
        assert (reached is not None and bool(reached.abs().sum() > 0)) is into_stn


def two_looks(seed: int = 0) -> SiameseEmbedder:
    torch.manual_seed(seed)
    stn = {**CONFIG.to_dict(), "prior": True, "trust": 0.0, "second": 0.75}
    model = SiameseEmbedder(ModelConfig(image_size=32, dim=16).with_overrides({"stn": stn})).eval()
    assert model.stn is not None and isinstance(model.stn.localization, MomentLocalizationNet)
    nn.init.normal_(model.stn.localization.attention.logit.weight, std=2.0)
    return model


def test_the_second_look_is_turned_by_the_likeliest_angle() -> None:
    """Told by the prior alone that all pictures are turned by a quarter, it shows them in their frames turned by that."""
    model, x = two_looks(), smooth(4, 32)
    assert model.stn is not None and isinstance(model.stn.localization, MomentLocalizationNet)
    with torch.no_grad():
        assert model.stn.localization.prior is not None
        model.stn.localization.prior.copy_(1e3 * F.one_hot(torch.tensor(12), 48))
        pose = model.stn.predict(x)
        first, second = model.stn.looks(x, pose)
        assert torch.equal(first, model.stn(x)[0])
        frames = model.stn.frames(pose)
        grid = model.stn.transform(frames.theta, 24, 24)
        upright = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
    # A quarter turn in the frame: (x, y) of the canonical picture reads (−y, x) of it.
    assert second.shape == (4, 3, 24, 24)
    assert (second - upright.rot90(1, (2, 3))).abs().mean() < 0.01 < (second - upright).abs().mean()


def test_two_looks_are_averaged_and_both_count() -> None:
    model, x = two_looks(), smooth(4, 32)
    assert model.stn is not None
    with torch.no_grad():
        looks = model.stn.looks(x, model.stn.predict(x))
        features = [model.pooling(model.backbone(look)) for look in looks]
        assert torch.allclose(model.pooled(x), (features[0] + features[1]) / 2, atol=1e-6)
        assert torch.allclose(model(x), model.head(model.pooled(x)), atol=1e-6)
    assert not torch.allclose(features[0], features[1], atol=1e-3)


def test_the_upright_look_is_what_is_shown() -> None:
    """`align` shows the last look, whole; the first one turns with the picture."""
    model, x = two_looks(), smooth(4, 32)
    assert model.stn is not None
    with torch.no_grad():
        first, upright = model.stn.poses(model.stn.predict(x))
    shown, corners = model.align(x)
    assert torch.allclose(corners, model.stn.corners(upright.theta, upright.angle))
    assert torch.allclose(shown, model.stn.warp(x, upright.theta, upright.angle))
    _, still = model.align(x, look=0)
    assert torch.allclose(still, model.stn.corners(first.theta, first.angle))
    _, turned = model.align(x.rot90(1, (2, 3)), look=0)
    back = torch.stack([-turned[..., 1], turned[..., 0]], dim=-1)  # a quarter turn of the picture, undone
    assert torch.allclose(back, still, atol=1e-3)
    assert not torch.allclose(corners, still, atol=0.1)


def test_agreement_leaves_the_template_of_the_upright_angle_alone() -> None:
    model, x = two_looks(), smooth(4, 32)
    assert model.stn is not None and isinstance(model.stn.localization, MomentLocalizationNet)
    model.stn.predict(x).scores.square().sum().backward()
    gradient = model.stn.localization.template.weight.grad
    assert gradient is not None
    assert gradient[0].abs().sum() > 0
    assert gradient[1].abs().sum() == 0


@pytest.mark.parametrize(
    "given", [{"second": 0.2}, {"second": 0.5, "prior": False}, {"second": 0.5, "localization": "polar"}]
)
def test_a_second_look_wants_frames_a_prior_and_some_pixels(given: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"stn.second .* got {given['second']}"):
        StnConfig.from_dict({**CONFIG.to_dict(), "prior": True, **given})


def test_one_look_leaves_the_digests_of_earlier_models() -> None:
    network = ModelConfig(stn=CONFIG).network()
    assert "second" not in network["stn"]
    assert (
        ModelConfig(stn=CONFIG).with_overrides({"stn.prior": True, "stn.second": 0.5}).network()["stn"]["second"] == 0.5
    )


def test_the_descriptor_turns_the_picture_in_its_frame() -> None:
    """The gradient of resampled pixels with respect to the template, which moves the angle alone, against differences."""
    stn = transformer().double()
    assert isinstance(stn.localization, MomentLocalizationNet)
    x, template = smooth(1, 48).double(), stn.localization.template.weight
    with torch.no_grad():
        template.mul_(20)

    def value() -> Tensor:
        out, _ = stn(x)
        return (out[0, :, 5:20, 8:30] * torch.linspace(0, 1, 22, dtype=torch.float64)).sum()

    (gradient,) = torch.autograd.grad(value(), template)
    step = 1e-6 * gradient / gradient.norm()
    with torch.no_grad():
        template.add_(step)
        up = value()
        template.sub_(2 * step)
        down = value()
    assert gradient.norm() > 1e-6
    assert ((up - down) / 2e-6).item() == pytest.approx(gradient.norm().item(), rel=0.02)


def test_what_came_later_leaves_earlier_digests_alone() -> None:
    """A setting of frames, or of the prior, is part of a network only where it has them."""
    for localization in ("cnn", "polar"):
        plain = ModelConfig(stn=StnConfig(localization=localization)).network()["stn"]  # type: ignore[arg-type]
        assert not {"zoom", "prior", "trust"} & set(plain)
    framed = ModelConfig(stn=StnConfig(localization="moments", prior=True)).network()["stn"]
    assert {"zoom", "prior", "trust"} <= set(framed)


def test_settings_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="multiple of 4"):
        StnConfig(localization="moments", size=46)
    with pytest.raises(ConfigError, match="affine"):
        StnConfig(localization="moments", kind="tps")
    with pytest.raises(ConfigError, match=r"stn\.zoom"):
        StnConfig(zoom=math.inf)
