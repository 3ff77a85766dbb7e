"""Pictures that nobody took: random vectors, hashes and keypoints, the same for the same name."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndd.index.store import Entry, IndexStore
from ndd.known import KnownPicture
from ndd.types import ImageId
from ndd.verify.keypoints import Keypoints

__all__ = ["DIGEST", "DIM", "clusters", "entry", "picture", "store_at"]

DIM = 16
DIGEST = "e" * 64


@functools.cache
def picture(name: object, *, dim: int = DIM, keypoints: int = 3) -> KnownPicture:
    """A picture by name; its vector has unit length."""
    seed = hashlib.sha256(repr(name).encode()).digest()
    random = np.random.default_rng(int.from_bytes(seed[:8], "little"))
    made = random.standard_normal(dim)
    keys = Keypoints(
        points=random.random((keypoints, 2), np.float32),
        scales=random.random(keypoints, np.float32),
        angles=random.random(keypoints, np.float32),
        descriptors=random.integers(0, 256, (keypoints, 128), np.uint8),
        thumb=random.integers(0, 256, (4, 6), np.uint8),
        width=60,
        height=40,
    )
    return KnownPicture(
        id=ImageId(seed.hex()),
        vector=(made / np.linalg.norm(made)).astype(np.float16).reshape(1, -1),
        hashes=random.integers(0, 256, (8, 32), np.uint8),
        facts={"quality": 90, "flat": False, "hubness": 0.0},
        keys=keys,
    )


def entry(id: str, name: object = None, **metadata: Any) -> Entry:
    """An entry under `id`; the picture goes by the same name unless another is given."""
    return Entry(id=id, picture=picture(id if name is None else name), metadata=metadata)


def store_at(root: Path, **settings: Any) -> IndexStore:
    """A new, empty store."""
    return IndexStore.create(root, embedding_digest=DIGEST, dim=DIM, **settings)


def clusters(count: int, dim: int, *, groups: int, seed: int = 0, spread: float = 0.05) -> NDArray[np.float16]:
    """(count, dim) unit vectors around `groups` random centres."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((groups, dim)).astype(np.float32) / np.float32(dim**0.5)
    made = centres[random.integers(0, groups, count)] + spread * random.standard_normal((count, dim), np.float32)
    return np.asarray(made / np.linalg.norm(made, axis=1, keepdims=True), np.float16)
