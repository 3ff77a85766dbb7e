"""Whole training runs by name. A recipe is a function; its twin without the STN differs in `model.stn.kind` alone (and has no
epochs of a localization network alone)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Literal

from ndd.config import ModelConfig, StnConfig
from ndd.data.edits import EditConfig
from ndd.data.sampling import SamplingConfig
from ndd.errors import UsageError
from ndd.training.config import FinishConfig, LossConfig, OptimConfig, Stage, TrainConfig

__all__ = ["RECIPES", "base", "fine_tunes", "loop_cpu", "paper", "paper_proxy", "proxy", "recipe", "small", "smoke_cpu"]


FRAMES = StnConfig(localization="moments", width=24, prior=True, trust=0.0, second=0.75)
"""The localization network whose frames follow affine edits (docs/adr/0010), and a look by each of its angles (0011); the
paper's recipes keep the paper's."""
_ITS_OWN = LossConfig(kind="infonce", alignment=2.0, pose=2.0, angle=1.0, agreement=2.0, into_stn=False)
"""What that network learns, and that nothing else pulls at it."""
_DISTILLED = replace(_ITS_OWN, temperature=0.07, teacher=2.0, entropy=2.0)
_EDITS = EditConfig(squash=2.0, perspective=0.4)
_PLAIN = FinishConfig(background=0, whitening=0.0)


def smoke_cpu() -> TrainConfig:
    """Seconds on one core: does everything run? The model is good for nothing."""
    return TrainConfig(
        model=ModelConfig(image_size=32, dim=16, stn=StnConfig(size=16, width=4)),
        loss=LossConfig(kind="infonce", temperature=0.1),
        stages=(Stage(until=1.0, size=32, batch=8),),
        epochs=2,
        examples=32,
        holdout=0.25,
    )


def small() -> TrainConfig:
    """The shipped kind of network: STN with affine frames and ResNet-18 at 64 pixels, InfoNCE and a teacher's targets.

    Hours on processors, minutes on an accelerator; given more time, set more `epochs` and larger `stages`. A processor with
    bf16 units (AMX, AVX512-BF16) takes `--set precision=bf16`, three times as quick. Needs teacher features (`--teacher`);
    without (`--set loss.teacher=0`) it learns much more slowly. The shipped network's card says which of it was done when.
    """
    return TrainConfig(
        model=ModelConfig(backbone="resnet18", image_size=64, dim=256, stn=FRAMES),
        loss=_DISTILLED,
        edits=_EDITS,
        optim=OptimConfig(name="adamw", lr=1.5e-3, schedule="cosine", warmup=0.01, ema=0.998, localization_lr=1.0),
        stages=(Stage(until=1.0, size=64, batch=128),),
        epochs=100,
        localization_epochs=8,
        examples=12800,
        ramp=0.0,
        holdout=0.05,
    )


def base() -> TrainConfig:
    """The large one, for GPUs: STN with affine frames, ResNet-50, bf16, InfoNCE over all workers, 128, then 224 pixels.

    A pack for it is stored at 288 pixels. With teacher features: `--teacher` and `--set loss.teacher=1`.
    """
    return TrainConfig(
        model=ModelConfig(backbone="resnet50", image_size=224, dim=512, stn=FRAMES),
        loss=replace(_ITS_OWN, temperature=0.05, entropy=2.0),
        edits=_EDITS,
        optim=OptimConfig(name="adamw", lr=1e-3, schedule="cosine", warmup=0.03, ema=0.999, localization_lr=1.0),
        stages=(Stage(until=0.7, size=128, batch=512), Stage(until=1.0, size=224, batch=256)),
        epochs=100,
        ramp=0.3,
        holdout=0.05,
        precision="bf16",
    )


def proxy() -> TrainConfig:
    """The affordable ablation: 8,000 pictures, 112 pixels, 10 epochs of the trunk. Enough to tell two designs apart, not to
    ship one. Before them four epochs of the localization network alone, which cost about as much as one of the trunk's.

    The same pictures and the same cut in every run of a seed, whatever else is `--set`. Needs teacher features, as `small`.
    """
    return TrainConfig(
        model=ModelConfig(backbone="resnet18", image_size=112, dim=256, stn=FRAMES),
        loss=_DISTILLED,
        edits=_EDITS,
        optim=OptimConfig(name="adamw", lr=7.5e-4, schedule="cosine", warmup=0.03, ema=0.99, localization_lr=2.0),
        stages=(Stage(until=1.0, size=112, batch=64),),
        epochs=14,
        localization_epochs=4,
        limit=8000,
        ramp=0.3,
        holdout=0.05,
    )


def loop_cpu() -> TrainConfig:
    """Fine-tuning on people's decisions in at most three minutes on two cores: what the feedback loop runs.

    Starts from a model (`--init`, whose network and picture size it takes over) and needs `--decisions`. A third of the
    triplets are decided ones, the others are made from the album as usual, with strangers that the model finds hard, so that
    what it knew is not forgotten; nor is the transformer pulled by a few hundred triplets (`into_stn`). Triplets and not
    pairs: contrastive loss has distances of its own that it wants, and drew a network that InfoNCE had trained together.
    BatchNorm is left as it is: there are too few pictures to estimate it anew.
    """
    return TrainConfig(
        model=ModelConfig(backbone="resnet18", image_size=48, dim=256),
        loss=LossConfig(kind="triplet", distance="cosine", margin=0.2, alignment=0.5, pose=0.5, into_stn=False),
        sampling=SamplingConfig(hard=0.5, first=0, neighbours=10, pool=1024, decisions=0.33),
        optim=OptimConfig(name="adamw", lr=5e-5, schedule="cosine", warmup=0.1, ema=0.98, localization_lr=0.1),
        stages=(Stage(until=1.0, size=48, batch=32),),
        epochs=3,
        examples=384,
        ramp=0.0,
        holdout=0.1,
        freeze_batchnorm=True,
        # Its descriptors are whitened already.
        finish=FinishConfig(background=0, whitening=0.0, inherit=True),
    )


def paper(
    kind: Literal["contrastive", "triplet"] = "contrastive",
    distance: Literal["euclidean", "cosine"] = "euclidean",
    schedule: Literal["step", "plateau"] = "step",
) -> TrainConfig:
    """As the paper describes it: affine STN and ResNet-50 at 224 pixels, contrastive or triplet loss on the pair and triplet
    streams, Adam with weight decay, StepLR or ReduceLROnPlateau, 25 epochs, a fifth held out; pretrained weights where they
    can be reached (else `--set model.pretrained=false`).

    The STN's own losses are off: it learns from the pairs alone, and the descriptors stay as they come. Our choice, where
    the paper leaves room: the margins, and edits at full strength from the start. Its variants by name:
    `paper[_triplet][_cosine][_plateau]`.
    """
    margins = {"contrastive": {"euclidean": 1.0, "cosine": 0.5}, "triplet": {"euclidean": 0.5, "cosine": 0.3}}
    return TrainConfig(
        model=ModelConfig(backbone="resnet50", image_size=224, dim=256, pooling="avg", pretrained=True),
        loss=LossConfig(kind=kind, distance=distance, margin=margins[kind][distance], alignment=0.0, pose=0.0),
        edits=EditConfig(),
        optim=OptimConfig(
            name="adam",
            lr=1e-4,
            weight_decay=1e-4,
            schedule=schedule,
            step_epochs=10 if schedule == "step" else 3,
            gamma=0.1,
            warmup=0.0,
            ema=0.0,
        ),
        stages=(Stage(until=1.0, size=224, batch=32),),
        epochs=25,
        ramp=0.0,
        finish=_PLAIN,
        holdout=0.2,
    )


def paper_proxy() -> TrainConfig:
    """One fold of five of the paper's run at a proxy's cost: ResNet-18 from scratch, 8,000 pictures, 112 pixels, 10 epochs.

    The others: `--set fold=1` … `--set fold=4`.
    """
    cheap = {
        "model.backbone": "resnet18",
        "model.image_size": 112,
        "model.pretrained": False,
        "optim.lr": 1e-3,
        "optim.step_epochs": 4,
        "stages": [{"until": 1.0, "size": 112, "batch": 64}],
        "epochs": 10,
        "limit": 8000,
        "folds": 5,
    }
    return paper().with_overrides(cheap)


def _without_stn(make: Callable[[], TrainConfig]) -> Callable[[], TrainConfig]:
    def twin() -> TrainConfig:
        """Its trunk is trained as long; the epochs of a localization network alone are none of its own."""
        config = make()
        trunk = {"epochs": config.epochs - config.localization_epochs, "localization_epochs": 0}
        return config.with_overrides({"model.stn.kind": "none", **trunk})

    return twin


def _papers() -> dict[str, Callable[[], TrainConfig]]:
    kinds: tuple[Literal["contrastive", "triplet"], ...] = ("contrastive", "triplet")
    distances: tuple[Literal["euclidean", "cosine"], ...] = ("euclidean", "cosine")
    schedules: tuple[Literal["step", "plateau"], ...] = ("step", "plateau")
    plain = ("contrastive", "euclidean", "step")
    return {
        "_".join(["paper", *(word for word, usual in zip(words, plain, strict=True) if word != usual)]): partial(
            paper, *words
        )
        for words in product(kinds, distances, schedules)
    }


_FULL: dict[str, Callable[[], TrainConfig]] = {
    "smoke_cpu": smoke_cpu,
    "loop_cpu": loop_cpu,
    "small": small,
    "base": base,
    "proxy": proxy,
    "paper_proxy": paper_proxy,
    **_papers(),
}

RECIPES: dict[str, Callable[[], TrainConfig]] = _FULL | {f"{n}_no_stn": _without_stn(f) for n, f in _FULL.items()}
"""Every recipe by the name that the command line knows it by."""


def fine_tunes(name: str) -> bool:
    """Does this recipe go on with a model, rather than make one?"""
    return name in ("loop_cpu", "loop_cpu_no_stn")


def recipe(name: str, *, init: ModelConfig | None = None) -> TrainConfig:
    """The recipe called `name`; UsageError names those there are.

    init: network of the model that the run starts from, which a recipe that fine-tunes takes over.
    """
    if name not in RECIPES:
        raise UsageError(f"--recipe {name}: there is no such recipe; choose one of {', '.join(RECIPES)}")
    config = RECIPES[name]()
    if init is None or not fine_tunes(name):
        return config
    stages = [{"until": stage.until, "size": init.image_size, "batch": stage.batch} for stage in config.stages]
    kind = config.model.stn.kind if name.endswith("_no_stn") else init.stn.kind
    return config.with_overrides({"model": init.to_dict(), "stages": stages}).with_overrides({"model.stn.kind": kind})
