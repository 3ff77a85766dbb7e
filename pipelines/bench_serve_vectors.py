"""A vector looked up among 100,000 by HTTP: the time of one client, and how much of the truth is found.

The vectors are made up (`pipelines.bench_index`), stamped as if the model that serves had made them. Beside it stand the
same queries put to the index in this process, in turns with them: the difference is what HTTP and Ray cost.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.bench_index import fill, made_vectors, near_vectors, row_id
from pipelines.bench_serve import Workload, served
from pipelines.bench_serve_load import Call, Seen, load

__all__ = ["measure", "table"]

_TURNS = 10


def measure(
    work: Workload, *, model: Path, images: int, queries: int, k: int = 10, settings: Sequence[str] = ()
) -> dict[str, Any]:
    """Fill an index of vectors in groups, as albums are, serve it, and ask for vectors close to some of them."""
    from ndd.detector import Detector
    from ndd.index.flat import FlatIndex
    from ndd.index.store import IndexStore

    detector = Detector(model)
    digest, dim = detector.model.embedding_digest, detector.embedder.dim
    vectors = made_vectors(images, dim, clustered=True, seed=0)
    asked = near_vectors(vectors, queries, seed=1)
    truth = FlatIndex(dim)
    truth.add(vectors)
    wanted = [{row_id(int(row)) for row in truth.search(one[None], k=k).rows[0]} for one in asked]
    with tempfile.TemporaryDirectory(prefix="ndd-vectors-") as home:
        root = Path(home) / "index" / "serve"
        with IndexStore.create(root, embedding_digest=digest, dim=dim) as store:
            fill(store, vectors)
            store.compact()
        calls = [_call(work, one, digest, k) for one in asked]
        with (
            IndexStore.open(root, read_only=True) as store,
            served(work, Path(home), [f"model={model}", *settings]) as (port, _),
        ):
            _turn(port, calls[:50])  # the first ones wait for the model and the index
            seen, inside, hits = Seen(), [], []
            for part in np.array_split(np.arange(queries), _TURNS):
                turn, found = _turn(port, [calls[i] for i in part])
                seen.merge(turn)
                hits += [len(wanted[i] & ids) / k for i, ids in zip(part, found, strict=True)]
                inside += [_timed(store, asked[i], k) for i in part]
    return {
        "images": images,
        "dim": dim,
        "k": k,
        "http": seen.figures(),
        "in_process_ms": {"p50": round(1e3 * float(np.median(inside)), 2)},
        "recall": round(float(np.mean(hits)), 4),
    }


def _call(work: Workload, vector: NDArray[np.float16], digest: str, k: int) -> Call:
    body = json.dumps({"vector": vector.astype(float).tolist(), "embedding_digest": digest, "k": k}).encode()
    headers = {**work.headers, "Content-Type": "application/json"}
    return Call(method="POST", path="/v1/query", body=body, headers=headers)


def _turn(port: int, calls: Sequence[Call]) -> tuple[Seen, list[set[str]]]:
    """Each call once, one after the other, and the ids it found."""
    found: list[set[str]] = []

    def take(call: Call, status: int, body: bytes) -> None:
        said = json.loads(body) if status == 200 else {"matches": []}
        found.append({match["id"] for match in said["matches"]})

    return load(port, calls, clients=1, requests=len(calls), seconds=600.0, check=take), found


def _timed(store: Any, vector: NDArray[np.float16], k: int) -> float:
    start = time.perf_counter()
    store.query(vector[None], k=k)
    return time.perf_counter() - start


def table(figures: Mapping[str, Any]) -> str:
    """The figures for people."""
    http = figures["http"]
    return (
        f"{figures['images']} vectors of {figures['dim']} numbers by HTTP, one client, {http['requests']} queries: "
        f"p50 {http['p50']} ms, p99 {http['p99']} ms, recall@{figures['k']} {figures['recall']}; "
        f"in process p50 {figures['in_process_ms']['p50']} ms"
    )
