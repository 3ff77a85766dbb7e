"""Vectors and search results of a model over an album, computed on Ray Data in bounded memory.

Each picture is a row of work; vectors and evidence go to files, worker by worker, and nothing of the size N × N exists. What
has been computed stays below the work folder and is used again by the same command.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndd.config import FindConfig
from ndd.data.scan import Source, encode_path
from ndd.errors import NothingReadable
from ndd.find import FindRequest, Runner, find
from ndd.model.directory import describe
from ndd.tables import GroupRow, PairRow, read_failures, read_groups, read_pairs, read_vectors
from ndd.types import Failure
from ndd.vectors import embed_sources
from pipelines.album import Album

__all__ = ["Embedded", "Searched", "embed_album", "readable", "search_album", "teller"]


@dataclass(frozen=True, eq=False)
class Embedded:
    """vectors (N, D) float32 in the album's order, of the pictures that can be read; failures: those that cannot."""

    album: Album
    vectors: NDArray[np.float32]
    failures: tuple[Failure, ...]


@dataclass(frozen=True, eq=False)
class Searched:
    """What `ndd find` made of an album; paths are the album's names of its pictures."""

    pairs: list[PairRow]
    groups: list[GroupRow]
    run: Mapping[str, Any]


def embed_album(album: Album, model: Path, work: Path, runner: Runner) -> Embedded:
    """The vectors of all pictures; those that cannot be read are left out of the album and listed.

    Raises NothingReadable, ModelError.
    """
    said = describe(model)
    target = work / f"vectors-{said.embedding_digest[:12]}-{_digest(album)}.parquet"
    failures: Sequence[Failure] = ()
    if not target.is_file():
        work.mkdir(parents=True, exist_ok=True)
        sources = sorted(Source(row.image, os.fspath((album.root / row.image).absolute())) for row in album.images)
        failures = embed_sources(sources, target, runner, model=model).failures
    held = read_vectors(target)
    at = {path: row for row, path in enumerate(held.paths)}
    kept = tuple(row for row in album.images if row.image in at)
    if not failures:
        failures = [Failure(path=r.image, stage="embed", reason="no vector") for r in album.images if r.image not in at]
    if not kept:
        raise NothingReadable(f"{album.root}: no picture of the truth can be read")
    return Embedded(Album(album.root, kept), held.vectors[[at[row.image] for row in kept]], tuple(failures))


def search_album(album: Album, model: Path, work: Path, runner: Runner) -> Searched:
    """Search the album as `ndd find` does with its default settings, but keep every candidate.

    The evidence of keypoints depends on the pictures alone: a second model on the same album finds most of it there.
    """
    out = work / f"search-{_digest(album)}"
    paths = [os.fspath((album.root / row.image).absolute()) for row in album.images]
    request = FindRequest(paths=paths, out=out, config=FindConfig(floor=0.0), model=model, overwrite=True)
    run = find(request, runner)
    names = {encode_path(os.fsencode(path)): row.image for path, row in zip(paths, album.images, strict=True)}
    pairs = []
    for row in read_pairs(out / "pairs.parquet"):
        pairs.append(replace(row, left=names[row.left], right=names[row.right]))
    groups = [replace(row, path=names[row.path]) for row in read_groups(out / "groups.parquet")]
    return Searched(pairs, groups, run | {"failures": len(read_failures(out / "failures.parquet"))})


def readable(album: Album, failures: Sequence[Failure]) -> Album:
    """The album without the pictures that cannot be read."""
    bad = {failure.path for failure in failures}
    return Album(album.root, tuple(row for row in album.images if row.image not in bad))


def teller(what: str) -> Callable[[int, int], None]:
    """Progress on stderr: a line that is rewritten on a terminal, else a line every ten seconds."""
    began = last = time.monotonic()
    terminal = sys.stderr.isatty()

    def tell(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if done < total and now - last < (0.2 if terminal else 10.0):
            return
        last = now
        line = f"{what}: {done:,} of {total:,} ({now - began:.0f} s)"
        sys.stderr.write(f"\r\033[K{line}" + ("\n" if done >= total else "") if terminal else line + "\n")
        sys.stderr.flush()

    return tell


def _digest(album: Album) -> str:
    whole = hashlib.sha256(os.fspath(album.root.absolute()).encode())
    for row in album.images:
        status = (album.root / row.image).stat()
        whole.update(f"{row.image}\n{status.st_size}\n{status.st_mtime_ns}\n".encode())
    return whole.hexdigest()[:12]
