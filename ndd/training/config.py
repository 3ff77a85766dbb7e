"""Everything a training run depends on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ndd.config import Config, ModelConfig, check
from ndd.data.edits import EditConfig
from ndd.data.sampling import SamplingConfig

__all__ = ["LossConfig", "OptimConfig", "Stage", "TrainConfig"]

_OWN_LOSSES = {
    "cnn": ("pose", "alignment"),
    "polar": ("pose", "alignment", "angle", "agreement"),
    # The angles are counted in frames that they do not move, and the size alone says nothing of where to look.
    "moments": ("alignment",),
}
"""What trains a localization network without the descriptors."""


@dataclass(frozen=True, kw_only=True)
class LossConfig(Config):
    """Which losses, with which weights. `kind` also says what stream feeds the run."""

    kind: Literal["contrastive", "triplet", "infonce"] = "infonce"
    """contrastive: labelled pairs; triplet: triplets; infonce: two views of a picture, the rest of the batch as negatives."""
    distance: Literal["cosine", "euclidean"] = "euclidean"
    """Distance inside contrastive and triplet loss."""
    margin: float = 1.0
    """Margin of contrastive and triplet loss, in units of `distance`."""
    temperature: float = 0.07
    """Of InfoNCE and of the teacher's softmax."""
    teacher: float = 0.0
    """Weight of the prototype loss (needs teacher features)."""
    alignment: float = 0.5
    """Weight of the STN's agreement between two views of a picture."""
    pose: float = 0.5
    """Weight of the STN's distance to the known pose; with `moments`, of the distance of its frames from their usual size."""
    angle: float = 0.2
    """Weight of the known angle in the scores of a `polar` or `moments` STN (the others score none)."""
    agreement: float = 1.0
    """Weight of the agreement of a `polar` or `moments` STN's scores between two views of a picture."""
    into_stn: bool = True
    """Do the losses of the descriptors train the STN too? Without, it learns its own task alone, and no descriptor that likes
    to see whole pictures pulls it back to the identity."""
    entropy: float = 0.0
    """Weight of the entropy regulariser, which keeps the nearest other picture away."""

    def __post_init__(self) -> None:
        check(self.margin > 0, f"loss.margin must be positive, got {self.margin}")
        check(self.temperature > 0, f"loss.temperature must be positive, got {self.temperature}")
        for name in ("teacher", "alignment", "pose", "angle", "agreement", "entropy"):
            check(getattr(self, name) >= 0, f"loss.{name} must not be negative, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class OptimConfig(Config):
    """Optimiser and schedule."""

    name: Literal["adam", "adamw"] = "adamw"
    """`adam` couples weight decay with the gradient, as the paper; `adamw` decouples it."""
    lr: float = 2e-3
    weight_decay: float = 0.02
    """Not applied to biases and normalisation."""
    localization_lr: float = 0.5
    """Learning rate of the localization network as a share of `lr`: a pose that jumps ruins what the trunk has learnt."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    schedule: Literal["cosine", "step", "plateau", "constant"] = "cosine"
    warmup: float = 0.03
    """Share of the run in which the rate rises linearly."""
    step_epochs: int = 10
    """step: every so many epochs the rate is multiplied by `gamma`; plateau: patience in epochs."""
    gamma: float = 0.1
    ema: float = 0.998
    """Decay of the weights' moving average, which is what is saved; 0 turns it off."""

    def __post_init__(self) -> None:
        check(self.lr > 0, f"optim.lr must be positive, got {self.lr}")
        check(self.weight_decay >= 0, f"optim.weight_decay must not be negative, got {self.weight_decay}")
        check(0 <= self.localization_lr <= 10, f"optim.localization_lr must lie in 0…10, got {self.localization_lr}")
        check(self.clip > 0, f"optim.clip must be positive, got {self.clip}")
        check(0 <= self.warmup < 1, f"optim.warmup must lie in 0…1, got {self.warmup}")
        check(0 <= self.ema < 1, f"optim.ema must lie in 0…1, got {self.ema}")
        check(self.step_epochs >= 1, f"optim.step_epochs must be at least 1, got {self.step_epochs}")


@dataclass(frozen=True, kw_only=True)
class Stage(Config):
    """A stretch of the run at one resolution."""

    until: float
    """Share of the run at which it ends."""
    size: int
    """Side of the training views, pixels."""
    batch: int
    """Examples per step, over all workers."""


@dataclass(frozen=True, kw_only=True)
class FinishConfig(Config):
    """What is made of the trained network before it is used (see `ndd.training.finish`)."""

    background: int = 4000
    """Training pictures that whitening is learnt from and that distances are judged by; 0 for neither."""
    whitening: float = 0.75
    """Each principal direction of the descriptors is divided by its standard deviation to this power; 0 leaves them."""

    inherit: bool = False
    """Keep the background of the model that the run starts from: for a fine-tuning that hardly moves it, on pictures too few
    for one of their own."""

    def __post_init__(self) -> None:
        check(
            not self.inherit or self.background == 0,
            f"finish.inherit keeps a background and finish.background is {self.background} to make one; set one of them",
        )
        check(self.background >= 0, f"finish.background must not be negative, got {self.background}")
        check(0 <= self.whitening <= 1, f"finish.whitening must lie in 0…1, got {self.whitening}")
        check(
            self.background > 0 or self.whitening == 0,
            f"finish.whitening is {self.whitening} but finish.background is 0: nothing to learn it from; set both to 0",
        )


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Config):
    """A whole training run. The same digest means the same run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    edits: EditConfig = field(default_factory=EditConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    finish: FinishConfig = field(default_factory=FinishConfig)
    stages: tuple[Stage, ...] = (Stage(until=1.0, size=96, batch=96),)
    """Progressive resolution: consecutive stretches, the last until 1."""
    epochs: int = 25
    localization_epochs: int = 0
    """Of these, the first so many train the localization network alone on the known edits: it costs a fraction of the
    trunk, which then learns from pictures that are turned back already. They have a learning-rate schedule of their own, and
    edits at full strength; the curriculum (`ramp`) is the trunk's and begins with it. Without an STN there are none."""
    examples: int | None = None
    """Examples per epoch; all training pictures if None."""
    ramp: float = 0.4
    """Share of the trunk's epochs over which edits grow to full strength: strong edits from the first step converge very
    slowly."""
    start_strength: float = 0.1
    seed: int = 0
    holdout: float = 0.2
    """Share of pictures (by group) kept for validation."""
    folds: int = 0
    """Cut the pictures (by group) into so many folds instead, and hold `fold` out; 0 for the share `holdout`."""
    fold: int = 0
    limit: int | None = None
    """Train on at most so many pictures: those whose content ids come first, hence the same ones in every run."""
    early_stop: int = 0
    """End the run after so many epochs without a better validation, and keep the weights of the best; 0 never does."""
    precision: Literal["fp32", "bf16"] = "fp32"
    freeze_batchnorm: bool = False
    """Keep BatchNorm's statistics as they are (fine-tuning; exact comparison of several workers with one)."""

    def __post_init__(self) -> None:
        check(self.epochs >= 1, f"epochs must be at least 1, got {self.epochs}")
        check(
            0 <= self.localization_epochs < self.epochs,
            f"localization_epochs must lie in 0…{self.epochs - 1} (epochs − 1), got {self.localization_epochs}",
        )
        own = _OWN_LOSSES[self.model.stn.localization]
        trained = self.model.stn.kind == "none" or any(getattr(self.loss, name) > 0 for name in own)
        names = ", ".join(f"loss.{name}" for name in own)
        check(
            self.localization_epochs == 0 or trained,
            f"localization_epochs is set, but of what trains stn.localization {self.model.stn.localization!r} alone "
            f"({names}) all is 0",
        )
        check(
            self.loss.into_stn or trained,
            f"loss.into_stn is false and of what else trains stn.localization {self.model.stn.localization!r} ({names}) "
            "all is 0: set one of them, or loss.into_stn",
        )
        check(len(self.stages) > 0 and self.stages[-1].until == 1.0, "the last of `stages` must have until = 1.0")
        check(
            all(a.until < b.until for a, b in zip(self.stages, self.stages[1:], strict=False)),
            "`stages` must have rising `until`",
        )
        check(all(s.batch >= 2 for s in self.stages), "every stage needs a batch of at least 2")
        check(0 <= self.ramp <= 1, f"ramp must lie in 0…1, got {self.ramp}")
        check(0 <= self.start_strength <= 1, f"start_strength must lie in 0…1, got {self.start_strength}")
        check(0 <= self.holdout < 1, f"holdout must lie in 0…1, got {self.holdout}")
        check(self.examples is None or self.examples >= 2, f"examples must be at least 2, got {self.examples}")
        check(self.folds == 0 or self.folds >= 2, f"folds must be 0 (one cut) or at least 2, got {self.folds}")
        check(0 <= self.fold < max(1, self.folds), f"fold must lie in 0…{max(1, self.folds) - 1}, got {self.fold}")
        check(self.limit is None or self.limit >= 2, f"limit must be at least 2 pictures, got {self.limit}")
        check(self.early_stop >= 0, f"early_stop must not be negative, got {self.early_stop}")
        check(
            self.sampling.hard == 0 or self.loss.kind != "infonce",
            "sampling.hard has no effect with loss.kind 'infonce', whose strangers are the rest of the batch; set it to 0",
        )

    def stage_at(self, progress: float) -> Stage:
        """The stage of a share of the run in [0, 1]."""
        return next(s for s in self.stages if progress < s.until or s.until == 1.0)

    @property
    def alone(self) -> int:
        """The first so many epochs train the localization network alone: `localization_epochs`, 0 where there is none."""
        return 0 if self.model.stn.kind == "none" else self.localization_epochs

    def strength_at(self, progress: float) -> float:
        """Strength of the edits at a share of the run in [0, 1]."""
        first = self.alone / self.epochs
        if self.ramp == 0 or progress < first:
            return 1.0
        grown = (progress - first) / (1.0 - first) / self.ramp
        return min(1.0, self.start_strength + (1.0 - self.start_strength) * grown)
