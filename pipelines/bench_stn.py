"""What the spatial transformer of a model does: does it find the pose, is it needed, and what does it cost.

**Alignment.** From each photograph two views are cut without any fill colour: x, and Tx under a known edit T. The
transformer says for each where its canonical frame lies, by four corners. Corners of θ(x) mapped by T should be the corners
of θ(Tx). Two errors, each as a ratio of what the identity gives:

* `picture`: their distance in the coordinates of Tx, [-1, 1]. A constant θ that zooms in makes it small for nothing;
* `frame`: the same distance seen from the canonical frame, θ(Tx)⁻¹ T θ(x) against the identity. No constant θ gets below 1
  on rotations and squashes, because A⁻¹ M A has a Frobenius norm of at least M's where M is normal.

A family passes where BOTH are below its limit.

**Need.** Recall at 99 % precision on an album, with θ as predicted and with θ forced to the identity, same weights.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ndd.errors import UsageError
from ndd.metrics.retrieval import evaluate_groups
from ndd.model.checkpoint import Checkpoint
from ndd.model.siamese import SiameseEmbedder
from ndd.stages.embed import MICRO_BATCH, Embedder
from pipelines.accuracy import figures_of
from pipelines.album import Album
from pipelines.bench_methods import embed_album, standout_rows

__all__ = ["LIMITS", "NEEDED_ON", "Align", "alignment", "cost", "edits", "measure", "need", "table", "without_stn"]

LIMITS: Mapping[str, float | None] = {"rotation": 0.5, "squash": 0.6, "perspective": 0.7, "crop": None, "quarter": None}
"""Family → the ratio it has to stay below; None is reported only."""
NEEDED_ON = ("rotation", "perspective", "quarter_turn")
"""Families of the album on which the transformer has to earn its place."""

Matrix = NDArray[np.float64]
Align = Callable[[Tensor], tuple[Tensor, Tensor]]
"""(B, 3, S, S) in [0, 1] → (warped, corners (B, 4, 2) of the canonical frame in the picture, [-1, 1])."""

_FRAME = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float64)
_WINDOW = 0.65
"""Half side of x in the photograph's square: a rotated x still lies inside."""
_PRECISION = "0.99"


def edits(family: str, rng: np.random.Generator) -> Matrix:
    """A 3×3 homography of the family: where a point of Tx lies in x, both in [-1, 1]."""
    matrix = np.eye(3)
    if family == "rotation":
        angle = np.deg2rad(rng.uniform(10, 45)) * rng.choice((-1, 1))
        matrix[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    elif family == "quarter":
        matrix[:2, :2] = np.rint(np.linalg.matrix_power(np.array([[0.0, -1.0], [1.0, 0.0]]), int(rng.integers(1, 4))))
    elif family == "squash":
        axis = int(rng.integers(2))  # either: a frame collapsed along one axis would not see it squashed
        matrix[axis, axis] = rng.uniform(0.5, 0.8)
    elif family == "perspective":
        inwards = -_FRAME * rng.uniform(0.1, 0.5, (4, 2))
        matrix = homography(_FRAME, _FRAME + inwards)
    elif family == "crop":
        half = np.sqrt(rng.uniform(0.3, 0.8))
        matrix[:2, :2] *= half
        matrix[:2, 2] = rng.uniform(-1, 1, 2) * (1 - half)
    else:
        raise UsageError(f"family {family}: known are {', '.join(LIMITS)}")
    return matrix


def alignment(align: Align, photographs: Sequence[NDArray[np.uint8]], *, size: int, seed: int = 0) -> dict[str, Any]:
    """Family → `picture` and `frame` ratios (see the module), limit and whether it is kept. size: S of the model."""
    figures: dict[str, Any] = {}
    for family, limit in LIMITS.items():
        rng = np.random.default_rng([seed, sum(map(ord, family))])
        maps = [edits(family, rng) for _ in photographs]
        still = _corners(align, [_view(pixels, np.eye(3), size) for pixels in photographs])
        moved = _corners(align, [_view(pixels, map_, size) for pixels, map_ in zip(photographs, maps, strict=True)])
        errors = np.array([_errors(*args) for args in zip(maps, still, moved, strict=True)])
        nothing = np.array([_errors(map_, _FRAME, _FRAME) for map_ in maps])
        picture, frame = errors.mean(axis=0) / nothing.mean(axis=0)
        figures[family] = {"picture": float(picture), "frame": float(frame), "limit": limit, "pairs": len(maps)}
        if limit is not None:
            figures[family]["kept"] = bool(max(picture, frame) < limit)
    return figures


def homography(source: Matrix, target: Matrix) -> Matrix:
    """3×3 matrix that takes four points to four points."""
    return np.asarray(cv2.getPerspectiveTransform(source.astype(np.float32), target.astype(np.float32)), np.float64)


def _inverse(matrix: Matrix) -> Matrix:
    return np.asarray(np.linalg.inv(matrix), np.float64)


def _mapped(matrix: Matrix, points: Matrix) -> Matrix:
    projected = np.column_stack((points, np.ones(len(points)))) @ matrix.T
    result: Matrix = projected[:, :2] / projected[:, 2:]
    return result


def _errors(of_copy: Matrix, still: Matrix, moved: Matrix) -> tuple[float, float]:
    """(picture, frame) errors of one pair. of_copy: from Tx to x; still, moved: corners (4, 2) of θ(x) and θ(Tx)."""
    expected = _mapped(_inverse(of_copy), still)
    picture = np.linalg.norm(expected - moved, axis=1).mean()
    seen = _mapped(_inverse(homography(_FRAME, moved)), expected)
    return float(picture), float(np.linalg.norm(seen - _FRAME, axis=1).mean())


def _view(pixels: NDArray[np.uint8], of_copy: Matrix, size: int) -> NDArray[np.uint8]:
    """(size, size, 3): the photograph's central square under the window and the edit, sampled four-fold."""
    height, width = pixels.shape[:2]
    side, fine = min(height, width), 2 * size
    # Output pixel → [-1, 1] → x → the photograph's pixels.
    normal = np.array([[2 / fine, 0, 1 / fine - 1], [0, 2 / fine, 1 / fine - 1], [0, 0, 1]])
    half = _WINDOW * side / 2
    photo = np.array([[half, 0, width / 2 - 0.5], [0, half, height / 2 - 0.5], [0, 0, 1]])
    matrix = photo @ of_copy @ normal
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    view = cv2.warpPerspective(pixels, matrix, (fine, fine), flags=flags, borderMode=cv2.BORDER_REFLECT)
    return np.asarray(cv2.resize(view, (size, size), interpolation=cv2.INTER_AREA), np.uint8)


def _corners(align: Align, views: Sequence[NDArray[np.uint8]]) -> Matrix:
    """(N, 4, 2) of the views."""
    found = []
    for start in range(0, len(views), 32):
        batch = torch.from_numpy(np.stack(views[start : start + 32])).permute(0, 3, 1, 2).float() / 255
        found.append(align(batch)[1].double().numpy())
    return np.concatenate(found)


def without_stn(model: SiameseEmbedder) -> SiameseEmbedder:
    """The same network, its weights shared, with θ forced to the identity."""
    plain = copy.copy(model)
    plain._modules = dict(model._modules)
    plain.stn = None
    return plain


def need(album: Album, checkpoint: Checkpoint) -> dict[str, Any]:
    """Recall at 99 % precision with and without the transformer, overall and over the copies of NEEDED_ON together."""
    groups = [row.group for row in album.images]
    figures: dict[str, Any] = {}
    for name, model in (("predicted", checkpoint.model), ("identity", without_stn(checkpoint.model))):
        vectors = embed_album(album, replace(checkpoint, model=model))
        result = evaluate_groups(standout_rows(vectors, checkpoint), groups)
        of = figures_of(album, result)
        families = [of["families"][family] for family in NEEDED_ON if family in of["families"]]
        if not families:
            raise UsageError(f"{album.root.name}: holds no copies of {', '.join(NEEDED_ON)}; name another album")
        copies = sum(family["copies"] for family in families)
        moved = sum(family["copies"] * family["recall"][_PRECISION] for family in families) / copies
        figures[name] = {"map": of["map"], "recall": of["recall"][_PRECISION]["recall"], "recall_moved": moved}
    figures["loss"] = figures["predicted"]["recall_moved"] - figures["identity"]["recall_moved"]
    return figures


def cost(checkpoint: Checkpoint, *, rounds: int = 10) -> dict[str, Any]:
    """Parameters, multiply-adds for one picture and pictures per second of processor time, with and without."""
    size = checkpoint.config.image_size
    models = {"with": checkpoint.model, "without": without_stn(checkpoint.model)}
    canvases = np.random.default_rng(0).integers(0, 256, (2 * MICRO_BATCH, size, size, 3), np.uint8)
    embedders = {name: Embedder(replace(checkpoint, model=model)) for name, model in models.items()}
    spent: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(rounds + 1):
        for name, embedder in embedders.items():  # interleaved: the machine's other work falls on both
            start = time.process_time()
            embedder.embed(canvases)
            if turn:  # the first round warms up
                spent[name].append(time.process_time() - start)
    figures: dict[str, Any] = {}
    for name, model in models.items():
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            model(torch.zeros(1, 3, size, size))
        figures[name] = {
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "macs": counter.get_total_flops() // 2,
            "images_per_second": len(canvases) / float(np.median(spent[name])),
        }
    return figures


def measure(album: Album, checkpoint: Checkpoint, photographs: Sequence[NDArray[np.uint8]]) -> dict[str, Any]:
    """All of it as plain JSON values. Raises UsageError for a model without a transformer."""
    if checkpoint.model.stn is None:
        raise UsageError(f"{checkpoint.directory}: this model has no spatial transformer; there is nothing to measure")
    return {
        "model": checkpoint.directory.name,
        "embedding_digest": checkpoint.embedding_digest,
        "alignment": alignment(checkpoint.model.align, photographs, size=checkpoint.config.image_size),
        "first_look": _first_look(checkpoint, photographs),
        "need": need(album, checkpoint),
        "cost": cost(checkpoint),
    }


def _first_look(checkpoint: Checkpoint, photographs: Sequence[NDArray[np.uint8]]) -> dict[str, Any] | None:
    """The alignment of the other pose of a transformer with two looks; None for one."""
    if not checkpoint.config.stn.second:
        return None
    return alignment(partial(checkpoint.model.align, look=0), photographs, size=checkpoint.config.image_size)


def table(figures: Mapping[str, Any]) -> str:
    """The figures for people."""
    return "\n".join(_lines(figures))


def _lines(figures: Mapping[str, Any]) -> Iterator[str]:
    yield f"{'alignment':<14}{'picture':>9}{'frame':>9}{'limit':>13}   (error as a share of the identity's)"
    for family, of in figures["alignment"].items():
        limit = "-" if of["limit"] is None else f"{of['limit']:.1f}{' kept' if of['kept'] else ' MISSED'}"
        yield f"{family:<14}{of['picture']:>9.3f}{of['frame']:>9.3f}{limit:>13}"
    if figures["first_look"]:
        yield "\nthe first of two looks, which turns with the picture, upright or not:"
        for family, of in figures["first_look"].items():
            yield f"{family:<14}{of['picture']:>9.3f}{of['frame']:>9.3f}"
    need_of = figures["need"]
    yield f"\n{'θ':<14}{'mAP':>9}{'R@P99':>9}{'moved':>9}   (moved: {', '.join(NEEDED_ON)})"
    for name in ("predicted", "identity"):
        yield f"{name:<14}" + "".join(f"{need_of[name][of]:>9.3f}" for of in ("map", "recall", "recall_moved"))
    yield f"{'loss':<14}{'':>18}{need_of['loss']:>9.3f}"
    yield f"\n{'STN':<14}{'parameters':>12}{'MMACs':>9}{'images/s':>10}   (per second of one core, torch)"
    for name, of in figures["cost"].items():
        yield f"{name:<14}{of['parameters']:>12,}{of['macs'] / 1e6:>9.1f}{of['images_per_second']:>10.1f}"
