"""InfoNCE over positive pairs, and its relative against fixed prototypes.

Source: van den Oord, Li, Vinyals 2018 (arXiv:1807.03748), eq. 4; in the symmetric form of SimCLR (arXiv:2002.05709, eq. 1).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["entropy_loss", "info_nce_loss", "prototype_loss"]


def info_nce_loss(
    a_BD: Tensor,
    b_BD: Tensor,
    *,
    temperature: float,
    all_a_ND: Tensor | None = None,
    all_b_ND: Tensor | None = None,
    offset: int = 0,
) -> Tensor:
    """Each view must find its partner among all views of the batch, in both directions.

    a, b: (B, D) unit vectors; row i of `a` and row i of `b` are views of one picture. all_a, all_b: (N, D) the views of
    every worker in rank order (default: just these), row `offset + i` being row i here. For the 2 B anchors the
    candidates are the 2 N − 1 other views; the loss is the mean of −log softmax(partner / temperature).
    """
    all_a = a_BD if all_a_ND is None else all_a_ND
    all_b = b_BD if all_b_ND is None else all_b_ND
    batch, total = a_BD.shape[0], all_a.shape[0]
    own = torch.arange(batch, device=a_BD.device) + offset
    everything = torch.cat([all_a, all_b])  # partner of a_i is total + own_i, partner of b_i is own_i
    logits = torch.cat([a_BD, b_BD]) @ everything.T / temperature
    itself = torch.cat([own, own + total])
    logits = logits.scatter(1, itself[:, None], float("-inf"))
    return F.cross_entropy(logits, torch.cat([own + total, own]))


def prototype_loss(z_BD: Tensor, prototypes_ND: Tensor, target_B: Tensor, *, temperature: float) -> Tensor:
    """Each view must find the fixed prototype of its own picture among those of all training pictures.

    z: (B, D) unit vectors. prototypes: (N, D) unit vectors, e.g. a teacher's features of the clean pictures (distillation by
    instance classification; the softmax of Wu et al. 2018, arXiv:1805.01978, eq. 2); similarities are computed in their
    precision. target: (B,) rows.
    """
    similarity = z_BD.to(prototypes_ND.dtype) @ prototypes_ND.T
    wide = torch.promote_types(similarity.dtype, torch.float32)
    return F.cross_entropy(similarity.to(wide) / temperature, target_B)


def entropy_loss(
    z_BD: Tensor, pictures_B: Tensor, *, all_z_ND: Tensor | None = None, all_pictures_N: Tensor | None = None
) -> Tensor:
    """Mean of −log of the distance to the nearest view of another picture: spreads the vectors evenly over the sphere.

    So one threshold suits all pictures, those in dense regions too (the differential-entropy regulariser of Sablayrolles
    et al. 2019, arXiv:1806.03198, eq. 3; used for copies by SSCD, arXiv:2202.10261, §4.2). z: (B, D) unit vectors.
    pictures: (B,) which picture each is a view of. all_z, all_pictures: (N, D) and (N,), those of every worker (default:
    just these). With a single picture the loss is 0.
    """
    everything = z_BD if all_z_ND is None else all_z_ND
    whose = pictures_B if all_pictures_N is None else all_pictures_N
    stranger = pictures_B[:, None] != whose[None, :]
    if not bool(stranger.any()):
        return z_BD.sum() * 0.0
    nearest = (z_BD @ everything.T).masked_fill(~stranger, -2.0).amax(dim=1)
    return -(2.0 - 2.0 * nearest).clamp_min(1e-6).sqrt().log().mean()
