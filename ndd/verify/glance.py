"""A glance at two pictures: do a few of their keypoints lie alike? It decides who is worth a look, not who is a copy.

Strangers that a descriptor or chance votes bring together seldom have four keypoints under one similarity; copies nearly
always have. Of the strangers that are proposed one pair in twenty is left.
"""

from __future__ import annotations

from ndd.verify.geometry import rank, supporters
from ndd.verify.keypoints import Keypoints
from ndd.verify.whole import guess_turn

__all__ = ["FEW", "LEAST", "glance"]

LEAST = 4
"""Keypoints at different places under one similarity, plain or mirrored, from which a pair is worth a look …"""
FEW = 12
"""… or, where a picture has fewer than this, as a whole: one looks like the other, turned or mirrored perhaps."""


def glance(a: Keypoints, b: Keypoints) -> bool:
    """Whether the pair is worth a look. a, b: keypoints that vote. The same for (b, a)."""
    if rank(a) > rank(b):
        a, b = b, a
    if min(len(a), len(b)) < FEW and guess_turn(a, b) is not None:
        return True
    return max(supporters(a, b), supporters(a, b.mirrored())) >= LEAST
