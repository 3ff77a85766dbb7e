"""A glance at two pictures: do a few of their keypoints lie alike? It decides who is worth a look, not who is a copy.

Strangers that a descriptor or chance votes bring together seldom have four keypoints under one similarity; copies nearly
always have. What their vectors and votes promise counts as well: the nearer two vectors, the fewer keypoints are asked for.
"""

from __future__ import annotations

import math

from ndd.verify.geometry import rank, supporters
from ndd.verify.keypoints import Keypoints
from ndd.verify.whole import guess_turn

__all__ = ["FEW", "LEAST", "glance"]

LEAST = 3.8
"""Keypoints at different places under one similarity, plain or mirrored, from which a pair is worth a look, together with
what it promises (`ndd.stages.match`)."""
FEW = 12
"""Where a picture has fewer than this the two are compared as a whole too."""
_MOST = 4
"""Keypoints that count at most: strangers with a pattern that repeats have more."""


def glance(a: Keypoints, b: Keypoints) -> float:
    """How many keypoints lie alike, four at most; infinite where a picture has FEW and looks, as a whole, like the other,
    turned or mirrored perhaps. a, b: keypoints that vote. The same for (b, a)."""
    if rank(a) > rank(b):
        a, b = b, a
    if min(len(a), len(b)) < FEW and guess_turn(a, b) is not None:
        return math.inf
    alike = supporters(a, b)
    if alike < _MOST:
        alike = max(alike, supporters(a, b.mirrored()))
    return float(min(alike, _MOST))
