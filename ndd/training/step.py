"""One training step, the same for every engine: loss of a batch, gradient, update.

Shapes: B examples, R roles (2 or 3), S × S pixels, D numbers of an embedding, N pictures with teacher features.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from itertools import compress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ndd.losses import rotation_of, turn_to_upright
from ndd.model.siamese import SiameseEmbedder
from ndd.model.stn import Pose
from ndd.training.config import OptimConfig, TrainConfig
from ndd.training.objective import batch_loss
from ndd.training.plan import Batch

__all__ = ["Branches", "TrainState", "distribute", "localization_alone", "make_state", "train_step"]


_ANGLE_ERROR = 0.07
"""Standard deviation, radians: about the grid of 48 angles."""


class Branches(nn.Module):
    """Both branches in one forward pass: what DistributedDataParallel wraps."""

    def __init__(self, model: SiameseEmbedder, *, into_stn: bool = True) -> None:
        super().__init__()
        self.model = model
        self.into_stn = into_stn

    def forward(
        self, views_V3SS: Tensor, angle_V: Tensor, *, pose_only: bool = False
    ) -> tuple[Tensor | None, Pose | None]:
        """uint8 or float views → embeddings (V, D) and what the STN learns from.

        The trunk sees the pictures as the STN believes them to be. What the STN learns is told of them turned back by the
        known angle (V,): a wrong guess would leave the rest of the pose without meaning; of frames, before any rotation. No
        embeddings if `pose_only`.
        """
        x = views_V3SS.float().div(255) if views_V3SS.dtype == torch.uint8 else views_V3SS
        x = x.contiguous(memory_format=torch.channels_last)
        if self.model.stn is None:
            return self.model.embed_with_pose(x)
        vectors: Tensor | None
        pose: Pose | None
        if pose_only:
            vectors, pose = None, self.model.stn.predict(x)
        else:
            vectors, pose = self.model.embed_with_pose(x, into_stn=self.into_stn)
        assert pose is not None
        if pose.scores.shape[1] == 0:
            return vectors, pose
        if self.model.stn.has_frames:
            return vectors, self.model.stn.frames(pose)
        theta = self.model.stn.predict_theta(self.model.stn.shrink(x), angle_V)
        return vectors, pose._replace(theta=theta, angle=angle_V)


@dataclass(kw_only=True)
class TrainState:
    """What changes during a run. `branches` is what is called: the module itself or its DDP wrapper."""

    config: TrainConfig
    model: SiameseEmbedder
    branches: nn.Module
    optimizer: torch.optim.Optimizer
    average: SiameseEmbedder
    prototypes: Tensor | None = None
    step: int = 0
    """Updates so far."""
    epoch: int = 0
    """Whole epochs done."""
    done: int = 0
    """Steps done of the epoch under way."""
    figures: list[dict[str, float]] = field(default_factory=list)
    """What those steps returned."""
    seconds: float = 0.0
    """Time spent so far, interruptions left out."""
    plateau: float = 1.0
    """Factor on the learning rate that `schedule = "plateau"` has come to."""
    history: list[dict[str, float]] = field(default_factory=list)

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs; tensors on the CPU."""
        return {
            "config": self.config.to_dict(),
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "epoch": self.epoch,
            "done": self.done,
            "figures": self.figures,
            "seconds": self.seconds,
            "plateau": self.plateau,
            "history": self.history,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.plateau, self.history = state["step"], state["plateau"], list(state["history"])
        self.epoch, self.done = state["epoch"], state.get("done", 0)
        self.figures, self.seconds = list(state.get("figures", [])), state.get("seconds", 0.0)


def make_state(
    config: TrainConfig,
    *,
    device: torch.device | str = "cpu",
    prototypes: Tensor | None = None,
    pretrained: bool | None = None,
) -> TrainState:
    """A fresh run: weights drawn from the seed, identity STN.

    pretrained: False where weights will be loaded into it, so that none are fetched; None for what the config says.
    """
    torch.manual_seed(config.seed)
    network = config.model if pretrained is None else config.model.with_overrides({"pretrained": pretrained})
    model = SiameseEmbedder(network).to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return TrainState(
        config=config,
        model=model,
        branches=Branches(model, into_stn=config.loss.into_stn),
        optimizer=_optimizer(model, config.optim),
        average=copy.deepcopy(model).requires_grad_(False),
        # Half precision: against tens of thousands of prototypes this product would be a tenth of the step.
        prototypes=None
        if prototypes is None
        else prototypes.to(device, torch.bfloat16 if config.precision == "bf16" else torch.float32),
    )


def distribute(state: TrainState) -> None:
    """Let the workers of this process group share every batch: gradients become the mean over them."""
    state.branches = DistributedDataParallel(
        state.branches,
        broadcast_buffers=not state.config.freeze_batchnorm,
        # While the localization network is trained alone the trunk takes no part, and its gradients would be waited for.
        # The transformer without the descriptors' gradient may have parts that none of its own losses reaches.
        find_unused_parameters=localization_alone(state.config, 0) or not state.config.loss.into_stn,
    )


def _optimizer(model: SiameseEmbedder, config: OptimConfig) -> torch.optim.Optimizer:
    groups: list[dict[str, Any]] = []
    for localization in (False, True):
        for decays in (False, True):
            parameters = [
                p
                for name, p in model.named_parameters()
                if name.startswith("stn.") == localization and (p.ndim > 1) == decays
            ]
            share = config.localization_lr if localization else 1.0
            if parameters:
                groups.append({"params": parameters, "weight_decay": config.weight_decay * decays, "share": share})
    kind = torch.optim.Adam if config.name == "adam" else torch.optim.AdamW
    return kind(groups, lr=config.lr, fused=True)


def localization_alone(config: TrainConfig, epoch: int) -> bool:
    """Is `epoch` one of the first ones, in which the localization network is trained by itself?"""
    return epoch < config.alone


def learning_rate(config: TrainConfig, *, progress: float, epoch: int, plateau: float) -> float:
    """Learning rate at a share of the run: linear warm-up, then the schedule, for each of its two parts."""
    optim = config.optim
    first = config.alone / config.epochs
    progress = progress / first if epoch < config.alone else (progress - first) / (1 - first)
    epoch = epoch if epoch < config.alone else epoch - config.alone
    if progress < optim.warmup:
        return optim.lr * (progress + 1e-3) / (optim.warmup + 1e-3)
    if optim.schedule == "cosine":
        return optim.lr * 0.5 * (1 + math.cos(math.pi * (progress - optim.warmup) / (1 - optim.warmup)))
    if optim.schedule == "step":
        return optim.lr * optim.gamma ** (epoch // optim.step_epochs)
    return optim.lr * plateau


def train_step(state: TrainState, batch: Batch, *, progress: float, epoch: int) -> dict[str, float]:
    """Update `state` by one batch; return losses and health figures as numbers."""
    config = state.config
    state.branches.train()
    if config.freeze_batchnorm:
        _freeze_batchnorm(state.model)
    alone = localization_alone(config, epoch)
    rate = learning_rate(config, progress=progress, epoch=epoch, plateau=state.plateau)
    for group in state.optimizer.param_groups:
        group["lr"] = rate * (1.0 if alone else group["share"])
    roles = len(batch.views)
    device = batch.views[0].device
    with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
        vectors, pose = state.branches(torch.cat(batch.views), _known_angles(state, batch), pose_only=alone)
    z = () if vectors is None else vectors.chunk(roles)
    corners: tuple[Tensor, ...] = ()
    scores: Tensor | None = None
    if pose is not None and state.model.stn is not None:
        scored = pose.scores.shape[1] > 0
        corners = state.model.stn.corners(pose.theta, pose.angle if scored else None).chunk(roles)
        scores = pose.scores if scored else None
    expected = None if pose is None or scores is None else pose.expected
    zoom = config.model.stn.zoom if state.model.stn is not None and state.model.stn.has_frames else None
    loss, parts = batch_loss(batch, z, corners, scores, config.loss, state.prototypes, expected=expected, zoom=zoom)
    if not torch.isfinite(loss):
        raise FloatingPointError(
            f"the loss is {loss.item()} at step {state.step}; lower optim.lr or raise loss.temperature"
        )
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(state.model.parameters(), config.optim.clip)
    state.optimizer.step()
    state.step += 1
    _update_average(state)
    figures = {
        "loss": loss,
        "grad_norm": norm,
        **{f"loss_{k}": v for k, v in parts.items()},
        **_health(z, corners, expected, batch, framed=zoom is not None),
    }
    return {"lr": rate, **{name: float(value.detach()) for name, value in figures.items()}}


def _known_angles(state: TrainState, batch: Batch) -> Tensor:
    """(R B,) with an error of a few degrees, as the scored angles have: the rest of the pose must live with it.

    An example's errors follow from the step and its picture, not from its place in the batch, so workers that share a batch
    draw what one would have drawn.
    """
    known = rotation_of(torch.cat(batch.pose))
    if state.model.stn is None or state.model.stn.has_frames:
        return known  # nobody asks
    seeds = ([state.config.seed, state.step, int(picture)] for picture in batch.pictures)
    errors = np.stack(
        [np.random.default_rng(seed).normal(0.0, _ANGLE_ERROR, len(batch.views)) for seed in seeds], axis=1
    )
    return known + torch.from_numpy(errors).flatten().to(known)


def _freeze_batchnorm(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


@torch.no_grad()
def _update_average(state: TrainState) -> None:
    # A young average would remember the random start: let its memory grow with the run (as in TensorFlow's EMA).
    decay = min(state.config.optim.ema, (1 + state.step) / (10 + state.step)) if state.config.optim.ema else 0.0
    means, values = (list(model.state_dict().values()) for model in (state.average, state.model))
    moving = [mean.is_floating_point() for mean in means]
    torch._foreach_lerp_(list(compress(means, moving)), list(compress(values, moving)), 1 - decay)
    for mean, value, moves in zip(means, values, moving, strict=True):
        if not moves:
            mean.copy_(value)


@torch.no_grad()
def _health(
    z: tuple[Tensor, ...], corners: tuple[Tensor, ...], scores: Tensor | None, batch: Batch, *, framed: bool
) -> dict[str, Tensor]:
    """Signs of life: a collapsing model shows in the negatives' similarity and the centre's norm long before the loss."""
    figures = _health_of_vectors(z[0].float(), z[1].float(), batch) if z else {}
    if corners:
        frame = corners[0].new_tensor([[-1, -1], [1, -1], [1, 1], [-1, 1]])
        figures["corner_displacement"] = torch.cat(corners).sub(frame).norm(dim=2).mean()
    if scores is not None:
        best = scores.argmax(dim=1) * (2 * math.pi / scores.shape[1])
        pose = torch.cat(batch.pose)
        upright = turn_to_upright(torch.cat(corners), pose).angle if framed else rotation_of(pose)
        off = torch.remainder(best - upright + math.pi, 2 * math.pi) - math.pi
        figures["angle_within_15_degrees"] = (off.abs() < math.radians(15)).float().mean()
    return figures


def _health_of_vectors(a: Tensor, b: Tensor, batch: Batch) -> dict[str, Tensor]:
    similarity = a @ b.T
    stranger = batch.pictures[:, None] != batch.pictures[None, :]
    same = batch.labels == 0
    own = similarity.diagonal()[same]
    return {
        "similarity_positive": own.mean() if bool(same.any()) else similarity.new_tensor(float("nan")),
        "similarity_negative": similarity[stranger].mean(),
        "similarity_nearest_negative": similarity.masked_fill(~stranger, -1.0).amax(dim=1).mean(),
        "centre_norm": torch.cat([a, b]).mean(dim=0).norm(),
    }
