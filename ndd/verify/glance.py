"""A glance at two pictures: what do a few of their keypoints say? It decides who is worth a look, not who is a copy.

Strangers that a descriptor or chance votes bring together seldom have four keypoints under one similarity, and those that have
are less like each other, lie closer together and differ in size as they please. Log odds of a copy by logistic regression,
fitted to the proposals of an edited-copy album (`python -m pipelines glances`, which writes glance.json).
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from pathlib import Path

from ndd.verify.geometry import Alike, lie_alike, rank
from ndd.verify.keypoints import Keypoints
from ndd.verify.whole import guess_turn

__all__ = ["FEATURES", "FEW", "LEAST", "WEIGHTS", "evidence", "glance"]

WEIGHTS = Path(__file__).with_name("glance.json")
"""Bias and weights of FEATURES."""
FEATURES = ("three", "four", "likeness", "worth", "narrow", "wide", "disorder", "standout")
"""three, four: whether so many places lie alike. likeness … disorder: see `ndd.verify.geometry.Alike`. standout: by how much
the two vectors are nearer than they are to strangers (ADR 8)."""
LEAST = -3.4
"""Log odds from which a pair is worth a look."""
FEW = 12
"""Where a picture has fewer than this the two are compared as a whole too."""


def glance(a: Keypoints, b: Keypoints, *, standout: float) -> float:
    """Log odds that the two are copies; infinite where a picture has FEW and looks, as a whole, like the other, turned or
    mirrored perhaps. a, b: keypoints that vote. The same for (b, a)."""
    seen = evidence(a, b, standout=standout)
    if seen is None:
        return math.inf
    weights = _weights()
    return weights["bias"] + sum(weights[name] * value for name, value in zip(FEATURES, seen, strict=True))


def evidence(a: Keypoints, b: Keypoints, *, standout: float) -> tuple[float, ...] | None:
    """The FEATURES of a pair; None where it needs none, since the two look alike as a whole."""
    if rank(a) > rank(b):
        a, b = b, a
    if min(len(a), len(b)) < FEW and guess_turn(a, b) is not None:
        return None
    alike = lie_alike(a, b)
    if alike.places < 4:
        alike = max(alike, lie_alike(a, b.mirrored()), key=_size)
    return (float(alike.places >= 3), float(alike.places >= 4), *alike[1:], standout)


def _size(alike: Alike) -> tuple[int, float]:
    return alike.places, alike.worth


@functools.cache
def _weights() -> Mapping[str, float]:
    said = json.loads(WEIGHTS.read_bytes())
    return {name: float(said[name]) for name in ("bias", *FEATURES)}
