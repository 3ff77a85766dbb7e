"""Squares of pixels → embeddings that do not depend on their batch-mates.

Shapes: N pictures, S × S pixels, D numbers per vector. torch is imported only where it makes the vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ndd.model.background import Background
from ndd.model.directory import ModelDirectory
from ndd.model.runtime import loaded

if TYPE_CHECKING:
    from ndd.model.checkpoint import Checkpoint

__all__ = ["MICRO_BATCH", "Embedder", "one_thread"]

MICRO_BATCH = 8
"""Pictures per forward pass, always: a shorter rest is padded. Libraries pick their kernels by the shape of the batch and
round differently, so the shape is fixed. 8 is within a quarter of the speed of 16 and wastes half as much on one picture."""

Network = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""(MICRO_BATCH, S, S, 3) uint8 RGB → (MICRO_BATCH, D), unit length."""


class Embedder:
    """Bit-equal vectors on one machine however the work is cut; safe to call from several threads at once."""

    def __init__(self, source: Checkpoint | ModelDirectory) -> None:
        """source: a loaded checkpoint computes with torch; a described directory with what its digest says."""
        self.size = source.config.image_size
        self.dim = source.config.dim
        self.digest = source.embedding_digest
        self._network = _network(source)
        self._background = Background.load(source.directory, dim=self.dim)

    def embed(self, canvas_NSS3: NDArray[np.uint8]) -> NDArray[np.float16]:
        """(N, S, S, 3) uint8 RGB → (N, D) float16, unit length up to rounding. ValueError for another shape or type."""
        if canvas_NSS3.dtype != np.uint8 or canvas_NSS3.shape[1:] != (self.size, self.size, 3):
            raise ValueError(
                f"expected (N, {self.size}, {self.size}, 3) uint8, got {canvas_NSS3.shape} {canvas_NSS3.dtype}"
            )
        vectors = np.empty((len(canvas_NSS3), self.dim), np.float16)
        for start in range(0, len(canvas_NSS3), MICRO_BATCH):
            rows = canvas_NSS3[start : start + MICRO_BATCH]
            padded = np.zeros((MICRO_BATCH, self.size, self.size, 3), np.uint8)
            padded[: len(rows)] = rows
            vectors[start : start + len(rows)] = self._network(padded)[: len(rows)]
        return vectors

    def hubness(self, vectors_ND: NDArray[np.float16]) -> NDArray[np.float64]:
        """(N,) how near each vector is to strangers (`ndd.model.background`); 0 if the model has no background."""
        return np.zeros(len(vectors_ND)) if self._background is None else self._background.hubness(vectors_ND)

    def __call__(self, batch: dict[str, NDArray[np.uint8]]) -> dict[str, NDArray[np.float16]]:
        """{"canvas": (N, S, S, 3)} → {"vector": (N, D)}."""
        return {"vector": self.embed(batch["canvas"])}


def _network(source: Checkpoint | ModelDirectory) -> Network:
    if isinstance(source, ModelDirectory):
        if source.runtime is not None:
            return loaded(source.runtime)
        from ndd.model import checkpoint

        source = checkpoint.load(source.directory)
    return _of_torch(source)


def _of_torch(source: Checkpoint) -> Network:
    import torch

    model = source.model
    device = next(model.parameters()).device

    def network(canvas_BSS3: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode(), one_thread():
            x_B3SS = torch.from_numpy(canvas_BSS3).to(device).permute(0, 3, 1, 2).float().div_(255.0)
            vectors = model(x_B3SS.contiguous(memory_format=torch.channels_last))
            single: NDArray[np.float32] = vectors.float().cpu().numpy()
            return single

    return network


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on the calling thread alone; the runners use more threads or processes, each with pictures of its own."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
