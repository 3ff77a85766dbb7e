"""What is made of a trained network before it is used: whitened descriptors, and a background to judge distances by.

Shapes: N pictures, V edited views of them, C channels of the pooled features, D numbers per vector.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ndd.data.augment import make_views
from ndd.data.edits import draw_edits
from ndd.images import to_square
from ndd.model.background import NEAREST, Background
from ndd.model.siamese import SiameseEmbedder
from ndd.training.config import TrainConfig
from ndd.training.plan import Indexes, Pictures

__all__ = ["finish", "whiten", "whiten_within"]

_BATCH = 64
_LEAST = 4
"""Samples per dimension below which the weak directions are guesses, and the descriptors are left as they are."""
_SHRINKAGE = 0.2
"""Share of the sphere in the covariance of what edits change. On two albums .02 to .4 were alike (docs/LOG.md, "what edits
change")."""


@torch.no_grad()
def finish(
    model: SiameseEmbedder, images_NHW3: Pictures, rows: Indexes, config: TrainConfig, *, init: Path | None = None
) -> Background | None:
    """Whiten `model` in place and give its background, both from at most `finish.background` of the pictures `rows`.

    The pictures are those it was trained on: what is known about them is not news. None where `config` wants neither. init:
    the model directory that the run started from, whose background `finish.inherit` keeps.
    """
    wanted, dim = config.finish, config.model.dim
    if wanted.inherit and init is not None:
        return Background.load(init, dim=dim)
    if wanted.background == 0:
        return None
    chosen = np.sort(np.random.default_rng([config.seed, 0x57]).permutation(rows)[: wanted.background])
    if len(chosen) <= NEAREST:
        return None
    pooled = _pooled(model, images_NHW3, chosen)
    channels = pooled.shape[1]
    enough = len(chosen) >= _LEAST * dim
    if wanted.views > 0 and enough and dim <= channels and wanted.views * len(chosen) >= _LEAST * channels:
        views, of = _edited(model, images_NHW3, chosen, config)
        whiten_within(model, pooled, views, of)
    elif wanted.whitening > 0 and enough:
        whiten(model, _projected(model, pooled), power=wanted.whitening)
    vectors = torch.nn.functional.normalize(_projected(model, pooled), dim=1)
    return Background(vectors.numpy().astype(np.float16))


@torch.no_grad()
def whiten_within(
    model: SiameseEmbedder,
    pooled_NC: Tensor,
    views_VC: Tensor,
    of_V: NDArray[np.integer],
    *,
    shrinkage: float = _SHRINKAGE,
) -> None:
    """Put a learned whitening in the place of the projection: what edits change counts for less.

    pooled: the pooled features of N pictures. views: those of edited views of them, `of` (V,) saying of which. C ≥ D.
    Features are divided by the standard deviation that views have around the mean of their picture, direction by direction;
    of what is left the D directions stay in which pictures differ most (Mikolajczyk & Matas 2007, "Improving descriptors for
    fast tree matching by optimal linear projection"; Radenović, Tolias & Chum 2018, arXiv:1711.02512, §4.2; Fisher's linear
    discriminant). Whitening by the variance of pictures alone (`whiten`) also blows up directions that are weak because
    nothing but edits moves them. The result is turned to lie as near as it can to what the projection gave before (orthogonal
    Procrustes), and has its mean length, so that training can go on from it.
    """
    clean, views = pooled_NC.double(), views_VC.double()
    of = torch.from_numpy(np.asarray(of_V, np.int64))
    count = len(clean)
    total = clean.clone().index_add_(0, of, views)
    mean_of = total / (1 + torch.bincount(of, minlength=count))[:, None]
    off = torch.cat([clean - mean_of, views - mean_of[of]])
    within = off.T @ off / (len(off) - count)
    size = within.diagonal().mean().clamp_min(1e-12)
    within = (1 - shrinkage) * within + shrinkage * size * torch.eye(len(within), dtype=within.dtype)
    variance, directions = torch.linalg.eigh(within)
    sphere = (directions * variance.clamp_min(1e-6 * size).rsqrt()) @ directions.T
    mean = clean.mean(dim=0)
    even = (clean - mean) @ sphere
    _, directions = torch.linalg.eigh(even.T @ even / count)
    kept = directions[:, -model.config.dim :]
    project = model.head.project
    before = (clean - mean) @ project.weight.double().cpu().T
    after = even @ kept
    left, _, right = torch.linalg.svd(after.T @ before)
    scale = before.norm(dim=1).mean() / after.norm(dim=1).mean()
    matrix = scale * (sphere @ kept @ left @ right).T
    project.weight.copy_(matrix)
    project.bias.copy_(-matrix @ mean)


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


def _projected(model: SiameseEmbedder, pooled_NC: Tensor) -> Tensor:
    """(N, D) outputs of the projection, before they get unit length."""
    project = model.head.project
    projected: Tensor = project(pooled_NC.to(project.weight.device)).float().cpu()
    return projected


def _pooled(model: SiameseEmbedder, images_NHW3: Pictures, rows: Indexes) -> Tensor:
    """(N, C) features of the pictures as they are, seen as a search sees them."""
    side, parts = model.config.image_size, []
    for start in range(0, len(rows), _BATCH):
        stored = images_NHW3[rows[start : start + _BATCH]]
        squares = np.stack([to_square(np.ascontiguousarray(picture), side) for picture in stored])
        parts.append(_seen(model, torch.from_numpy(squares).permute(0, 3, 1, 2)))
    return torch.cat(parts)


def _edited(
    model: SiameseEmbedder, images_NHW3: Pictures, rows: Indexes, config: TrainConfig
) -> tuple[Tensor, NDArray[np.int64]]:
    """(V, C) features of `finish.views` views of each picture, every other one edited half as strongly, as in training; and
    (V,) the place of its picture among `rows`."""
    parts, of = [], []
    for start in range(0, len(rows), _BATCH):
        rng = np.random.default_rng([config.seed, 0x59, start])
        at = np.arange(start, min(start + _BATCH, len(rows)))
        pictures, others = (_stored(images_NHW3, some) for some in (rows[at], rng.choice(rows, len(at))))
        for number in range(config.finish.views):
            edits = draw_edits(rng, np.full(len(at), 1.0 if number % 2 else 0.5), config.edits)
            parts.append(_seen(model, make_views(pictures, edits, size=model.config.image_size, others_V3HW=others)))
            of.append(at)
    return torch.cat(parts), np.concatenate(of)


def _stored(images_NHW3: Pictures, rows: Indexes) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(images_NHW3[rows])).permute(0, 3, 1, 2)


def _seen(model: SiameseEmbedder, x_B3SS: Tensor) -> Tensor:
    """(B, C) features of uint8 pictures, by the network as it will be used."""
    training = model.training
    model.eval()
    x = x_B3SS.to(model.head.project.weight.device).float().div_(255.0)
    pooled = model.pooled(x.contiguous(memory_format=torch.channels_last)).float().cpu()
    model.train(training)
    return pooled
