"""What is made of a trained network before it is used: whitened descriptors, and a background to judge distances by.

Shapes: N pictures, D numbers per vector.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ndd.images import to_square
from ndd.model.background import NEAREST, Background
from ndd.model.siamese import SiameseEmbedder
from ndd.training.config import FinishConfig
from ndd.training.plan import Indexes, Pictures

__all__ = ["finish", "whiten"]

_BATCH = 64
_LEAST = 4
"""Pictures per dimension below which the weak directions are guesses, and the descriptors are left as they are."""


@torch.no_grad()
def finish(
    model: SiameseEmbedder,
    images_NHW3: Pictures,
    rows: Indexes,
    config: FinishConfig,
    *,
    seed: int,
    init: Path | None = None,
) -> Background | None:
    """Whiten `model` in place and give its background, both from at most `config.background` of the pictures `rows`.

    The pictures are those it was trained on: what is known about them is not news. None where `config` wants neither. init:
    the model directory that the run started from, whose background `config.inherit` keeps.
    """
    if config.inherit and init is not None:
        return Background.load(init, dim=model.config.dim)
    if config.background == 0:
        return None
    chosen = np.sort(np.random.default_rng([seed, 0x57]).permutation(rows)[: config.background])
    if len(chosen) <= NEAREST:
        return None
    projected = _projected(model, images_NHW3, chosen)
    if config.whitening > 0 and len(chosen) >= _LEAST * model.config.dim:
        projected = whiten(model, projected, power=config.whitening)
    vectors = torch.nn.functional.normalize(projected, dim=1)
    return Background(vectors.numpy().astype(np.float16))


@torch.no_grad()
def whiten(model: SiameseEmbedder, projected_ND: Tensor, *, power: float) -> Tensor:
    """Fold a partial whitening of the descriptors into the projection; (N, D) what `projected` becomes.

    projected: (N, D) outputs of the projection, before they get unit length. They are centred, and each principal
    direction is divided by its standard deviation to `power`: 1 whitens fully (Jégou & Chum 2012, "Negative evidences and
    co-occurrences in image retrieval", §3), which also blows up the directions that carry noise. The directions are turned
    back, so that training can go on from the result.
    """
    x = projected_ND.double()
    mean = x.mean(dim=0)
    covariance = (x - mean).T @ (x - mean) / len(x)
    variance, directions = torch.linalg.eigh(covariance)
    # Relative to the mean variance: the vectors keep about their length, which later training may rely on. The floor is
    # for directions that are not used at all; shrinkage by D / (N + D) cost .013 of µAP.
    size = float(variance.mean())
    scale = (variance / size).clamp_min(1e-4) ** (-power / 2)
    turn = (directions * scale) @ directions.T
    project = model.head.project
    weight, bias = project.weight.double().cpu(), project.bias.double().cpu()
    project.weight.copy_(turn @ weight)
    project.bias.copy_(turn @ (bias - mean))
    whitened: Tensor = (x - mean) @ turn
    return whitened.float()


def _projected(model: SiameseEmbedder, images_NHW3: Pictures, rows: Indexes) -> Tensor:
    """(N, D) outputs of the projection for the pictures as they are, seen as a search sees them."""
    side, device = model.config.image_size, model.head.project.weight.device
    training = model.training
    model.eval()
    parts = []
    for start in range(0, len(rows), _BATCH):
        stored = images_NHW3[rows[start : start + _BATCH]]
        squares = np.stack([to_square(np.ascontiguousarray(picture), side) for picture in stored])
        x_B3SS = torch.from_numpy(squares).to(device).permute(0, 3, 1, 2).float().div_(255.0)
        parts.append(model.head.project(model.pooled(x_B3SS.contiguous(memory_format=torch.channels_last))).cpu())
    model.train(training)
    return torch.cat(parts).float()
