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

from ndd.verify.geometry import lie_alike, rank
from ndd.verify.keypoints import Keypoints
from ndd.verify.whole import guess_turn

__all__ = ["FEATURES", "FEW", "LEAST", "WEIGHTS", "by_looks", "evidence", "glance"]

WEIGHTS = Path(__file__).with_name("glance.json")
"""Bias and weights of FEATURES."""
FEATURES = ("three", "four", "likeness", "worth", "narrow", "wide", "disorder", "standout")
"""three, four: whether so many places lie alike. likeness … disorder: see `ndd.verify.geometry.Alike`. standout: by how
much the two vectors are nearer than they are to strangers (ADR 8); of a model without a background it is their cosine, and a
glance lets most pairs pass."""
LEAST = -3.6
"""Log odds from which a pair is worth a look. Chosen on draws of one album: as many copies lost as by counting before, and a
quarter fewer strangers left (docs/LOG.md, "what a glance weighs")."""
FEW = 12
"""Where a picture has fewer keypoints than this they tell nothing: how the two look as a whole does, or their vectors alone."""
_ALONE = 0.1
"""Standout that is enough then. Of 127 such pairs of 900 photographs 23 of 27 copies have it, and 7 of 100 strangers."""


def glance(a: Keypoints, b: Keypoints, *, standout: float) -> float:
    """Log odds that the two are copies; infinite, one way or the other, where a picture has FEW keypoints. a, b: keypoints that
    vote. The same for (b, a)."""
    said = by_looks(a, b, standout=standout)
    if said is not None:
        return said
    weights = _weights()
    seen = zip(FEATURES, evidence(a, b, standout=standout), strict=True)
    return weights["bias"] + sum(weights[name] * value for name, value in seen)


def by_looks(a: Keypoints, b: Keypoints, *, standout: float) -> float | None:
    """What is said of a pair without its keypoints, of which one picture has FEW: ±inf; None of all others."""
    if min(len(a), len(b)) >= FEW:
        return None
    return math.inf if standout >= _ALONE or _look_alike(a, b) else -math.inf


def evidence(a: Keypoints, b: Keypoints, *, standout: float) -> tuple[float, ...]:
    """The FEATURES of a pair."""
    a, b = _ordered(a, b)
    alike = lie_alike(a, b, enough=4)
    values = {
        **alike._asdict(),
        **{name: float(alike.places >= count) for name, count in (("three", 3), ("four", 4))},
        "standout": standout,
    }
    return tuple(values[name] for name in FEATURES)


def _look_alike(a: Keypoints, b: Keypoints) -> bool:
    """Turned or mirrored perhaps."""
    return guess_turn(*_ordered(a, b)) is not None


def _ordered(a: Keypoints, b: Keypoints) -> tuple[Keypoints, Keypoints]:
    return (b, a) if rank(a) > rank(b) else (a, b)


@functools.cache
def _weights() -> Mapping[str, float]:
    said = json.loads(WEIGHTS.read_bytes())
    return {name: float(said[name]) for name in ("bias", *FEATURES)}
