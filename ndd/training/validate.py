"""A quick look at a model during training: does each strongly edited view find its own picture among the held-out ones?"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ndd.data.augment import make_views
from ndd.data.edits import EditConfig, draw_edits
from ndd.losses.alignment import pose_loss
from ndd.model.siamese import SiameseEmbedder
from ndd.training.plan import Indexes, Pictures

__all__ = ["split_pictures", "validate"]


def split_pictures(count: int, *, holdout: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row numbers of the training and of the validation pictures, both ascending."""
    order = np.random.default_rng([seed, 7]).permutation(count)
    held = round(holdout * count)
    return np.sort(order[held:]), np.sort(order[:held])


@torch.no_grad()
def validate(
    model: SiameseEmbedder,
    images_NHW3: Pictures,
    rows: Indexes,
    *,
    size: int,
    edits: EditConfig,
    limit: int = 512,
    batch: int = 64,
) -> dict[str, float]:
    """Recall@1 of edited views among clean pictures, mean reciprocal rank, the gap of similarities and the pose error.

    The edits are the same at every call; `limit` pictures at most, the first of `rows`.
    """
    model.eval()
    rows = rows[:limit]
    device = next(model.parameters()).device
    drawn = draw_edits(np.random.default_rng(11), np.ones(len(rows)), edits)
    clean, edited, errors, still = [], [], [], []
    for start in range(0, len(rows), batch):
        part = slice(start, start + batch)
        pictures = torch.from_numpy(np.ascontiguousarray(images_NHW3[rows[part]])).to(device).permute(0, 3, 1, 2)
        views = make_views(pictures, drawn[part], size=size)
        small = F.interpolate(pictures.float(), size=(size, size), mode="bilinear", antialias=True, align_corners=False)
        clean.append(_embed(model, small / 255)[0])
        vectors, corners = _embed(model, views.float() / 255)
        edited.append(vectors)
        if corners is not None:
            pose = torch.from_numpy(drawn.pose[part]).to(device)
            frame = corners.new_tensor([[-1, -1], [1, -1], [1, 1], [-1, 1]]).expand_as(corners)
            errors.append(pose_loss(corners, pose))
            still.append(pose_loss(frame, pose))
    similarity = torch.cat(edited) @ torch.cat(clean).T
    own = similarity.diagonal()
    rank = (similarity > own[:, None]).sum(dim=1) + 1
    figures = {
        "val_recall_at_1": float((rank == 1).float().mean()),
        "val_mrr": float((1.0 / rank).mean()),
        "val_gap": float(
            own.mean()
            - similarity.masked_fill(torch.eye(len(rows), dtype=torch.bool, device=device), -1).amax(1).mean()
        ),
    }
    if errors:
        figures["val_pose_error_ratio"] = float(torch.stack(errors).mean() / torch.stack(still).mean())
    return figures


def _embed(model: SiameseEmbedder, x: Tensor) -> tuple[Tensor, Tensor | None]:
    vectors, pose = model.embed_with_pose(x.contiguous(memory_format=torch.channels_last))
    return vectors, None if pose is None or model.stn is None else model.stn.corners(pose.theta, pose.angle)
