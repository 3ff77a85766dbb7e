"""Losses: pure functions of tensors. Ranks, logging and devices stay outside (`gather.py` alone knows of ranks).

Label convention of the paper, used here and in the streams only: 0 = duplicate, 1 = not.
"""

from ndd.losses.alignment import alignment_loss, angle_agreement_loss, angle_loss, pose_loss, rotation_of
from ndd.losses.contrastive import contrastive_loss, cosine_distance, euclidean_distance
from ndd.losses.frames import area_loss, frame_agreement_loss, frame_loss, turn_between, turn_to_upright
from ndd.losses.infonce import entropy_loss, info_nce_loss, prototype_loss
from ndd.losses.triplet import triplet_loss

__all__ = [
    "alignment_loss",
    "angle_agreement_loss",
    "angle_loss",
    "area_loss",
    "contrastive_loss",
    "cosine_distance",
    "entropy_loss",
    "euclidean_distance",
    "frame_agreement_loss",
    "frame_loss",
    "info_nce_loss",
    "pose_loss",
    "prototype_loss",
    "rotation_of",
    "triplet_loss",
    "turn_between",
    "turn_to_upright",
]
