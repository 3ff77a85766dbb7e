"""Fits the score: from evidence about pairs with known truth to the numbers in a model's calibration.json.

`fit` is pure. `calibrate` builds an edited-copy album from a folder of photographs, runs the same search as everyone
(`ndd.find`), compares its candidates with the album's truth and writes calibration.json into the model directory.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from ndd.config import FindConfig
from ndd.errors import InputError, UsageError
from ndd.files import atomic_path
from ndd.find import FindRequest, find
from ndd.images import decode
from ndd.local import LocalRunner
from ndd.metrics.calibration import expected_calibration_error
from ndd.model.directory import CALIBRATION, describe, resolve
from ndd.tables import PairRow, read_pairs
from ndd.types import Relation
from ndd.verify.geometry import GeometricEvidence
from ndd.verify.score import DEFAULT_CALIBRATION, PairEvidence, Scorer, expand, features
from pipelines.album import Album, AlbumImage, Photo, build_album, read_photos, read_tar
from pipelines.overlays import caption, meme, screenshot, sticker, watermark

__all__ = ["add_arguments", "add_lookalikes", "calibrate", "evidence_of", "expected_calibration_error", "fit", "run"]

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.bool_]

_LEAST = 20
"""Pairs of either kind below which a fit would be a guess."""
_PULL = 5.0
"""Pull towards the built-in weights, in pairs: an album that tells two features apart badly leaves them as they were."""
_CARD = (320, 240)
_SHARING = 4
"""Different photographs that share one caption, frame or watermark."""
_FOLDS = 5
_BENDS_TRUE, _BENDS_FALSE = (0.02, 0.46, 0.9), (0.5, 0.7495, 0.999)
"""Quantiles of the duplicates' and of the others' features at which a response may bend: where the two meet."""


def fit(
    evidence: Sequence[PairEvidence], labels: Sequence[bool], *, groups: Sequence[int] | None = None
) -> dict[str, Any]:
    """The content of calibration.json.

    labels: True for duplicates. groups: pairs of one number are held out together in the cross-fitted check (default:
    each pair by itself). The response to every feature is piecewise linear and never falls, since every feature grows with
    the evidence for a duplicate. Both kinds weigh the same in the fit and the stored prior is .5; a run puts its own prior
    in its place. Raises InputError where there are fewer than 20 pairs of either kind.
    """
    if len(evidence) != len(labels) or (groups is not None and len(groups) != len(labels)):
        raise UsageError(
            f"fit: {len(evidence)} pairs and {len(labels)} labels; each pair wants one label and one group"
        )
    usable = [at for at, e in enumerate(evidence) if not e.identical and not e.flat]
    truth = np.array([bool(labels[at]) for at in usable], np.bool_)
    fold = np.array([at if groups is None else groups[at] for at in usable], np.int64)
    pairs = [evidence[at] for at in usable]
    seen = np.array([e.geometry is not None for e in pairs], np.bool_)
    for name, number in (("duplicate", int(truth.sum())), ("distinct", int((~truth).sum()))):
        if number < _LEAST:
            raise InputError(f"fit: {number} {name} pairs, at least {_LEAST} are needed; give more photographs")
    bare = np.array([features(dataclasses.replace(e, geometry=None)) for e in pairs])
    unverified = _section(DEFAULT_CALIBRATION["unverified"], bare, truth)
    if min(int((truth & seen).sum()), int((~truth & seen).sum())) < _LEAST:
        raise InputError(
            f"fit: too few verified pairs of either kind, at least {_LEAST} are needed; give more photographs"
        )
    full = np.array([features(pairs[at]) for at in np.flatnonzero(seen)])
    verified = _section(DEFAULT_CALIBRATION, full, truth[seen])
    crossed = _cross_fitted(full, truth[seen], fold[seen])
    return {
        "version": 1,
        "source": "fitted",
        **verified,
        "prior": 0.5,
        "unverified": unverified,
        "fit": {
            "pairs": len(truth),
            "duplicates": int(truth.sum()),
            "verified": int(seen.sum()),
            "ece": round(expected_calibration_error(crossed, truth[seen]), 4),
            "log_loss": round(_log_loss(crossed, truth[seen]), 4),
        },
    }


def _section(start: Mapping[str, Any], values: Floats, truth: Labels) -> dict[str, Any]:
    names, weights, bias = _additive(values, truth, start=start)
    kept = [(n, round(float(w), 4)) for n, w in zip(names, weights, strict=True) if "[" not in n or w >= 5e-5]
    return {"features": [n for n, _ in kept], "weights": [w for _, w in kept], "bias": round(float(bias), 4)}


def _additive(values: Floats, truth: Labels, *, start: Mapping[str, Any]) -> tuple[list[str], Floats, float]:
    """Columns (see `ndd.verify.score.expand`), their weights and the bias. A feature that never varies keeps the weight that
    `start` gives it."""
    names: list[str] = []
    towards: list[float] = []
    for feature, weight, column in zip(start["features"], start["weights"], values.T, strict=True):
        ramps = [f"{feature}[{low:g}:{high:g}]" for low, high in pairwise(_knots(column, truth))]
        names += ramps or [feature]
        towards += [0.0] * len(ramps) if ramps else [float(weight)]
    columns = expand(values, start["features"], names)
    return names, *_logistic(columns, truth, start=np.asarray(towards, np.float64))


def _knots(column: Floats, truth: Labels) -> list[float]:
    """Where the response to a feature may bend: its ends, and quantiles of either kind where most of them lie."""
    inner = [np.quantile(column[truth], _BENDS_TRUE), np.quantile(column[~truth], _BENDS_FALSE)]
    found: list[float] = np.unique(np.concatenate([[column.min()], *inner, [column.max()]]).round(3)).tolist()
    return found


def _logistic(values: Floats, truth: Labels, *, start: Floats) -> tuple[Floats, float]:
    """Logistic regression pulled towards `start`, both classes weighing the same.

    Weights below 0 are taken out, the worse half of them at a time.
    """
    scale = np.maximum(values.std(axis=0), 1e-6)
    kept = np.arange(values.shape[1])
    while True:
        design = np.hstack([values[:, kept] / scale[kept], np.ones((len(values), 1))])
        found = _newton(design, truth, towards=np.append(start[kept] * scale[kept], 0.0))
        negative = np.flatnonzero(found[:-1] < 0.0)
        if not len(negative):
            weights = np.zeros(values.shape[1])
            weights[kept] = found[:-1] / scale[kept]
            return weights, float(found[-1])
        worst = negative[np.argsort(found[negative], kind="stable")][: (len(negative) + 1) // 2]
        kept = np.delete(kept, worst)


def _newton(design: Floats, truth: Labels, *, towards: Floats) -> Floats:
    """Minimiser of the balanced log loss and the pull on all but the last column, by damped Newton steps."""
    share = np.where(truth, 0.5 / truth.sum(), 0.5 / (~truth).sum())
    pull = np.append(np.full(design.shape[1] - 1, _PULL / len(design)), 1e-12)
    sign = np.where(truth, 1.0, -1.0)

    def loss(at: Floats) -> float:
        far = at - towards
        return float((share * np.logaddexp(0.0, -sign * (design @ at))).sum() + 0.5 * (pull * far * far).sum())

    at = towards.copy()
    for _ in range(200):
        p = _sigmoid(design @ at)
        slope = design.T @ (share * (p - truth)) + pull * (at - towards)
        curve = (design * (share * p * (1.0 - p))[:, None]).T @ design + np.diag(pull)
        step = np.linalg.solve(curve, slope)
        size = 1.0
        while size > 1e-6 and loss(at - size * step) > loss(at):
            size *= 0.5
        at = at - size * step
        if np.abs(size * step).max() < 1e-8:
            break
    return np.asarray(at, np.float64)


def _cross_fitted(values: Floats, truth: Labels, fold: npt.NDArray[np.int64]) -> Floats:
    """Each pair's probability from a fit that saw none of its group; under the share of duplicates in `truth`."""
    scores = np.full(len(truth), 0.5)
    which = np.unique(fold, return_inverse=True)[1] % _FOLDS
    share = float(truth.mean())
    shift = np.log(share / (1.0 - share))
    for number in range(_FOLDS):
        rest = which != number
        if rest.all() or not truth[rest].any() or truth[rest].all():
            continue
        names, weights, bias = _additive(values[rest], truth[rest], start=DEFAULT_CALIBRATION)
        columns = expand(values[~rest], DEFAULT_CALIBRATION["features"], names)
        scores[~rest] = _sigmoid(columns @ weights + bias + shift)
    return scores


def _sigmoid(x: Floats) -> Floats:
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(x, -60.0, 60.0))), np.float64)


def _log_loss(scores: Floats, truth: Labels) -> float:
    right = np.where(truth, scores, 1.0 - scores)
    return float(-np.log(np.maximum(right, 1e-12)).mean())


def evidence_of(row: PairRow) -> PairEvidence:
    """The evidence behind a row of pairs.parquet."""
    values = dict(row.evidence)
    known = {f.name for f in dataclasses.fields(GeometricEvidence)}
    geometry = {name: values[name] for name in known if name in values}
    if geometry.get("transform") is not None:
        geometry["transform"] = tuple(tuple(r) for r in geometry["transform"])
    return PairEvidence(
        distance=row.distance,
        hash_bits=int(values.get("hash_bits", 0)),
        geometry=GeometricEvidence(**geometry) if geometry else None,
        identical=row.relation is Relation.EXACT,
        flat=bool(values.get("flat", False)),
        upright=bool(values.get("upright", True)),
        hubness=float(values.get("hubness", 0.0)),
    )


def calibrate(album: Album, model: Path, *, work: Path, write: bool = True) -> dict[str, Any]:
    """Search `album` with `model`, fit the score to its truth, write it into the model directory, and return it.

    work: an empty directory for the search. The folds of the check keep all pairs of one photograph together.
    """
    # A high precision accepts little, so the search adds few pairs of its own choosing to the candidates.
    config = FindConfig(floor=0.0, precision=0.999)
    find(FindRequest(paths=[album.root / "images"], out=work, config=config, model=model), LocalRunner())
    group = {Path(image.image).relative_to("images").as_posix(): image.group for image in album.images}
    names = {name: at for at, name in enumerate(sorted(set(group.values())))}
    rows = [row for row in read_pairs(work / "pairs.parquet") if row.left in group and row.right in group]
    labels = [group[row.left] == group[row.right] for row in rows]
    fitted = fit([evidence_of(row) for row in rows], labels, groups=[names[group[row.left]] for row in rows])
    Scorer(fitted)  # refuses what it could not read later
    fitted["fit"]["album"] = {"images": len(album.images), "groups": len(album.groups()), "digest": album.digest()}
    fitted["fit"]["embedding_digest"] = describe(model).embedding_digest
    if write:
        with atomic_path(model / CALIBRATION) as temporary:
            temporary.write_text(json.dumps(fitted, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return fitted


def add_lookalikes(album: Album, photos: Sequence[Photo], *, seed: int) -> Album:
    """The album with different photographs that share a caption, frame, sticker or watermark, four at a time.

    Whoever has seen only honest strangers believes that anything in common makes a copy.
    """
    kinds = (caption, meme, screenshot, watermark, sticker)
    added = []
    for start in range(0, len(photos) - _SHARING + 1, _SHARING):
        number = start // _SHARING
        for photo in photos[start : start + _SHARING]:
            pixels = decode(photo.content).pixels
            # One size and one seed: the same text in the same place.
            same = np.asarray(cv2.resize(pixels, _CARD, interpolation=cv2.INTER_AREA), np.uint8)
            severity = (0.4, 0.7, 1.0)[number // len(kinds) % 3]
            edited = kinds[number % len(kinds)](same, severity, np.random.default_rng([seed, number]))
            name = f"images/{photo.name}-shares-{number}.jpg"
            Image.fromarray(edited).save(album.root / name, "JPEG", quality=85)
            added.append(AlbumImage(name, photo.name, "lookalike"))
    return album.extended(added)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m pipelines calibrate`."""
    parser.add_argument("photos", type=Path, help="folder or tar of photographs, none a copy of another")
    parser.add_argument("--singles", type=Path, help="folder or tar of further photographs that get no edited copies")
    parser.add_argument("--model", help="model directory to calibrate (default: the one `ndd find` would use)")
    parser.add_argument("--copies", type=int, default=4, help="edited copies of each photograph (default 4)")
    parser.add_argument("--limit", type=int, default=600, help="most photographs taken of either place (default 600)")
    parser.add_argument("--seed", type=int, default=1, help="of the edits (default 1)")
    parser.add_argument("--json", action="store_true", help="print the calibration instead of a summary")


def run(args: argparse.Namespace) -> int:
    """Build the album, calibrate, say how well it went; the exit code."""
    model = resolve(args.model)
    with tempfile.TemporaryDirectory(prefix="ndd-calibrate-") as scratch:
        photos = _photos(args.photos, args.limit)
        taken = {photo.name for photo in photos}
        more = _photos(args.singles, args.limit) if args.singles else []
        singles = [photo for photo in more if photo.name not in taken]
        album = build_album(photos, Path(scratch) / "album", copies=args.copies, seed=args.seed, singles=singles)
        album = add_lookalikes(album, singles or photos, seed=args.seed)
        fitted = calibrate(album, model, work=Path(scratch) / "search")
    if args.json:
        sys.stdout.write(json.dumps(fitted, indent=2, sort_keys=True) + "\n")
    else:
        sys.stdout.write(_summary(fitted, model) + "\n")
    return 0


def _photos(place: Path, limit: int) -> list[Photo]:
    if limit < 1:
        raise UsageError(f"--limit must be at least 1, got {limit}")
    found = read_tar(place) if place.suffix == ".tar" else read_photos(place)
    return sorted(found, key=lambda photo: photo.name)[:limit]


def _summary(fitted: Mapping[str, Any], model: Path) -> str:
    facts = fitted["fit"]
    weights = ", ".join(f"{n} {w:g}" for n, w in zip(fitted["features"], fitted["weights"], strict=True))
    return (
        f"{model / CALIBRATION}: {facts['pairs']} candidate pairs, {facts['duplicates']} of them duplicates; "
        f"cross-fitted calibration error {facts['ece']:.4f}, log loss {facts['log_loss']:.4f}\n{weights}"
    )
