"""How well descriptors rank the pairs of an album with known truth, the model beside what it has to beat.

All N(N−1)/2 pairs of all pictures are ranked by each method in one run, on the same decoded pixels. `recall` of a
family is that of its (original, copy) pairs at the threshold where the WHOLE ranking has the stated precision.
"""

from __future__ import annotations

import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import pipelines.album
import pipelines.edits
import pipelines.overlays
from ndd.errors import UsageError
from ndd.metrics.retrieval import OperatingPoint, RetrievalResult, evaluate_groups
from pipelines.album import Album, development_album, read_album
from pipelines.bench_methods import METHODS, check_methods, code_of, embed_album, rankings, sha256

__all__ = ["METHODS", "PRECISIONS", "embed_album", "figures_of", "measure", "open_album", "table"]

PRECISIONS = (0.9, 0.99, 0.999)


def open_album(given: Path | None, data: Path | None, *, work: Path, seed: int) -> Album:
    """The album in the folder or tar `given`, else the development album, built once below `work` for each seed."""
    if given is not None and given.is_dir():
        return read_album(given)
    if given is not None:
        if not given.is_file():
            raise UsageError(f"--album {given}: there is no such folder or tar")
        return _cached(work, f"{given.stem}-{sha256(given.read_bytes())[:12]}", lambda out: _unpack(given, out))
    if data is None:
        raise UsageError("the development album wants a data folder: --data or NDD_DATA")
    code = code_of(pipelines.album, pipelines.edits, pipelines.overlays)
    return _cached(work, f"development-{seed}-{code}", lambda out: development_album(data, out, seed=seed))


def measure(
    album: Album, *, methods: Sequence[str] = METHODS, model: Path | None, data: Path | None, work: Path
) -> dict[str, Any]:
    """The figures as plain JSON values: album, methods → overall, per family (see the module's first lines)."""
    check_methods(methods)
    figures: dict[str, Any] = {
        "album": {
            "name": album.root.name,
            "digest": album.digest(),
            "images": len(album.images),
            "groups": len(album.groups()),
            "pairs": sum(len(images) * (len(images) - 1) // 2 for images in album.groups().values()),
        },
        "methods": {},
    }
    for name, (rows, facts) in rankings(album, methods, model=model, data=data, work=work):
        figures["methods"][name] = {
            **facts,
            **figures_of(album, evaluate_groups(rows, [r.group for r in album.images])),
        }
    return figures


def figures_of(album: Album, result: RetrievalResult) -> dict[str, Any]:
    """A ranking's mAP, µAP and recall at each of PRECISIONS, over all and by family, as plain JSON values."""
    points = [result.curve.recall_at_precision(wanted) for wanted in PRECISIONS]
    overall = {
        "map": result.mean_average_precision,
        "micro_ap": result.micro_average_precision,
        "recall": {str(p.wanted): {"recall": p.recall, "threshold": p.threshold} for p in points},
    }
    return {**overall, "families": _by_family(album, result, points)}


def _by_family(album: Album, result: RetrievalResult, points: Sequence[OperatingPoint]) -> dict[str, Any]:
    """Family → mAP of its copies as queries, recall of its (original, copy) pairs; empty where nothing is an original."""
    families = np.array([row.family for row in album.images])
    left, right = families[result.pairs[:, 0]], families[result.pairs[:, 1]]
    of_pair = np.where(left == "original", right, np.where(right == "original", left, ""))
    figures: dict[str, Any] = {}
    for family in dict.fromkeys(str(name) for name in of_pair if name):
        scores = result.pair_scores[of_pair == family]
        figures[family] = {
            "copies": len(scores),
            "map": float(np.nanmean(result.query_ap[families == family])),
            "recall": {
                str(p.wanted): float((scores >= p.threshold).mean()) if p.threshold is not None else 0.0 for p in points
            },
        }
    return dict(sorted(figures.items()))


def table(figures: Mapping[str, Any]) -> str:
    """The figures for people: one line per method, then the recall at 99 % precision per family and method."""
    return "\n".join(_lines(figures))


def _lines(figures: Mapping[str, Any]) -> Iterator[str]:
    album, methods = figures["album"], figures["methods"]
    yield f"{album['name']}: {album['images']} pictures, {album['groups']} groups, {album['pairs']} true pairs"
    heads = ("mAP", "µAP", *(f"R@P{100 * p:g}" for p in PRECISIONS))
    yield f"{'descriptor':<14}" + "".join(f"{head:>9}" for head in heads)
    for name, of in methods.items():
        values = (of["map"], of["micro_ap"], *(point["recall"] for point in of["recall"].values()))
        yield f"{name:<14}" + "".join(f"{value:>9.3f}" for value in values)
    families = next(iter(methods.values()))["families"]
    if families:
        yield f"\n{'R@P99':<14}" + "".join(f"{name:>13}" for name in methods) + f"{'copies':>9}"
    for family, facts in families.items():
        recalls = [of["families"][family]["recall"]["0.99"] for of in methods.values()]
        yield f"{family:<14}" + "".join(f"{recall:>13.3f}" for recall in recalls) + f"{facts['copies']:>9}"


def _cached(work: Path, name: str, build: Callable[[Path], Album]) -> Album:
    """The album `name` below `work`, built in a folder beside it and renamed when it is whole."""
    target = work / "albums" / name
    if not (target / "groups.csv").is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as part:
            build(Path(part) / "album").root.rename(target)
    return read_album(target)


def _unpack(tar: Path, out: Path) -> Album:
    with tarfile.open(tar) as archive:
        archive.extractall(out, filter="data")
    return read_album(out)
