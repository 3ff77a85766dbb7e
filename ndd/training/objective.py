"""What a training step makes smaller: the configured losses of a batch, and their weighted sum.

Shapes: B examples, R roles (2 or 3), D numbers of an embedding, A angles, N pictures with teacher features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ndd.losses import (
    alignment_loss,
    angle_agreement_loss,
    angle_loss,
    area_loss,
    contrastive_loss,
    cosine_distance,
    entropy_loss,
    euclidean_distance,
    frame_agreement_loss,
    frame_loss,
    info_nce_loss,
    pose_loss,
    prototype_loss,
    rotation_of,
    triplet_loss,
    turn_between,
    turn_to_upright,
)
from ndd.losses.gather import gather_with_grad
from ndd.training.config import LossConfig
from ndd.training.plan import Batch

__all__ = ["batch_loss"]


def batch_loss(
    batch: Batch,
    z: tuple[Tensor, ...],
    corners: tuple[Tensor, ...],
    scores: Tensor | None,
    config: LossConfig,
    prototypes: Tensor | None,
    *,
    expected: Tensor | None = None,
    zoom: float | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Weighted sum of the configured losses, and each of them by name.

    z: R of (B, D), empty while the localization network is trained alone. corners: R of (B, 4, 2), empty without an STN.
    scores: (R B, A) of the angles, or None. expected: the same with the prior of angles, if there is one. zoom: mean size
    that the STN's frames shall have, as a share of the picture's, if the corners are those of frames, in which angles are
    counted.
    """
    parts: dict[str, Tensor] = {}
    if zoom is not None and scores is not None:
        parts |= _frame_losses(batch, corners, scores, scores if expected is None else expected, config, zoom=zoom)
        corners, scores = (), None
    if z:
        parts[config.kind] = _metric_loss(batch, z, config)
    if z and config.teacher > 0:
        parts["teacher"] = _teacher_loss(batch, z, config, prototypes)
    if z and config.entropy > 0:
        parts["entropy"] = _entropy(batch, z)
    if corners and config.pose > 0:
        parts["pose"] = torch.stack([pose_loss(c, p) for c, p in zip(corners, batch.pose, strict=True)]).mean()
    if scores is not None and config.angle > 0:
        parts["angle"] = angle_loss(scores if expected is None else expected, rotation_of(torch.cat(batch.pose)))
    if scores is not None and config.agreement > 0:
        parts["agreement"] = _agreement(batch, scores)
    if corners and config.alignment > 0:
        parts["alignment"] = _alignment(batch, corners)
    weights = {config.kind: 1.0} | {
        name: getattr(config, name) for name in ("teacher", "entropy", "pose", "angle", "agreement", "alignment")
    }
    return torch.stack([weights[name] * value for name, value in parts.items()]).sum(), parts


def _frame_losses(
    batch: Batch, corners: tuple[Tensor, ...], scores: Tensor, expected: Tensor, config: LossConfig, *, zoom: float
) -> dict[str, Tensor]:
    """What frames that follow their picture are asked for (see `ndd.losses.frames`), under the names of the same wishes.

    Only the upright angle is a matter of `expected`, which has the prior in it: what views agree on must be seen in them.
    """
    parts: dict[str, Tensor] = {}
    same = batch.aligned
    share = same.float().mean()
    if config.pose > 0:
        parts["pose"] = area_loss(torch.cat(corners), zoom=zoom).mean()
    if config.angle > 0:
        upright = turn_to_upright(torch.cat(corners), torch.cat(batch.pose))
        parts["angle"] = angle_loss(expected, upright.angle.detach())
    if not bool(same.any()):
        # Every worker has the same losses and the same gradients to share, also where its part of a batch has no such pair.
        parts |= {"alignment": corners[0].sum() * 0.0, "agreement": scores.sum() * 0.0}
    elif config.alignment + config.agreement > 0:
        (a, b), (h_a, h_b) = ((pair[0][same], pair[1][same]) for pair in (corners, batch.view_to_picture))
        there, back = (
            turn_between(x, y, torch.linalg.solve(h_y, h_x)) for x, y, h_x, h_y in ((a, b, h_a, h_b), (b, a, h_b, h_a))
        )
        parts["alignment"] = frame_loss(there, back).mean() * share
        scores_a, scores_b = (part[same] for part in scores.chunk(len(batch.views))[:2])
        parts["agreement"] = frame_agreement_loss(scores_a, scores_b, there).mean() * share
    return {name: value for name, value in parts.items() if getattr(config, name) > 0}


def _teacher_loss(batch: Batch, z: tuple[Tensor, ...], config: LossConfig, prototypes: Tensor | None) -> Tensor:
    if prototypes is None:
        raise ValueError("loss.teacher is set but there are no teacher features; give them or set loss.teacher to 0")
    # Pictures of label 1 differ between the roles: only the first view's picture is known to the batch.
    known = z if config.kind == "infonce" else z[:1]
    losses = [prototype_loss(v, prototypes, batch.pictures, temperature=config.temperature) for v in known]
    return torch.stack(losses).mean()


def _entropy(batch: Batch, z: tuple[Tensor, ...]) -> Tensor:
    """Over the first two roles. A partner of label 0 is no stranger, also where people said so of two pictures."""
    partners = torch.where(batch.labels == 0, batch.pictures, batch.partners)
    vectors, pictures = torch.cat(z[:2]), torch.cat([batch.pictures, partners])
    all_vectors, all_pictures = gather_with_grad(vectors)[0], gather_with_grad(pictures)[0]
    return entropy_loss(vectors, pictures, all_z_ND=all_vectors, all_pictures_N=all_pictures)


def _alignment(batch: Batch, corners: tuple[Tensor, ...]) -> Tensor:
    """Over the views of one picture, as a share of all examples: so the mean over workers is what one would have got."""
    same = batch.aligned
    if not bool(same.any()):
        return corners[0].sum() * 0.0
    h_a, h_b = batch.view_to_picture[0][same], batch.view_to_picture[1][same]
    return alignment_loss(corners[0][same], corners[1][same], h_a, h_b) * same.float().mean()


def _agreement(batch: Batch, scores: Tensor) -> Tensor:
    """Over the views of one picture, as a share of all examples (see `_alignment`)."""
    same = batch.aligned
    if not bool(same.any()):
        return scores.sum() * 0.0
    a, b = scores.chunk(len(batch.views))[:2]
    turn = rotation_of(batch.pose[1]) - rotation_of(batch.pose[0])
    return angle_agreement_loss(a[same], b[same], turn[same]) * same.float().mean()


def _metric_loss(batch: Batch, z: tuple[Tensor, ...], config: LossConfig) -> Tensor:
    measure = euclidean_distance if config.distance == "euclidean" else cosine_distance
    if config.kind == "contrastive":
        return contrastive_loss(measure(z[0], z[1]), batch.labels, margin=config.margin)
    if config.kind == "triplet":
        return triplet_loss(measure(z[0], z[1]), measure(z[0], z[2]), margin=config.margin)
    (all_a, offset), (all_b, _) = gather_with_grad(z[0]), gather_with_grad(z[1])
    return info_nce_loss(z[0], z[1], temperature=config.temperature, all_a_ND=all_a, all_b_ND=all_b, offset=offset)
