"""How well descriptors rank the pairs of an album with known truth, the model beside what it has to beat.

All N(N−1)/2 pairs of all pictures are ranked by each method in one run, on the same decoded pixels. `recall` of a
family is that of its (original, copy) pairs at the threshold where the WHOLE ranking has the stated precision.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

import ndd.baselines
import ndd.hashing
import ndd.images
import ndd.model.teacher
import ndd.stages.decode
import pipelines.album
import pipelines.edits
import pipelines.overlays
from ndd.baselines import cosine_rows, dihedral_rows, hamming_rows, phash
from ndd.config import DecodeLimits
from ndd.errors import UsageError
from ndd.hashing import pdq
from ndd.images import to_square
from ndd.metrics.retrieval import OperatingPoint, RetrievalResult, ScoreRows, evaluate_groups
from ndd.model.checkpoint import Checkpoint, load
from ndd.model.directory import resolve
from ndd.model.teacher import load_teacher, teacher_features
from ndd.stages.decode import Decoder
from ndd.stages.embed import Embedder
from pipelines.album import Album, development_album, read_album

__all__ = ["METHODS", "PRECISIONS", "embed_album", "measure", "open_album", "table"]

METHODS = ("ndd", "mobilenetv2", "pdq8", "pdq", "phash")
PRECISIONS = (0.9, 0.99, 0.999)
_TEACHER = "weights/mobilenetv2-imagenet-fp16.pth"
_TEACHER_SIDE = 224
_BLOCK = 64

Columns = dict[str, NDArray[Any]]


def open_album(given: Path | None, data: Path | None, *, work: Path, seed: int) -> Album:
    """The album in the folder or tar `given`, else the development album, built once below `work` for each seed."""
    if given is not None and given.is_dir():
        return read_album(given)
    if given is not None:
        if not given.is_file():
            raise UsageError(f"--album {given}: there is no such folder or tar")
        return _cached(work, f"{given.stem}-{_sha(given.read_bytes())[:12]}", lambda out: _unpack(given, out))
    if data is None:
        raise UsageError("the development album wants a data folder: --data or NDD_DATA")
    code = _code(pipelines.album, pipelines.edits, pipelines.overlays)
    return _cached(work, f"development-{seed}-{code}", lambda out: development_album(data, out, seed=seed))


def measure(
    album: Album, *, methods: Sequence[str] = METHODS, model: Path | None, data: Path | None, work: Path
) -> dict[str, Any]:
    """The figures as plain JSON values: album, methods → overall, per family (see the module's first lines)."""
    unknown = [name for name in methods if name not in METHODS]
    if unknown or not methods:
        raise UsageError(f"--methods {','.join(unknown) or '(none)'}: known are {', '.join(METHODS)}")
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
    baselines = _baselines(album, methods, data, work=work)
    for name in methods:
        rows, facts = _ndd(album, model) if name == "ndd" else (baselines[name], {})
        figures["methods"][name] = {**facts, **_figures(album, evaluate_groups(rows, [r.group for r in album.images]))}
    return figures


def embed_album(album: Album, checkpoint: Checkpoint) -> NDArray[np.float16]:
    """(N, D) vectors of the album's pictures in its order, the same as a search computes."""
    embedder = Embedder(checkpoint)
    decoder = Decoder(DecodeLimits(), size=embedder.size)

    def block(paths: Sequence[Path]) -> Columns:
        return {"vector": embedder.embed(np.stack([decoder.read(path.read_bytes()).canvas for path in paths]))}

    return _each_block(album, block)["vector"]


def _ndd(album: Album, model: Path | None) -> tuple[ScoreRows, dict[str, str]]:
    checkpoint = load(resolve(model))
    facts = {"model": checkpoint.directory.name, "embedding_digest": checkpoint.embedding_digest}
    return cosine_rows(embed_album(album, checkpoint)), facts


def _baselines(album: Album, methods: Sequence[str], data: Path | None, *, work: Path) -> dict[str, ScoreRows]:
    rankings: dict[str, ScoreRows] = {}
    if {"pdq", "pdq8", "phash"} & set(methods):
        modules = (ndd.baselines, ndd.hashing, ndd.images, ndd.stages.decode)
        hashes = _kept(work, f"hashes-{album.digest()[:12]}-{_code(*modules)}", lambda: _each_block(album, _hashes))
        rankings["pdq8"] = dihedral_rows(hashes["pdq"])
        rankings["pdq"] = hamming_rows(np.ascontiguousarray(hashes["pdq"][:, 0]))
        rankings["phash"] = hamming_rows(hashes["phash"])
    if "mobilenetv2" in methods:
        if data is None:
            raise UsageError("mobilenetv2 wants the data folder with its weights: --data or NDD_DATA")
        weights = data / _TEACHER
        teacher = load_teacher(weights)
        code = _code(ndd.model.teacher, ndd.images, ndd.stages.decode)
        key = f"mobilenetv2-{album.digest()[:12]}-{_sha(weights.read_bytes())[:12]}-{code}"
        features = _kept(
            work,
            key,
            lambda: _each_block(
                album, lambda paths: {"feature": teacher_features(teacher, _squares(paths))}, workers=1
            ),
        )
        rankings["mobilenetv2"] = cosine_rows(features["feature"])
    return rankings


def _hashes(paths: Sequence[Path]) -> Columns:
    pixels = [_pixels(path) for path in paths]
    return {"pdq": np.stack([pdq(p)[0] for p in pixels]), "phash": np.stack([phash(p) for p in pixels])}


def _squares(paths: Sequence[Path]) -> NDArray[np.uint8]:
    return np.stack([to_square(_pixels(path), _TEACHER_SIDE) for path in paths])


def _pixels(path: Path) -> NDArray[np.uint8]:
    return Decoder(DecodeLimits(), size=_TEACHER_SIDE).pixels(path.read_bytes())


def _each_block(
    album: Album, compute: Callable[[Sequence[Path]], Columns], *, workers: int = os.cpu_count() or 1
) -> Columns:
    """`compute` over the album in blocks, on threads (decoding and the network release the lock), joined in order."""
    paths = [album.root / row.image for row in album.images]
    blocks = [paths[start : start + _BLOCK] for start in range(0, len(paths), _BLOCK)]
    with ThreadPoolExecutor(workers) as pool:
        parts = list(pool.map(compute, blocks))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _figures(album: Album, result: RetrievalResult) -> dict[str, Any]:
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


def _kept(work: Path, name: str, compute: Callable[[], Columns]) -> Columns:
    """The arrays `name` below `work`, computed if they are not there."""
    target = work / "baselines" / f"{name}.npz"
    if not target.is_file():
        columns = compute()
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_suffix(f".{os.getpid()}.npz")
        np.savez(part, **cast(dict[str, Any], columns))  # else mypy takes an array for `allow_pickle`
        part.replace(target)
    with np.load(target) as held:
        return dict(held)


def _unpack(tar: Path, out: Path) -> Album:
    with tarfile.open(tar) as archive:
        archive.extractall(out, filter="data")
    return read_album(out)


def _code(*modules: ModuleType) -> str:
    return _sha("".join(inspect.getsource(module) for module in modules).encode())[:12]


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
