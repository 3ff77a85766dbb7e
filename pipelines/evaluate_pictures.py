"""The pictures of an evaluation: figures as SVG, sheets of photographs as thumbnails; all of them files as well."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ndd.config import DecodeLimits
from ndd.files import make_directory
from ndd.images import to_square
from ndd.metrics.pairs import Confusion
from ndd.stages.decode import Decoder
from pipelines import bench_stn, plots
from pipelines.evaluate_pairs import scores_by_kind
from pipelines.evaluate_run import CHAMPION, WHOLE, Evaluation

__all__ = ["Pair", "Pictures", "StnRow", "draw"]

Pixels = NDArray[np.uint8]
_SIDE, _WORST, _MAPPED = 168, 8, 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two pictures side by side, as data URIs, with what is said of them."""

    left: str
    right: str
    left_name: str
    right_name: str
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StnRow:
    """Input, warped, its edited copy, that warped; error: of the corners, as a share of what no transformer would leave."""

    family: str
    images: tuple[str, str, str, str]
    error: float


@dataclass(eq=False)
class Pictures:
    """figures: name → SVG with the page's variables as colours. missed: true pairs with the lowest scores; false: strangers
    with the highest."""

    figures: dict[str, str] = field(default_factory=dict)
    missed: list[Pair] = field(default_factory=list)
    false: list[Pair] = field(default_factory=list)
    stn: list[StnRow] = field(default_factory=list)


def draw(found: Evaluation, out: Path) -> Pictures:
    """Draw everything that was measured; files below `out`."""
    make_directory(out)
    pictures = Pictures()
    for name, figure in _figures(found):
        (out / f"{name}.svg").write_text(plots.as_svg(figure, themed=False), encoding="utf-8")
        pictures.figures[name] = plots.as_svg(figure, themed=True)
    pictures.missed, pictures.false = _worst(found, out)
    if found.model.config.stn.kind != "none":
        pictures.stn = _stn(found, out)
    return pictures


def _figures(found: Evaluation) -> Iterator[tuple[str, Any]]:
    if found.pairs is not None:
        methods = found.metrics["comparison"]["methods"]
        thresholds = {name: of["threshold"] for name, of in methods.items()}
        yield "curves", plots.curves_figure(found.pairs.label, found.scores, thresholds)
        for key, name in (("whole", WHOLE), ("descriptor", CHAMPION)):
            counts = Confusion(**methods[name]["confusion"])
            yield (
                f"confusion-{key}",
                plots.confusion_figure(counts, name="ndd as a whole" if key == "whole" else "descriptor"),
            )
        kinds = scores_by_kind(found.pairs, found.scores[CHAMPION])
        yield (
            "distances",
            plots.distances_figure(kinds, threshold=thresholds[CHAMPION], name="Distances by the descriptor"),
        )
    if found.reliability is not None:
        yield "reliability", plots.reliability_figure(found.reliability)
    families = found.metrics.get("descriptor", {}).get("families", {})
    if families:
        whole = found.metrics.get("search", {}).get("families", {})
        rows = [(name, of["recall"], whole.get(name, {}).get("recall")) for name, of in families.items()]
        yield "families", plots.families_figure(sorted(rows, key=lambda row: (row[2] or row[1])["value"]))
    mapped = _map(found)
    if mapped is not None:
        yield "map", mapped


def _map(found: Evaluation) -> Any:
    """t-SNE (van der Maaten & Hinton 2008) of some groups and some single pictures."""
    from sklearn.manifold import TSNE

    groups = np.array([row.group for row in found.album.images])
    names = list(found.album.groups())[:_MAPPED]
    rows = np.flatnonzero(np.isin(groups, names))
    rest = np.flatnonzero(~np.isin(groups, names))[: 5 * _MAPPED]
    chosen = np.concatenate((rows, rest))[:800]
    if len(chosen) < 20:
        return None
    perplexity = min(20.0, (len(chosen) - 1) / 4)
    points = TSNE(metric="cosine", init="random", perplexity=perplexity, random_state=0).fit_transform(
        found.vectors[chosen]
    )
    return plots.map_figure(points, groups[chosen].tolist())


def _worst(found: Evaluation, out: Path) -> tuple[list[Pair], list[Pair]]:
    """The true pairs with the lowest and the stranger pairs with the highest scores."""
    ranked = found.ranked.get("search") or found.ranked.get("descriptor")
    if ranked is None:
        return [], []
    cosine = found.ranked["descriptor"].result.pair_scores
    scores = ranked.result.pair_scores
    missed = np.lexsort((cosine, scores))[:_WORST]
    near = ranked.strangers
    lists = (
        [(int(a), int(b), float(scores[at])) for at, (a, b) in zip(missed, ranked.result.pairs[missed], strict=True)],
        [(int(a), int(b), float(s)) for a, b, s in zip(near.left, near.right, near.scores, strict=True)][:_WORST],
    )
    pairs: list[list[Pair]] = []
    for name, chosen in zip(("missed", "false"), lists, strict=True):
        pairs.append([_pair(found, a, b, score) for a, b, score in chosen])
        _sheet([[_thumb(found, a), _thumb(found, b)] for a, b, _ in chosen], out / f"{name}.jpg")
    return pairs[0], pairs[1]


def _pair(found: Evaluation, a: int, b: int, score: float) -> Pair:
    rows = (found.album.images[a], found.album.images[b])
    kinds = [row.note for row in rows if row.note not in ("", "original", "single")]
    cosine = float(found.vectors[a] @ found.vectors[b])
    said = f"score {score:.3f}, cosine {cosine:.2f}" if "search" in found.ranked else f"cosine {cosine:.2f}"
    return Pair(
        left=_uri(_thumb(found, a)),
        right=_uri(_thumb(found, b)),
        left_name=Path(rows[0].image).name,
        right_name=Path(rows[1].image).name,
        words=said + (f" · {'; '.join(kinds)}" if kinds else ""),
    )


def _thumb(found: Evaluation, at: int) -> Pixels:
    """At most _SIDE pixels long."""
    decoder = Decoder(DecodeLimits(), size=_SIDE)
    pixels = decoder.pixels((found.album.root / found.album.images[at].image).read_bytes())
    factor = _SIDE / max(pixels.shape[:2])
    size = (max(1, round(pixels.shape[1] * factor)), max(1, round(pixels.shape[0] * factor)))
    return np.asarray(
        cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC), np.uint8
    )


def _stn(found: Evaluation, out: Path) -> list[StnRow]:
    """What the transformer makes of a photograph and of a copy whose edit is known exactly."""
    import torch

    from ndd.model import checkpoint

    held = checkpoint.load(found.model.directory)
    size, rng = held.config.image_size, np.random.default_rng(found.plan.seed)
    decoder = Decoder(DecodeLimits(), size=size)
    rows, sheets = [], []
    originals = [row for row in found.album.images if row.note == "original"] or list(found.album.images)
    for family, row in zip(
        ("rotation", "quarter", "squash", "perspective", "crop", "rotation"), originals, strict=False
    ):
        pixels = decoder.pixels((found.album.root / row.image).read_bytes())
        moved = bench_stn.edits(family, rng)
        views = [bench_stn._view(pixels, matrix, size) for matrix in (np.eye(3), moved)]
        batch = torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2).float() / 255
        warped, corners = held.model.align(batch)
        error, _ = bench_stn._errors(moved, *corners.double().numpy())
        nothing, _ = bench_stn._errors(moved, bench_stn._FRAME, bench_stn._FRAME)
        seen = (255 * warped.clamp(0, 1)).round().byte().permute(0, 2, 3, 1).numpy()
        cells = [to_square(np.ascontiguousarray(cell), _SIDE) for cell in (views[0], seen[0], views[1], seen[1])]
        first, second, third, fourth = (_uri(cell) for cell in cells)
        rows.append(StnRow(family=family, images=(first, second, third, fourth), error=error / nothing))
        sheets.append(cells)
    _sheet(sheets, out / "stn.jpg")
    return rows


def _sheet(rows: Sequence[Sequence[Pixels]], path: Path) -> None:
    """Pictures in rows on white, as a JPEG file."""
    if not rows:
        return
    lines = []
    for cells in rows:
        line = np.full((_SIDE, (_SIDE + 8) * len(cells), 3), 255, np.uint8)
        for at, cell in enumerate(cells):
            line[: cell.shape[0], at * (_SIDE + 8) : at * (_SIDE + 8) + cell.shape[1]] = cell[:, :_SIDE]
        lines += [line, np.full((8, line.shape[1], 3), 255, np.uint8)]
    path.write_bytes(_jpeg(np.concatenate(lines)))


def _jpeg(pixels: Pixels) -> bytes:
    return cv2.imencode(".jpg", np.ascontiguousarray(pixels[:, :, ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 82])[1].tobytes()


def _uri(pixels: Pixels) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(_jpeg(pixels)).decode("ascii")
