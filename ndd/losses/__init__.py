"""Losses: pure functions of tensors. Ranks, logging and devices stay outside (`gather.py` alone knows of ranks).

Label convention of the paper, used here and in the streams only: 0 = duplicate, 1 = not.
"""

from ndd.losses.alignment import alignment_loss, pose_loss
from ndd.losses.contrastive import contrastive_loss, cosine_distance, euclidean_distance
from ndd.losses.infonce import info_nce_loss, prototype_loss
from ndd.losses.triplet import triplet_loss

__all__ = [
    "alignment_loss",
    "contrastive_loss",
    "cosine_distance",
    "euclidean_distance",
    "info_nce_loss",
    "pose_loss",
    "prototype_loss",
    "triplet_loss",
]
