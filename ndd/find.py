"""One search, from folders to groups: the order of the steps, whoever runs them.

scan → embed → join → votes → match → glance → collect → keypoints → verify → complete → keypoints → verify → conclude. Every
step's result lies on disk, so a search that was stopped goes on where it was, and the process that leads it holds counts
only.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Protocol, TypeVar

import numpy as np
import pyarrow as pa

from ndd.config import FindConfig, json_digest
from ndd.data.decisions import DecisionStore
from ndd.data.scan import Source, scan
from ndd.data.uris import uri_to_text
from ndd.errors import NothingReadable
from ndd.files import TEMPORARY, atomic_path
from ndd.home import home
from ndd.model.directory import ModelDirectory, describe, resolve
from ndd.model.runtime import forget_ahead
from ndd.parquet import write_table
from ndd.runs import PRIVATE, Output, State, code_version, open_output, read_run, stage_key
from ndd.stages.album import fresh_rows
from ndd.stages.chunks import FAILED, MANIFEST
from ndd.stages.complete import complete
from ndd.stages.conclude import conclude
from ndd.stages.task import SearchTask
from ndd.stages.work import (
    Batch,
    Counts,
    EmbedWork,
    GlanceWork,
    KeypointWork,
    MatchWork,
    VerifyWork,
    VoterWork,
    collect,
    count_votes,
    gather,
    join_album,
)
from ndd.tables import write_failures
from ndd.types import Failure

__all__ = [
    "FindRequest",
    "Runner",
    "Tally",
    "Work",
    "block_size",
    "chunk_size",
    "find",
    "listing_digest",
    "listing_table",
]

T = TypeVar("T")

BLOCK = 256
"""Most items in a block of work."""
BLOCKS = 8
"""Least number of blocks a step is cut into, so that every worker has a share; twice as many from `BLOCK` items on."""


ROUNDS = 4
"""Most times that the groups are asked for pairs the neighbours did not show. Each doubles what is known of a group."""


class Work(Protocol):
    """A piece of work: made once per worker, called with one chunk at a time. A class that has `seconds_in_python` computes in
    Python most of the time, about so long for an item, so that threads are of no use to it."""

    def __call__(self, batch: Batch) -> Counts: ...


@dataclass
class Tally:
    """What a step did: totals of the counts, and the items each worker took. blocks: how many the items were cut into."""

    counts: dict[str, int] = field(default_factory=dict)
    workers: dict[str, int] = field(default_factory=dict)
    blocks: int = 0

    def add(self, worker: str, items: int, counts: Counts) -> None:
        """Count one chunk."""
        self.workers[worker] = self.workers.get(worker, 0) + items
        for name, count in counts.items():
            self.counts[name] = self.counts.get(name, 0) + count

    def join(self, other: Tally) -> None:
        """Count another pass of the same step."""
        self.blocks += other.blocks
        for mine, others in ((self.counts, other.counts), (self.workers, other.workers)):
            for name, count in others.items():
                mine[name] = mine.get(name, 0) + count


class Runner(Protocol):
    """Who does the work: threads of this process (`ndd.local`), or Ray (`pipelines.stages`)."""

    engine: str
    workers: int

    def map(self, work: Callable[[T], Work], task: T, items: Any, *, block: int) -> Tally:
        """Hand out the rows of the Arrow table `items` in blocks of `block`, each in chunks of about block / workers."""

    def call(self, function: Callable[[T], dict[str, Any]], task: T) -> dict[str, Any]:
        """Run one function of the task somewhere and hand back its answer."""


@dataclass(frozen=True, kw_only=True)
class FindRequest:
    """What to search: folders or files, against which others (none: among themselves), how, and where to."""

    paths: Sequence[str | os.PathLike[str]]
    out: str | os.PathLike[str]
    against: Sequence[str | os.PathLike[str]] = ()
    config: FindConfig = field(default_factory=FindConfig)
    model: str | os.PathLike[str] | None = None
    overwrite: bool = False
    block: int | None = None


def block_size(items: int) -> int:
    """Items per block. Rounded down: a last, smaller block is better than one too few."""
    least = BLOCKS if items < BLOCK else 2 * BLOCKS
    return max(1, items // max(least, -(-items // BLOCK)))


def chunk_size(block: int, workers: int) -> int:
    """Items whose results are written together: what all workers have in flight is at most one block."""
    return -(-block // workers)


def find(request: FindRequest, runner: Runner) -> dict[str, Any]:
    """Search and write everything below `request.out`; returns what `run.json` holds.

    Raises NothingReadable if there is no picture or none can be read, ModelError, and StaleOutput or StoreError where
    the output directory is in the way. Stopped at any point, the same call goes on.
    """
    start = time.monotonic()
    model = describe(resolve(request.model))
    listing = _Listing(request)
    key = stage_key(
        {"stage": "find", **request.config.to_dict(), "sided": bool(request.against), "decisions": listing.decisions},
        manifest_digest=listing.digest,
        model_digests={"embedding": model.embedding_digest, "scorer": model.scorer_digest},
        code_version=code_version(),
    )
    with open_output(request.out, key=key, overwrite=request.overwrite) as output:
        if output.state is State.REUSE:
            forget_ahead()
            return read_run(output.directory)
        run = _Search(request, runner, output, model, listing)
        result = run.run()
        result["seconds"]["total"] = round(time.monotonic() - start, 3)
        return output.finish(result)


def listing_table(sources: Sequence[Source]) -> Any:
    """Arrow table, schema MANIFEST, of pictures on one side."""
    return _manifest(sources, [_stat(source) for source in sources], [0] * len(sources))


def listing_digest(manifest: Any, failures: Sequence[Failure]) -> str:
    """sha256 (hex) of names, sizes and times of change: contents are read later, and only once."""
    digest = hashlib.sha256()
    for row in zip(*(manifest.column(name).to_pylist() for name in ("path", "size", "mtime_ns", "side")), strict=True):
        digest.update(json.dumps(row).encode() + b"\n")
    for failure in failures:
        digest.update(json.dumps([failure.path, failure.stage, failure.reason]).encode() + b"\n")
    return digest.hexdigest()


class _Listing:
    """The pictures and decisions a search starts from."""

    def __init__(self, request: FindRequest) -> None:
        # The output directory may lie below a root; what is in there is not part of the album.
        out = os.path.join(os.path.realpath(request.out), "")
        found, self.failures = scan([*request.paths, *request.against])
        sources = [source for source in found if not source.uri.startswith(out)]
        self.count = len(sources) + len(self.failures)
        asked = {source.uri for source in scan(request.paths)[0]} if request.against else set()
        sides = [int(bool(request.against) and source.uri not in asked) for source in sources]
        store, relation = DecisionStore(home().decisions), request.config.relation
        self.must = tuple((str(a), str(b)) for a, b in store.must_links(relation=relation))
        self.cannot = tuple((str(a), str(b)) for a, b in store.cannot_links(relation=relation))
        self.decisions = json_digest([self.must, self.cannot])
        self.table = _manifest(sources, [_stat(source) for source in sources], sides)
        self.digest = listing_digest(self.table, self.failures)


class _Search:
    """The steps of one search in an output directory that is ours."""

    def __init__(
        self, request: FindRequest, runner: Runner, output: Output, model: ModelDirectory, listing: _Listing
    ) -> None:
        self.request, self.runner, self.output, self.model, self.listing = request, runner, output, model, listing
        self.seconds: dict[str, float] = {}
        self.task = self._task()

    def run(self) -> dict[str, Any]:
        """All steps; what `run.json` is to hold."""
        memory = peak_memory()
        self._tidy()
        write_table(self.task.manifest, self.listing.table)
        if self.listing.failures:
            rows = {name: [getattr(failure, name) for failure in self.listing.failures] for name in FAILED.names}
            self.task.failure_store().write(rows, of=["scan"])
        embedded, reused = self._embed()
        readable = reused + _good(embedded)
        if not readable:
            self._give_up()
        self._call("join", join_album)
        if self.task.uses_keypoints:
            if reused:  # the others have been looked at while they were embedded
                self._map("voters", VoterWork, _numbers("row", range(readable)))
            self._call("votes", count_votes)
        matched = self._map("match", MatchWork, _numbers("row", range(readable)))
        if self.task.uses_keypoints:
            proposed = self._call("gather", gather)
            self._map("glance", GlanceWork, _numbers("pair", range(proposed["pairs"])))
        collected = self._call("collect", collect)
        verified = self._verify(collected)
        completed = collected
        for _ in range(ROUNDS):
            before, completed = completed, self._call("complete", complete)
            if completed["pending"]:
                verified.join(self._verify(completed))
            if completed["pairs"] == before["pairs"]:
                break
        facts = {**self._facts(), "embedded": _good(embedded), "reused": reused, "seconds": dict(self.seconds)}
        with atomic_path(self.task.facts) as temporary:
            temporary.write_text(json.dumps(facts), encoding="utf-8")
        result = self._call("conclude", conclude)
        self._take_over(result.pop("files"))
        return {
            **facts,
            **result,
            "candidates": {
                "pairs": completed["pairs"],
                "completing": completed["pairs"] - collected["pairs"],
                "verify": completed["verify"],
                "verified": verified.counts.get("pairs", 0),
            },
            "blocks": {"embed": embedded.blocks, "match": matched.blocks, "verify": verified.blocks},
            "workers": {"embed": embedded.workers, "match": matched.workers, "verify": verified.workers},
            "seconds": self.seconds,
            "memory": {"start_mib": memory, "growth_mib": round(peak_memory() - memory, 1)},
        }

    def _embed(self) -> tuple[Tally, int]:
        """What was embedded now, and how many pictures an earlier run had done. A failure is always tried again."""
        with self._timed("plan"):
            manifest = self.listing.table
            done = [row for row, _, _ in fresh_rows(manifest, self.task.picture_store())]
            left = np.ones(len(manifest), bool)
            left[done] = False
            pending = manifest.select(["path", "uri", "size", "mtime_ns"]).filter(pa.array(left))
            if not len(pending):
                forget_ahead()
        block = self.request.block or block_size(len(manifest))
        with self._timed("embed"):
            return self.runner.map(EmbedWork, self.task, pending, block=block), len(done)

    def _verify(self, counts: Counts) -> Tally:
        """Verify the pending pairs that `counts` tells of."""
        self._map("keypoints", KeypointWork, _numbers("wanted", range(counts["wanted"])))
        return self._map("verify", VerifyWork, _numbers("pair", range(counts["pending"])))

    def _map(self, name: str, work: Callable[[SearchTask], Work], items: Any) -> Tally:
        with self._timed(name):
            return self.runner.map(work, self.task, items, block=self.request.block or block_size(len(items)))

    def _call(self, name: str, function: Callable[[SearchTask], dict[str, Any]]) -> dict[str, Any]:
        with self._timed(name):
            return self.runner.call(function, self.task)

    @contextlib.contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - start, 3)

    def _task(self) -> SearchTask:
        code, config, model = code_version(), self.request.config, self.model.config
        made_by = {"code": code, "limits": config.limits.to_dict(), "size": model.image_size}
        return SearchTask(
            config=config,
            model=str(self.model.directory.absolute()),
            embedding_digest=self.model.embedding_digest,
            dim=model.dim,
            image_size=model.image_size,
            calibration=self.model.calibration,
            private=str(self.output.directory / PRIVATE),
            pictures=f"embed-{json_digest({**made_by, 'model': self.model.embedding_digest})[:16]}",
            evidence=f"verify-{json_digest(made_by)[:16]}",
            sided=bool(self.request.against),
            must=self.listing.must,
            cannot=self.listing.cannot,
        )

    def _tidy(self) -> None:
        """Remove the caches of other models and versions, and what a stopped run proposed."""
        private = Path(self.task.private)
        for kind in ("embed-*", "verify-*"):
            for directory in private.glob(kind):
                if directory.name not in (self.task.pictures, self.task.evidence):
                    shutil.rmtree(directory)
        for store in (self.task.proposal_store(), self.task.seen_store(), self.task.failure_store()):
            shutil.rmtree(store.directory, ignore_errors=True)
        shutil.rmtree(self.task.joined, ignore_errors=True)
        for store in (self.task.picture_store(), self.task.evidence_store()):
            for leftover in store.directory.glob(TEMPORARY):
                leftover.unlink(missing_ok=True)

    def _take_over(self, files: Sequence[str]) -> None:
        """Move what `conclude` wrote to where it belongs. It may have run on another machine, which holds no lock."""
        for name, path in zip(files, self.output.paths(*files), strict=True):
            os.replace(self.task.result / name, path)

    def _facts(self) -> dict[str, Any]:
        """What is known before the end."""
        return {
            "images": self.listing.count,
            "engine": self.runner.engine,
            "config": self.request.config.to_dict(),
            "paths": [os.fspath(path) for path in self.request.paths],
            "against": [os.fspath(path) for path in self.request.against],
            "model": {"directory": str(self.model.directory), "card": dict(self.model.card)},
            "digests": {
                "embedding": self.model.embedding_digest,
                "scorer": self.model.scorer_digest,
                "code": code_version(),
            },
        }

    def _give_up(self) -> NoReturn:
        failures = self.task.unreadable()
        write_failures(self.output.path("failures.parquet"), failures)
        where = ", ".join(os.fspath(path) for path in [*self.request.paths, *self.request.against])
        if not failures:
            raise NothingReadable(f"{where}: no picture there; name a folder with pictures or a picture file")
        first = failures[0]
        raise NothingReadable(
            f"{where}: none of {len(failures)} files could be read, e.g. {first.path} ({first.stage}: {first.reason}); "
            f"all are listed in {self.output.directory / 'failures.parquet'}"
        )


def _manifest(sources: Sequence[Source], stats: Sequence[tuple[int, int]], sides: Sequence[int]) -> Any:
    columns = [
        [source.path for source in sources],
        [uri_to_text(source.uri) for source in sources],
        [size for size, _ in stats],
        [time_ns for _, time_ns in stats],
        sides,
    ]
    return pa.Table.from_arrays([pa.array(c, f.type) for c, f in zip(columns, MANIFEST, strict=True)], schema=MANIFEST)


def peak_memory() -> float:
    """Most memory this process has held so far, MiB."""
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))


def _good(embedded: Tally) -> int:
    return embedded.counts.get("images", 0) - embedded.counts.get("failed", 0)


def _numbers(name: str, values: Any) -> Any:
    return pa.table({name: pa.array(values, pa.int64())})


def _stat(source: Source) -> tuple[int, int]:
    """Size and time of change; −1 where the file is gone by now (reading it will say so)."""
    try:
        status = os.stat(source.uri)
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns
