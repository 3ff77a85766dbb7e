"""One step: schedule, weight decay, moving average, frozen BatchNorm, and that the losses add up."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch

from ndd.errors import ConfigError
from ndd.training.config import TrainConfig
from ndd.training.plan import Batch, make_batch, plan_epoch
from ndd.training.step import TrainState, learning_rate, make_state, train_step
from tests.ndd.training.builders import tiny, tiny_pictures


def batch_of(config: TrainConfig) -> Batch:
    plan = plan_epoch(config, np.arange(24), epoch=0)
    return make_batch(plan, plan.rows(0), tiny_pictures())


def rate(config: TrainConfig, progress: float, epoch: int = 0, plateau: float = 1.0) -> float:
    return learning_rate(config, progress=progress, epoch=epoch, plateau=plateau)


def test_cosine_schedule() -> None:
    config = tiny(optim__lr=1.0, optim__warmup=0.2)
    assert rate(config, 0.0) < 0.01
    assert rate(config, 0.1) == pytest.approx(0.5, abs=0.01)
    assert rate(config, 0.2) == pytest.approx(1.0)
    assert rate(config, 0.6) == pytest.approx(0.5)
    assert rate(config, 1.0) == pytest.approx(0.0)


def test_step_schedule_counts_epochs() -> None:
    config = tiny(optim__schedule="step", optim__lr=1.0, optim__warmup=0.0, optim__step_epochs=10, optim__gamma=0.1)
    assert [rate(config, 0.5, epoch) for epoch in (0, 9, 10, 25)] == pytest.approx([1.0, 1.0, 0.1, 0.01])


def test_plateau_and_constant_schedule() -> None:
    assert rate(tiny(optim__schedule="plateau", optim__lr=2.0, optim__warmup=0.0), 0.5, plateau=0.25) == 0.5
    assert rate(tiny(optim__schedule="constant", optim__lr=2.0, optim__warmup=0.0), 0.9) == 2.0


def test_decay_spares_biases_and_norms_and_the_localization_net_learns_slower() -> None:
    state = make_state(tiny(optim__weight_decay=0.3, optim__localization_lr=0.1))
    names = {id(p): n for n, p in state.model.named_parameters()}
    seen = set()
    for group in state.optimizer.param_groups:
        for p in group["params"]:
            name = names[id(p)]
            seen.add(name)
            assert group["weight_decay"] == (0.3 if p.ndim > 1 else 0.0), name
            assert group["share"] == (0.1 if name.startswith("stn.") else 1.0), name
    assert seen == set(names.values())


def test_optimizer_is_the_one_asked_for() -> None:
    assert type(make_state(tiny(optim__name="adam")).optimizer) is torch.optim.Adam
    assert type(make_state(tiny(optim__name="adamw")).optimizer) is torch.optim.AdamW


@pytest.mark.parametrize("kind", ["contrastive", "triplet", "infonce"])
def test_losses_add_up_with_their_weights(kind: str) -> None:
    config = tiny(loss__kind=kind, loss__alignment=0.3, loss__pose=0.7, loss__teacher=0.5)
    prototypes = torch.nn.functional.normalize(torch.randn(24, 8, generator=torch.Generator().manual_seed(0)))
    figures = train_step(make_state(config, prototypes=prototypes), batch_of(config), progress=0.5, epoch=0)
    total = (
        figures[f"loss_{kind}"]
        + 0.3 * figures["loss_alignment"]
        + 0.7 * figures["loss_pose"]
        + 0.5 * figures["loss_teacher"]
    )
    assert figures["loss"] == pytest.approx(total, rel=1e-5)
    assert all(map(math.isfinite, figures.values()))


@pytest.mark.parametrize("localization", ["polar", "moments"])
def test_entropy_and_angle_are_weighted_too(localization: str) -> None:
    config = tiny(
        model__stn__localization=localization,
        model__stn__angles=8,
        loss__entropy=0.2,
        loss__angle=0.4,
        loss__agreement=0.6,
    )
    figures = train_step(make_state(config), batch_of(config), progress=0.5, epoch=0)
    total = (
        figures["loss_infonce"]
        + 0.2 * figures["loss_entropy"]
        + 0.4 * figures["loss_angle"]
        + 0.6 * figures["loss_agreement"]
        + 0.5 * figures["loss_pose"]
        + 0.5 * figures["loss_alignment"]
    )
    assert figures["loss"] == pytest.approx(total, rel=1e-5)
    assert 0.0 <= figures["angle_within_15_degrees"] <= 1.0


@pytest.mark.parametrize("localization", ["polar", "moments"])
def test_first_epochs_train_the_localization_network_alone(localization: str) -> None:
    config = tiny(
        model__stn__localization=localization, model__stn__angles=8, localization_epochs=1, optim__localization_lr=0.1,
        optim__warmup=0.0, optim__ema=0.0,
    )  # fmt: skip
    state = make_state(config)
    before = {n: p.detach().clone() for n, p in state.model.named_parameters()}
    figures = train_step(state, batch_of(config), progress=0.0, epoch=0)
    changed = {n for n, p in state.model.named_parameters() if not torch.equal(p, before[n])}
    assert changed
    assert all(name.startswith("stn.") for name in changed)
    assert "loss_infonce" not in figures
    assert "similarity_positive" not in figures
    assert state.optimizer.param_groups[-1]["lr"] == pytest.approx(config.optim.lr)  # its share is for later
    figures = train_step(state, batch_of(config), progress=0.5, epoch=1)
    assert "loss_infonce" in figures
    assert state.optimizer.param_groups[-1]["lr"] == pytest.approx(0.1 * config.optim.lr)
    assert any(not torch.equal(p, before[n]) for n, p in state.model.named_parameters() if not n.startswith("stn."))


def test_each_part_of_the_run_has_its_own_schedule() -> None:
    config = tiny(epochs=4, localization_epochs=1, optim__lr=1.0, optim__warmup=0.0)
    assert rate(config, 0.0, 0) == pytest.approx(1.0)
    assert rate(config, 0.125, 0) == pytest.approx(0.5)
    assert rate(config, 0.25, 1) == pytest.approx(1.0)
    assert rate(config, 0.625, 2) == pytest.approx(0.5)
    twin = config.with_overrides({"model.stn.kind": "none"})
    assert rate(twin, 0.125, 0) > 0.9, "one schedule where there is no localization network"


@pytest.mark.parametrize("localization", ["polar", "moments"])
def test_a_network_that_scores_angles_learns_how_a_picture_is_turned(localization: str) -> None:
    config = tiny(
        model__stn__localization=localization, model__stn__angles=16, model__stn__size=32, localization_epochs=1,
        optim__lr=1e-2, optim__schedule="constant", optim__warmup=0.0, ramp=0.0, examples=24, stages=[
            {"until": 1.0, "size": 32, "batch": 24}
        ], edits__rotate=1.0, edits__quarter=0.5, edits__mirror=0.0,
    )  # fmt: skip
    state, batch = make_state(config), batch_of(config)
    figures = [train_step(state, batch, progress=0.0, epoch=0) for _ in range(30)]
    assert figures[-1]["loss_angle"] < 0.5 * figures[0]["loss_angle"]
    assert figures[-1]["angle_within_15_degrees"] > 0.8


def test_frames_learn_to_follow_their_picture() -> None:
    """By the frames' own losses alone, on one batch of squashed and mirrored views."""
    config = tiny(
        model__stn__localization="moments", model__stn__angles=16, model__stn__size=32, model__stn__width=12,
        localization_epochs=1, optim__lr=1e-2, optim__schedule="constant", optim__warmup=0.0, ramp=0.0, examples=24,
        stages=[{"until": 1.0, "size": 32, "batch": 24}], edits__squash=3.0, edits__min_area=1.0, edits__rotate=0.0,
        edits__quarter=0.0, edits__mirror=0.5, edits__pad=0.0, edits__overlay=0.0, edits__perspective=0.0,
    )  # fmt: skip
    state, batch = make_state(config), batch_of(config)
    figures = [train_step(state, batch, progress=0.0, epoch=0) for _ in range(60)]
    assert figures[-1]["loss_alignment"] < 0.6 * figures[0]["loss_alignment"]


def test_a_transformer_that_nothing_trains_is_refused() -> None:
    """What a localization network does not score cannot train it: the usual weights of angles do not count for `cnn`."""
    with pytest.raises(ConfigError, match=r"loss\.into_stn.*loss\.pose, loss\.alignment"):
        tiny(loss__into_stn=False, loss__alignment=0.0, loss__pose=0.0)
    with pytest.raises(ConfigError, match=r"loss\.into_stn.*\(loss\.alignment\)"):
        tiny(model__stn__localization="moments", loss__into_stn=False, loss__alignment=0.0)
    with pytest.raises(ConfigError, match="localization_epochs"):
        tiny(localization_epochs=1, loss__alignment=0.0, loss__pose=0.0)
    tiny(model__stn__kind="none", loss__into_stn=False, loss__alignment=0.0, loss__pose=0.0, loss__angle=0.0,
         loss__agreement=0.0)  # fmt: skip


def test_the_twin_has_no_pose() -> None:
    config = tiny(model__stn__kind="none")
    figures = train_step(make_state(config), batch_of(config), progress=0.5, epoch=0)
    assert not {"loss_pose", "loss_alignment", "corner_displacement"} & set(figures)


def test_a_fixed_batch_is_learnt() -> None:
    config = tiny(optim__lr=3e-3, optim__schedule="constant", optim__warmup=0.0)
    state, batch = make_state(config), batch_of(config)
    losses = [train_step(state, batch, progress=0.5, epoch=0)["loss"] for _ in range(12)]
    assert losses[-1] < 0.6 * losses[0]


def test_moving_average_by_hand() -> None:
    config = tiny(optim__ema=0.5, optim__schedule="constant", optim__warmup=0.0)
    state = make_state(config)
    name = "head.project.weight"
    mean = state.model.state_dict()[name].clone()
    for step in (1, 2, 3):
        train_step(state, batch_of(config), progress=0.5, epoch=0)
        decay = min(0.5, (1 + step) / (10 + step))
        mean = decay * mean + (1 - decay) * state.model.state_dict()[name]
        assert torch.allclose(state.average.state_dict()[name], mean, atol=1e-7)
    counts = [v for n, v in state.average.state_dict().items() if n.endswith("num_batches_tracked")]
    assert all(int(count) == 3 for count in counts)


def test_no_moving_average_means_the_last_weights() -> None:
    config = tiny(optim__ema=0.0)
    state = make_state(config)
    train_step(state, batch_of(config), progress=0.5, epoch=0)
    for mean, value in zip(state.average.state_dict().values(), state.model.state_dict().values(), strict=True):
        assert torch.equal(mean, value)


@pytest.mark.parametrize("frozen", [True, False])
def test_batchnorm_keeps_its_statistics_when_frozen(frozen: bool) -> None:
    config = tiny(freeze_batchnorm=frozen)
    state = make_state(config)
    before = {n: v.clone() for n, v in state.model.state_dict().items() if "running" in n}
    train_step(state, batch_of(config), progress=0.5, epoch=0)
    kept = [torch.equal(state.model.state_dict()[n], v) for n, v in before.items()]
    assert all(kept) if frozen else not any(kept)


def test_gradients_are_clipped_together() -> None:
    config = tiny(optim__clip=1e-3)
    state = make_state(config)
    figures = train_step(state, batch_of(config), progress=0.5, epoch=0)
    norm = torch.stack([p.grad.norm() for p in state.model.parameters() if p.grad is not None]).norm().item()
    assert figures["grad_norm"] > 1e-3
    assert norm == pytest.approx(1e-3, rel=1e-3)


def test_a_loss_that_is_no_number_stops_the_run() -> None:
    state = make_state(tiny())
    with torch.no_grad():
        state.model.head.project.weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match=r"nan.*step 0.*optim\.lr"):
        train_step(state, batch_of(tiny()), progress=0.5, epoch=0)


def test_state_goes_on_exactly() -> None:
    config = tiny()
    batch = batch_of(config)
    whole, first = make_state(config), make_state(config)
    for state in (whole, first):
        train_step(state, batch, progress=0.2, epoch=0)
    second: TrainState = make_state(config.with_overrides({"seed": 9}))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for state in (whole, second):
        train_step(state, batch, progress=0.4, epoch=0)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[name], value), name


def test_health_tells_a_collapse() -> None:
    """A network that says the same of everything: all similarities and the norm of the centre are 1."""
    config = tiny()
    state = make_state(config)
    with torch.no_grad():
        state.model.head.project.weight.zero_()
        state.model.head.project.bias.copy_(torch.arange(8.0))
    figures = train_step(state, batch_of(config), progress=0.5, epoch=0)
    for name in ("similarity_positive", "similarity_negative", "similarity_nearest_negative", "centre_norm"):
        assert figures[name] == pytest.approx(1.0, abs=1e-5), name
    assert figures["corner_displacement"] == 0.0


def test_half_precision_is_near_single_precision() -> None:
    """Every loss, that against prototypes too, kept in half precision; BatchNorm over eight views enlarges what differs."""
    prototypes = torch.nn.functional.normalize(torch.randn(24, 8, generator=torch.Generator().manual_seed(0)))
    found = {}
    for precision in ("fp32", "bf16"):
        config = tiny(precision=precision, loss__teacher=0.5, model__stn__localization="moments", model__stn__width=12)
        state = make_state(config, prototypes=prototypes)
        assert state.prototypes is not None
        assert state.prototypes.dtype == (torch.bfloat16 if precision == "bf16" else torch.float32)
        found[precision] = train_step(state, batch_of(config), progress=0.5, epoch=0)
    for name in ("loss_infonce", "loss_teacher", "loss_alignment", "loss_angle"):
        assert found["bf16"][name] == pytest.approx(found["fp32"][name], rel=0.15), name
