"""Does a claimed precision travel? A threshold from one album, applied to three others: other photographs, other edits, other
shares of duplicates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ndd.errors import UsageError
from ndd.find import Runner
from ndd.metrics.intervals import binomial_interval
from ndd.types import Relation
from pipelines.album import Album, Photo, build_album, read_album
from pipelines.edits import FAMILIES
from pipelines.evaluate_embed import search_album

__all__ = ["ALBUMS", "Mix", "travel"]

_WANTED = 0.99


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """An album to be made: photographs, edited copies of each, pictures without copies, edits, their severities."""

    photos: int
    copies: int
    singles: int
    families: tuple[str, ...] = tuple(FAMILIES)
    severity: tuple[float, float] = (0.0, 1.0)


ALBUMS: Mapping[str, Mix] = {
    "all edits": Mix(photos=60, copies=4, singles=200),
    "light edits, few": Mix(
        photos=40,
        copies=2,
        singles=300,
        families=("compression", "scale", "colour", "border", "crop", "blur_noise"),
        severity=(0.0, 0.6),
    ),
    "strong edits, many": Mix(
        photos=40,
        copies=5,
        singles=100,
        families=("rotation", "quarter_turn", "mirror", "perspective", "overlay", "wave", "mixture"),
        severity=(0.3, 1.0),
    ),
    "a needle in a haystack": Mix(photos=20, copies=1, singles=400),
}
"""The first sets the threshold."""


def travel(photos: Sequence[Photo], model: Path, work: Path, runner: Runner, *, seed: int = 0) -> dict[str, Any]:
    """Album → precision and recall at the first one's threshold, and at the threshold that each search sets itself.

    photos: at least as many as ALBUMS take, each used once. Raises UsageError if there are fewer.
    """
    needed = sum(mix.photos + mix.singles for mix in ALBUMS.values())
    if len(photos) < needed:
        raise UsageError(
            f"the precision's journey takes {needed} photographs, got {len(photos)}; give more with --data"
        )
    left = [photos[at] for at in np.random.default_rng(seed).permutation(len(photos))]
    threshold: float | None = None
    found: dict[str, Any] = {}
    for number, (name, mix) in enumerate(ALBUMS.items()):
        taken, left = left[: mix.photos + mix.singles], left[mix.photos + mix.singles :]
        album = _album(taken, mix, work / f"album-{number}-{seed}", seed + number)
        searched = search_album(album, model, work, runner)
        truth = {row.image: row.group for row in album.images}
        wanted = sum(len(group) * (len(group) - 1) // 2 for group in album.groups().values())
        usable = [row for row in searched.pairs if row.relation is not None and row.relation.within(Relation.EDITED)]
        scores = np.array([row.score for row in usable])
        ends = [tuple(sorted((truth[row.left], truth[row.right]))) for row in usable]
        labels = np.array([left == right for left, right in ends], np.bool_)
        if threshold is None:
            threshold = _lowest(scores, labels)
        found[name] = {
            "images": len(album.images),
            "true_pairs": wanted,
            "at_the_first_threshold": _rates(scores, ends, threshold, wanted),
            "at_its_own": _rates(scores, ends, float(searched.run["threshold"]), wanted),
        }
    return {"wanted": _WANTED, "threshold": threshold, "albums": found, "page": _page(found, threshold)}


def _album(taken: Sequence[Photo], mix: Mix, place: Path, seed: int) -> Album:
    if (place / "groups.csv").is_file():
        return read_album(place)
    copied, singles = taken[: mix.photos], taken[mix.photos :]
    return build_album(
        copied, place, copies=mix.copies, families=mix.families, severity=mix.severity, seed=seed, singles=singles
    )


def _lowest(scores: Any, labels: Any) -> float:
    """Where the precision is still the wanted one: half-way from the last pair accepted to the next, never below one half;
    1 where there is no such place. At a pair's own score the threshold would hang on that one pair."""
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    ends = np.append(np.flatnonzero(np.diff(ranked) != 0), len(ranked) - 1)
    precision = np.cumsum(labels[order])[ends] / (ends + 1)
    good = ends[(precision >= _WANTED) & (ranked[ends] >= 0.5)]
    if not len(good):
        return 1.0
    last = int(good[-1])
    below = float(ranked[last + 1]) if last + 1 < len(ranked) else 0.0
    return max((float(ranked[last]) + below) / 2, 0.5)


def _rates(scores: Any, ends: Sequence[tuple[str, ...]], threshold: float, wanted: int) -> dict[str, Any]:
    """ends: the groups of each pair. couples: of how many pairs of photographs the false pairs are copies: they come in
    families, so the interval of the precision is too short where there are any."""
    accepted = scores >= threshold
    labels = np.array([left == right for left, right in ends], np.bool_)
    hits, count = int((accepted & labels).sum()), int(accepted.sum())
    return {
        "threshold": threshold,
        "precision": asdict(binomial_interval(hits, count)),
        "recall": hits / wanted,
        "accepted": count,
        "false": count - hits,
        "couples": len({end for end, good in zip(ends, accepted, strict=True) if good and end[0] != end[1]}),
    }


def _page(found: Mapping[str, Any], threshold: float | None) -> dict[str, Any]:
    rows = []
    for name, of in found.items():
        first, own = of["at_the_first_threshold"], of["at_its_own"]
        of_first = first["precision"]
        rows.append(
            (
                name,
                f"{of['images']:,}",
                f"{of['true_pairs']:,}",
                f"{of_first['value']:.4f} ({of_first['low']:.3f}–{of_first['high']:.3f})",
                f"{first['false']} ({first['couples']})",
                f"{first['recall']:.3f}",
                f"{own['threshold']:.3f}",
                f"{own['precision']['value']:.4f}",
                f"{own['recall']:.3f}",
            )
        )
    return {
        "title": "Does the claimed precision travel?",
        "summary": f"the threshold for {100 * _WANTED:g} % of the first album, {threshold or 1.0:.3f}, on three others",
        "heads": (
            "album",
            "pictures",
            "true pairs",
            "precision",
            "false (of how many couples)",
            "recall",
            "its own threshold",
            "precision",
            "recall",
        ),
        "rows": rows,
        "note": "Other photographs, other edits, other shares of duplicates. Recall counts every true pair, those between "
        "two copies too, and those that were never candidates. Two photographs that are taken for one bring all their copies.",
    }
