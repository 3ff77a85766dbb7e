"""Hard negatives of a run: the nearest strangers by the averaged weights, looked for at the start of an epoch.

What was found is kept in the run directory until it is looked for again, since a run that goes on within an epoch must
draw the same examples, though its weights have moved on.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ndd.data.sampling import DecidedPairs, HardNegatives, Indexes, mine
from ndd.files import atomic_path
from ndd.training.plan import Pictures
from ndd.training.step import TrainState
from ndd.training.workers import Share, from_first

__all__ = ["embed_rows", "hard_negatives"]

_POOL = 5
"""What this generator is for; see `ndd.training.plan`."""


def hard_negatives(
    state: TrainState,
    images_NHW3: Pictures,
    training: Indexes,
    run: Path,
    *,
    epoch: int,
    share: Share,
    decided: DecidedPairs | None = None,
) -> HardNegatives | None:
    """Those to use in `epoch`, the same on every worker; None if the configuration wants none (yet).

    The first worker looks for them and the others wait.
    """
    sampling = state.config.sampling
    if sampling.hard == 0 or epoch < sampling.first:
        return None
    since = epoch - (epoch - sampling.first) % sampling.every
    found = None
    if share.first:
        path = run / f"hard-{since:04}.npz"
        found = _read(path)
        if found is None:
            found = _mine(state, images_NHW3, training, epoch, decided)
            for old in run.glob("hard-*.npz"):
                old.unlink()
            with atomic_path(path) as temporary, open(temporary, "wb") as file:
                np.savez(file, rows=found.rows, neighbours=found.neighbours)
    return from_first(found)


def _mine(
    state: TrainState, images: Pictures, training: Indexes, epoch: int, decided: DecidedPairs | None
) -> HardNegatives:
    config, sampling = state.config, state.config.sampling
    rng = np.random.default_rng([config.seed, epoch, _POOL])
    rows = training
    if len(training) > sampling.pool:
        rows = np.sort(rng.choice(training, sampling.pool, replace=False))
    size = config.stage_at(epoch / config.epochs).size
    return mine(
        embed_rows(state.average, images, rows, size=size),
        rows,
        neighbours=sampling.neighbours,
        ceiling=sampling.ceiling,
        duplicates=[] if decided is None else [(int(a), int(b)) for a, b in decided.duplicates],
    )


@torch.no_grad()
def embed_rows(
    model: torch.nn.Module, images_NHW3: Pictures, rows: Indexes, *, size: int, batch: int = 64
) -> NDArray[np.float32]:
    """(P, D) embeddings of the unedited pictures `rows`, seen at `size` pixels."""
    model.eval()
    device = next(model.parameters()).device
    found: list[Tensor] = []
    for start in range(0, len(rows), batch):
        pixels = np.ascontiguousarray(images_NHW3[rows[start : start + batch]])
        pictures = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float()
        small = F.interpolate(pictures, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
        found.append(model((small / 255).contiguous(memory_format=torch.channels_last)).float().cpu())
    vectors: NDArray[np.float32] = torch.cat(found).numpy()
    return vectors


def _read(path: Path) -> HardNegatives | None:
    """None if it is not there or cannot be read: then they are looked for again."""
    try:
        with np.load(path, allow_pickle=False) as kept:
            return HardNegatives(rows=kept["rows"], neighbours=kept["neighbours"])
    except (OSError, ValueError, KeyError):
        return None
