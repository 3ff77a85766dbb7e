"""Embeddings of whole folders in one Parquet file, by any runner."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from ndd.config import FindConfig, json_digest
from ndd.data.scan import Source, scan
from ndd.errors import NothingReadable
from ndd.find import Runner, block_size, listing_table
from ndd.model.directory import describe, resolve
from ndd.parquet import write_table
from ndd.provenance import code_version
from ndd.stages.album import fresh_rows
from ndd.stages.task import SearchTask
from ndd.stages.work import EmbedWork
from ndd.tables import write_vectors
from ndd.types import Failure

__all__ = ["Embedded", "embed_files", "embed_sources"]


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """How many vectors were written, the pictures that have none, and how many each worker made."""

    vectors: int
    failures: list[Failure]
    workers: dict[str, int]


def embed_files(
    paths: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    runner: Runner,
    *,
    model: str | os.PathLike[str] | None = None,
) -> Embedded:
    """Write the vectors of all pictures below `paths` to `out`, in the schema of `ndd.tables.vectors_schema`.

    A run that was stopped goes on where it was: what it has done lies beside `out` until the file is complete.
    Raises NothingReadable, ModelError.
    """
    sources, failures = scan(paths)
    if not sources:
        where = ", ".join(os.fspath(path) for path in paths)
        said_first = f", e.g. {failures[0].path}: {failures[0].reason}" if failures else ""
        raise NothingReadable(f"{where}: no picture there that can be read{said_first}; name a folder with pictures")
    return embed_sources(sources, out, runner, model=model, failures=failures)


def embed_sources(
    sources: Sequence[Source],
    out: str | os.PathLike[str],
    runner: Runner,
    *,
    model: str | os.PathLike[str] | None = None,
    failures: Sequence[Failure] = (),
) -> Embedded:
    """As `embed_files`, for pictures that are listed already, sorted by path. failures: of the listing, handed on."""
    said = describe(resolve(model))
    target = Path(os.path.abspath(out))
    made_by = {"code": code_version(), "model": said.embedding_digest}
    task = SearchTask(
        config=FindConfig(verify="none"),
        model=str(said.directory.absolute()),
        embedding_digest=said.embedding_digest,
        dim=said.config.dim,
        image_size=said.config.image_size,
        calibration=None,
        private=str(target.with_name(f".{target.name}.partial")),
        pictures=f"embed-{json_digest(made_by)[:16]}",
        evidence="none",
        sided=False,
        vectors_only=True,
    )
    task.partial.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(task.failure_store().directory, ignore_errors=True)
    manifest = listing_table(sources)
    write_table(task.manifest, manifest)
    done = {row for row, _, _ in fresh_rows(manifest, task.picture_store())}
    pending = manifest.filter(pa.array([row not in done for row in range(len(manifest))], pa.bool_()))
    tally = runner.map(EmbedWork, task, pending, block=block_size(len(manifest)))
    failures = [*failures, *task.unreadable()]
    if len(sources) == len(task.unreadable()):
        first = failures[0]
        raise NothingReadable(
            f"none of {len(sources)} pictures can be read, e.g. {first.path}: {first.reason}; name a folder with pictures"
        )
    written = runner.call(_Write(str(target), said.embedding_digest), task)
    shutil.rmtree(task.private)
    return Embedded(vectors=written["vectors"], failures=failures, workers=tally.workers)


@dataclass(frozen=True)
class _Write:
    """Gather the chunks into one file."""

    target: str
    digest: str

    def __call__(self, task: SearchTask) -> dict[str, Any]:
        album = task.album()
        write_vectors(self.target, album.texts("path"), album.vectors, model=self.digest)
        return {"vectors": len(album)}
