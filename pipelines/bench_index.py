"""The index store alone, in process: how quickly it opens, answers and takes pictures, and how much of the truth it finds.

Made-up unit vectors, around random centres or without any order, in packed pictures with few keypoints (searching does not
read them). Opening is timed in a process of its own, imports left out. The exact search over the same vectors is the truth,
and the measure to compare the times with: on a machine with other work trust the ratio, and processor time.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ndd.errors import NddError, UsageError

if TYPE_CHECKING:
    from ndd.index.store import Entry, IndexStore

__all__ = ["fill", "made_vectors", "measure", "near_vectors", "row_id", "table"]

_DIGEST = "0" * 64
_BLOCK = 2000
_PER_GROUP = 50
_SPREAD = 0.8
_OPEN = """
import json, sys, time
from ndd.index.store import IndexStore
wall, cpu = time.perf_counter(), time.process_time()
store = IndexStore.open(sys.argv[1], read_only=True)
print(json.dumps([time.perf_counter() - wall, time.process_time() - cpu]))
"""


def measure(
    work: Path,
    *,
    images: int = 100_000,
    dim: int = 256,
    clustered: bool = True,
    queries: int = 400,
    k: int = 10,
    seed: int = 0,
) -> dict[str, Any]:
    """Build an index of `images` below `work` and measure it. The index is removed at the end. Raises UsageError."""
    from ndd.index.flat import FlatIndex
    from ndd.index.store import IndexStore

    if min(images, queries, k) < 1 or images < 2 * k:
        raise UsageError(f"--images {images}, --queries {queries}: too few to measure with")
    vectors = made_vectors(images, dim, clustered=clustered, seed=seed)
    root = work / f"index-{images}"
    shutil.rmtree(root, ignore_errors=True)
    try:
        with IndexStore.create(root, embedding_digest=_DIGEST, dim=dim) as store:
            building = _timed(lambda: fill(store, vectors))
            single = [_timed(lambda i=i: store.add([_entry(images + i, vectors[0])])) for i in range(20)]  # type: ignore[misc]
            store.remove([row_id(images + i) for i in range(20)])
            compacting = _timed(store.compact)
            info = store.info()
        opening = [_opened(root) for _ in range(3)]
        asked = near_vectors(vectors, queries, seed=seed + 1)
        flat = FlatIndex(dim)
        flat.add(vectors)
        with IndexStore.open(root, read_only=True) as store:
            found = [_one(lambda q=q: [hit.id for hit in store.query(q[None], k=k)[0]]) for q in asked]  # type: ignore[misc]
        truth = [_one(lambda q=q: flat.search(q[None], k=k).rows[0]) for q in asked]  # type: ignore[misc]
    finally:
        shutil.rmtree(root, ignore_errors=True)
    hits = [
        len({row_id(int(row)) for row in rows} & set(ids)) / k
        for (rows, *_), (ids, *_) in zip(truth, found, strict=True)
    ]
    return {
        "images": images,
        "dim": dim,
        "clustered": clustered,
        "search": info["search"],
        "recall": float(np.mean(hits)),
        "k": k,
        "query_ms": _quantiles([wall for _, wall, _ in found]),
        "query_cpu_ms": _quantiles([cpu for *_, cpu in found]),
        "exact_ms": _quantiles([wall for _, wall, _ in truth]),
        "open_s": {"wall": min(wall for wall, _ in opening), "cpu": min(cpu for _, cpu in opening)},
        "build_s": building,
        "compact_s": compacting,
        "add_one_ms": _quantiles(single),
        "bytes": info["bytes"],
    }


def made_vectors(count: int, dim: int, *, clustered: bool, seed: int) -> NDArray[np.float16]:
    """(N, D) unit vectors; clustered: about 50 around each centre, at a cosine of about .78 to it."""
    random = np.random.default_rng(seed)
    made = random.standard_normal((count, dim), np.float32)
    if clustered:
        centres = random.standard_normal((max(1, count // _PER_GROUP), dim), np.float32)
        made = centres[random.integers(0, len(centres), count)] + np.float32(_SPREAD) * made
    return np.asarray(made / np.linalg.norm(made, axis=1, keepdims=True), np.float16)


def near_vectors(vectors: NDArray[np.float16], count: int, *, seed: int) -> NDArray[np.float16]:
    """(Q, D) unit vectors at a distance (1 − cosine) of about .04 of stored ones, as edited copies are."""
    random = np.random.default_rng(seed)
    own = vectors[random.integers(0, len(vectors), count)].astype(np.float32)
    made = own + 0.3 * own.shape[1] ** -0.5 * random.standard_normal(own.shape)
    return np.asarray(made / np.linalg.norm(made, axis=1, keepdims=True), np.float16)


def row_id(row: int) -> str:
    """What a made-up picture is called."""
    return f"photos/{row:07d}.jpg"


def _entry(row: int, vector: NDArray[np.float16]) -> Entry:
    from ndd.index.store import Entry
    from ndd.known import KnownPicture
    from ndd.types import ImageId
    from ndd.verify.keypoints import Keypoints

    random = np.random.default_rng(row)
    keys = Keypoints(
        points=random.random((2, 2), np.float32),
        scales=random.random(2, np.float32),
        angles=random.random(2, np.float32),
        descriptors=random.integers(0, 255, (2, 128), np.uint8),
        thumb=random.integers(0, 255, (8, 8), np.uint8),
        width=640,
        height=480,
    )
    picture = KnownPicture(
        id=ImageId(hashlib.sha256(str(row).encode()).hexdigest()),
        vector=vector.reshape(1, -1),
        hashes=random.integers(0, 256, (8, 32), np.uint8),
        facts={"quality": 90, "flat": False, "hubness": 0.0},
        keys=keys,
    )
    return Entry(id=row_id(row), picture=picture)


def fill(store: IndexStore, vectors: NDArray[np.float16]) -> None:
    """Keep a made-up picture for each of the (N, D) vectors."""
    for start in range(0, len(vectors), _BLOCK):
        store.add([_entry(row, vectors[row]) for row in range(start, min(start + _BLOCK, len(vectors)))])


def _opened(root: Path) -> tuple[float, float]:
    """(wall, processor) seconds of opening in a fresh process."""
    done = subprocess.run([sys.executable, "-c", _OPEN, str(root)], capture_output=True, text=True)
    if done.returncode != 0:
        raise NddError(f"opening {root} failed: {done.stderr.strip()[-300:]}")
    wall, cpu = json.loads(done.stdout)
    return float(wall), float(cpu)


def _timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _one(run: Callable[[], Any]) -> tuple[Any, float, float]:
    """The answer, and its (wall, processor) seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    answer = run()
    return answer, time.perf_counter() - wall, time.process_time() - cpu


def _quantiles(seconds: list[float]) -> dict[str, float]:
    """Median and 99th percentile in milliseconds."""
    return {"p50": float(np.median(seconds)) * 1e3, "p99": float(np.quantile(seconds, 0.99)) * 1e3}


def table(figures: Mapping[str, Any]) -> str:
    """The figures for people."""
    return "\n".join(_lines(figures))


def _lines(figures: Mapping[str, Any]) -> Iterator[str]:
    kind = "clustered" if figures["clustered"] else "without clusters"
    search = ", ".join(f"{name} {value}" for name, value in figures["search"].items())
    yield f"{figures['images']} vectors of {figures['dim']} numbers, {kind}; {search}"
    yield f"recall@{figures['k']} {figures['recall']:.4f}"
    for name, of in (("query", "query_ms"), ("query, processor", "query_cpu_ms"), ("exact search", "exact_ms")):
        yield f"{name:<18} p50 {figures[of]['p50']:8.2f} ms   p99 {figures[of]['p99']:8.2f} ms"
    yield f"opening            {figures['open_s']['wall']:.2f} s, of the processor {figures['open_s']['cpu']:.2f} s"
    yield f"adding one         p50 {figures['add_one_ms']['p50']:8.2f} ms; all {figures['build_s']:.1f} s"
