"""The methods that are measured beside one another: each ranks the pairs of an album.

What takes long and depends on the album alone is kept below the work folder, under the digest of the album and of the
code that computed it.
"""

from __future__ import annotations

import hashlib
import inspect
import os
from collections.abc import Callable, Iterator, Sequence
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
from ndd.baselines import cosine_rows, dihedral_rows, hamming_rows, phash, sift, sift_scores
from ndd.config import DecodeLimits
from ndd.cores import cores
from ndd.errors import UsageError
from ndd.hashing import pdq
from ndd.images import to_square
from ndd.metrics.retrieval import ScoreRows
from ndd.model.background import Background
from ndd.model.checkpoint import Checkpoint
from ndd.model.directory import ModelDirectory, describe, resolve
from ndd.model.teacher import load_teacher, teacher_features
from ndd.stages.decode import Decoder
from ndd.stages.embed import Embedder
from pipelines import bench_peers
from pipelines.album import Album
from pipelines.bench_peers import PEERS, Neighbours, neighbour_rows

__all__ = [
    "KNOWN",
    "METHODS",
    "check_methods",
    "code_of",
    "embed_album",
    "half_hubness",
    "rankings",
    "sha256",
    "standout_rows",
]

METHODS = ("ndd", "mobilenetv2", "pdq8", "pdq", "phash")
"""Measured unless others are named: those that need nothing but ndd, and minutes."""
KNOWN = (*METHODS, "sift", *PEERS)

_TEACHER = "weights/mobilenetv2-imagenet-fp16.pth"
_TEACHER_SIDE = 224
_SIFT_SIDE = 480
_BLOCK = 64

Columns = dict[str, NDArray[Any]]
Ranking = tuple[ScoreRows, dict[str, Any]]
"""Scores, and what is to be said of how they were made."""


def check_methods(methods: Sequence[str]) -> None:
    """Raise UsageError unless `methods` are some of KNOWN."""
    unknown = [name for name in methods if name not in KNOWN]
    if unknown or not methods:
        raise UsageError(f"--methods {','.join(unknown) or '(none)'}: known are {', '.join(KNOWN)}")


def rankings(
    album: Album, methods: Sequence[str], *, model: Path | None, data: Path | None, work: Path
) -> Iterator[tuple[str, Ranking]]:
    """(name, ranking) of each method in turn. Raises UsageError, and PeerMissing for a tool that is not there."""
    bench_peers.check(methods)
    makers: dict[str, Callable[[], Ranking]] = {
        "ndd": lambda: _ndd(album, model),
        "mobilenetv2": lambda: _mobilenetv2(album, data, work),
        "pdq8": lambda: (dihedral_rows(_hashes(album, work)["pdq"]), {}),
        "pdq": lambda: (hamming_rows(np.ascontiguousarray(_hashes(album, work)["pdq"][:, 0])), {}),
        "phash": lambda: (hamming_rows(_hashes(album, work)["phash"]), {}),
        "sift": lambda: _sift(album, work),
        "fastdup": lambda: _fastdup(album, work),
        "imagehash": lambda: _peer_hash("imagehash", album, work),
        "imagededup": lambda: _peer_hash("imagededup", album, work),
    }
    for name in methods:
        yield name, makers[name]()


def embed_album(album: Album, model: Checkpoint | ModelDirectory) -> NDArray[np.float16]:
    """(N, D) vectors of the album's pictures in its order, the same as a search computes."""
    embedder = Embedder(model)
    decoder = Decoder(DecodeLimits(), size=embedder.size)

    def block(paths: Sequence[Path]) -> Columns:
        return {"vector": embedder.embed(np.stack([decoder.read(path.read_bytes()).canvas for path in paths]))}

    return _each_block(album, block)["vector"]


def half_hubness(vectors_ND: NDArray[np.floating], model: Checkpoint | ModelDirectory) -> NDArray[np.float32]:
    """(N,) half of how near each picture is to strangers (`ndd.model.background`); 0 if the model has no background."""
    background = Background.load(model.directory, dim=vectors_ND.shape[1])
    if background is None:
        return np.zeros(len(vectors_ND), np.float32)
    return (background.hubness(vectors_ND.astype(np.float16)) / 2).astype(np.float32)


def standout_rows(vectors_ND: NDArray[np.floating], model: Checkpoint | ModelDirectory) -> ScoreRows:
    """Rows of cosines less how near the two are to strangers anyway, as a search weighs them; in [-2, 1]."""
    rows, half = cosine_rows(vectors_ND), half_hubness(vectors_ND, model)
    return lambda start, stop: np.minimum(rows(start, stop) - half[start:stop, None] - half[None, :], np.float32(1.0))


def _ndd(album: Album, model: Path | None) -> Ranking:
    said = describe(resolve(model))
    made = "torch, fp32" if said.runtime is None else f"{said.runtime.engine}, {said.runtime.precision}"
    facts = {"model": said.directory.name, "embedding_digest": said.embedding_digest, "runtime": made}
    return standout_rows(embed_album(album, said), said), facts


def _hashes(album: Album, work: Path) -> Columns:
    def block(paths: Sequence[Path]) -> Columns:
        pixels = [_pixels(path) for path in paths]
        return {"pdq": np.stack([pdq(p)[0] for p in pixels]), "phash": np.stack([phash(p) for p in pixels])}

    code = code_of(ndd.baselines, ndd.hashing, ndd.images, ndd.stages.decode)
    return _kept(work, f"hashes-{album.digest()[:12]}-{code}", lambda: _each_block(album, block))


def _mobilenetv2(album: Album, data: Path | None, work: Path) -> Ranking:
    if data is None:
        raise UsageError("mobilenetv2 wants the data folder with its weights: --data or NDD_DATA")
    weights = data / _TEACHER
    teacher = load_teacher(weights)

    def block(paths: Sequence[Path]) -> Columns:
        squares = np.stack([to_square(_pixels(path), _TEACHER_SIDE) for path in paths])
        return {"feature": teacher_features(teacher, squares)}

    code = code_of(ndd.model.teacher, ndd.images, ndd.stages.decode)
    key = f"mobilenetv2-{album.digest()[:12]}-{sha256(weights.read_bytes())[:12]}-{code}"
    return cosine_rows(_kept(work, key, lambda: _each_block(album, block, workers=1))["feature"]), {}


def _sift(album: Album, work: Path) -> Ranking:
    def compute() -> Columns:
        decoder = Decoder(DecodeLimits(), size=_SIFT_SIDE)
        described = [sift(decoder.pixels(path.read_bytes()), side=_SIFT_SIDE) for path in _paths(album)]
        count = np.array([len(descriptors) for descriptors in described])
        return {"scores": sift_scores(described), "keypoints": count}

    code = code_of(ndd.baselines, ndd.images, ndd.stages.decode)
    kept = _kept(work, f"sift-{album.digest()[:12]}-{code}", compute)
    scores = kept["scores"]
    return (lambda start, stop: scores[start:stop]), {"median_keypoints": float(np.median(kept["keypoints"]))}


def _fastdup(album: Album, work: Path) -> Ranking:
    def compute() -> Columns:
        found = bench_peers.fastdup(_paths(album))
        seconds = np.array(found.seconds)
        return {"left": found.left, "right": found.right, "score": found.score, "seconds": seconds}

    kept = _kept(work, f"fastdup-{album.digest()[:12]}-{code_of(bench_peers)}", compute)
    found = Neighbours(left=kept["left"], right=kept["right"], score=kept["score"], seconds=float(kept["seconds"]))
    return neighbour_rows(found, len(album.images)), {"seconds": found.seconds, "reported": len(found.score)}


def _peer_hash(tool: str, album: Album, work: Path) -> Ranking:
    key = f"{tool}-{album.digest()[:12]}-{code_of(bench_peers)}"
    kept = _kept(work, key, lambda: {"hash": bench_peers.peer_hashes(tool, _paths(album))})
    return hamming_rows(kept["hash"]), {}


def _paths(album: Album) -> list[Path]:
    return [album.root / row.image for row in album.images]


def _pixels(path: Path) -> NDArray[np.uint8]:
    return Decoder(DecodeLimits(), size=_TEACHER_SIDE).pixels(path.read_bytes())


def _each_block(album: Album, compute: Callable[[Sequence[Path]], Columns], *, workers: int | None = None) -> Columns:
    """`compute` over the album in blocks, on threads (decoding and the network release the lock), joined in order."""
    paths = _paths(album)
    blocks = [paths[start : start + _BLOCK] for start in range(0, len(paths), _BLOCK)]
    with ThreadPoolExecutor(workers or cores()) as pool:
        parts = list(pool.map(compute, blocks))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


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


def code_of(*modules: ModuleType) -> str:
    """Twelve digits that change with the source of the modules."""
    return sha256("".join(inspect.getsource(module) for module in modules).encode())[:12]


def sha256(content: bytes) -> str:
    """Hex digest."""
    return hashlib.sha256(content).hexdigest()
