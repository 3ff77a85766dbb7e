"""How a training run is doing, drawn: what collapses shows here epochs before it shows in the loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["health_figure"]

_PANELS: Mapping[str, tuple[str, ...]] = {
    "loss": ("loss", "loss_contrastive", "loss_triplet", "loss_infonce", "loss_teacher", "loss_entropy"),
    "similarity": ("similarity_positive", "similarity_negative", "similarity_nearest_negative"),
    "pose": ("loss_pose", "loss_alignment", "loss_angle", "loss_agreement", "angle_within_15_degrees"),
    "collapse": ("centre_norm", "corner_displacement", "grad_norm"),
    "validation": ("val_mrr", "val_recall_at_1", "val_gap", "val_pose_error_ratio", "val_frame_error_ratio"),
}


def health_figure(history: Sequence[Mapping[str, float]]) -> Any:
    """A matplotlib figure of the epochs in `history`: losses, similarities, the pose, signs of collapse, validation."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 10), layout="constrained")
    for axes, (title, names) in zip(figure.subplots(3, 2).flat, _PANELS.items(), strict=False):
        for name in names:
            points = [(epoch["epoch"] + 1, epoch[name]) for epoch in history if name in epoch]
            if points:
                axes.plot(*zip(*points, strict=True), marker="." if len(points) < 40 else None, label=name)
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize="small")
    return figure
