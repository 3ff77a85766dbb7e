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
from ndd.losses.frames import turn_between
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
    """Recall@1 of edited views among clean pictures, mean reciprocal rank, the gap of similarities, and what is left of the
    error of doing nothing: `val_pose_error_ratio` against the known pose, or, of a transformer with frames,
    `val_frame_error_ratio` between the frames of the clean and of the edited picture, rotations left out.

    The edits are the same at every call; `limit` pictures at most, the first of `rows`.
    """
    model.eval()
    rows = rows[:limit]
    device = next(model.parameters()).device
    drawn = draw_edits(np.random.default_rng(11), np.ones(len(rows)), edits)
    clean, edited = [], []
    errors: list[Tensor] = []
    still: list[Tensor] = []
    frames = model.stn is not None and model.stn.has_frames
    for start in range(0, len(rows), batch):
        part = slice(start, start + batch)
        pictures = torch.from_numpy(np.ascontiguousarray(images_NHW3[rows[part]])).to(device).permute(0, 3, 1, 2)
        views = make_views(pictures, drawn[part], size=size)
        small = F.interpolate(pictures.float(), size=(size, size), mode="bilinear", antialias=True, align_corners=False)
        vectors, before = _embed(model, small / 255)
        clean.append(vectors)
        vectors, corners = _embed(model, views.float() / 255)
        edited.append(vectors)
        if corners is not None and before is not None:
            frame = corners.new_tensor([[-1, -1], [1, -1], [1, 1], [-1, 1]]).expand_as(corners)
            if frames:
                h = torch.from_numpy(drawn.view_to_picture[part]).to(device)
                for found, (clean_B42, edited_B42) in ((errors, (before, corners)), (still, (frame, frame))):
                    there = turn_between(clean_B42, edited_B42, torch.linalg.inv(h)).error
                    back = turn_between(edited_B42, clean_B42, h).error
                    found.append((there + back).mean())
            else:
                pose = torch.from_numpy(drawn.pose[part]).to(device)
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
        name = "val_frame_error_ratio" if frames else "val_pose_error_ratio"
        figures[name] = float(torch.stack(errors).mean() / torch.stack(still).mean())
    return figures


def _embed(model: SiameseEmbedder, x: Tensor) -> tuple[Tensor, Tensor | None]:
    vectors, pose = model.embed_with_pose(x.contiguous(memory_format=torch.channels_last))
    return vectors, None if pose is None or model.stn is None else model.stn.corners(pose.theta, pose.angle)
