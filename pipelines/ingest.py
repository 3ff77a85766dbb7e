"""`python -m pipelines ingest`: folders → manifest (content id, size, date, split), failures, and a pack for training.

DIR/manifest.parquet   one row per readable picture       DIR/failures.parquet   the others, with stage and reason
DIR/pack/              with --pack SIZE: decoded squares   DIR/run.json           written last
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from ndd.config import DecodeLimits
from ndd.data.manifest import MANIFEST, ManifestRow, assign_splits, manifest_digest, write_manifest
from ndd.data.pack import write_pack
from ndd.data.scan import Source, scan
from ndd.data.uris import text_to_uri
from ndd.errors import NothingReadable, UsageError
from ndd.find import block_size, listing_digest, listing_table
from ndd.runs import Output, State, code_version, open_output, read_run, stage_key
from ndd.stages.chunks import FAILED, ChunkStore
from ndd.stages.decode import Decoder
from ndd.stages.work import Counts
from ndd.tables import write_failures
from ndd.types import Failure, ImageId
from pipelines.session import default_workers, ray_session
from pipelines.stages import RayRunner

__all__ = ["ListTask", "ListWork", "add_arguments", "run"]

PACK_FILES = ("images.npy", "pictures.parquet", "failures.parquet", "pack.json")
_LISTED = pa.schema([field for field in MANIFEST if field.name not in ("sha256", "split")])


@dataclass(frozen=True, kw_only=True)
class ListTask:
    """What a worker needs to know: where to write, and what a picture may cost."""

    partial: str
    limits: DecodeLimits

    def listed(self) -> ChunkStore:
        """Readable pictures."""
        return ChunkStore(Path(self.partial) / "listed", _LISTED)

    def failed(self) -> ChunkStore:
        """The others."""
        return ChunkStore(Path(self.partial) / "failed", FAILED)


class ListWork:
    """Read and decode files: {"path", "uri"} → rows of the manifest. Decoding is what tells a cut file from a whole one."""

    def __init__(self, task: ListTask) -> None:
        self._task = task
        # The square is not needed: a small one costs least.
        self._decoder = Decoder(task.limits, size=32)

    def __call__(self, batch: Mapping[str, Any]) -> Counts:
        """Counts: images, failed."""
        answers = self._decoder({"path": batch["path"], "uri": [text_to_uri(uri) for uri in batch["uri"]]})
        good = [(at, answer.facts) for at, answer in enumerate(answers) if not isinstance(answer, Failure)]
        bad = [answer for answer in answers if isinstance(answer, Failure)]
        if good:
            given = {name: [batch[name][at] for at, _ in good] for name in ("path", "uri", "size")}
            found = {name: [facts[name] for _, facts in good] for name in _LISTED.names if name not in given}
            self._task.listed().write(given | found, of=given["path"])
        if bad:
            rows = {name: [getattr(failure, name) for failure in bad] for name in FAILED.names}
            self._task.failed().write(rows, of=rows["path"])
        return {"images": len(answers), "failed": len(bad)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `python -m pipelines ingest`."""
    parser.add_argument("paths", nargs="+", metavar="PATH", help="folders or picture files")
    parser.add_argument("--out", required=True, metavar="DIR")
    parser.add_argument(
        "--test", type=float, default=0.2, metavar="SHARE", help="share of contents kept for testing (0.2)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the split (0)")
    parser.add_argument("--pack", type=int, metavar="SIZE", help="also store the pictures as squares of SIZE pixels")
    parser.add_argument("--workers", type=int, metavar="N", help="how many work at once (default: one per core)")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an output made with other settings or pictures"
    )
    parser.add_argument("--json", action="store_true", help="print run.json and nothing else")


def run(arguments: argparse.Namespace) -> int:
    """List the pictures; returns the exit code."""
    if not 0.0 <= arguments.test < 1.0:
        raise UsageError(f"--test {arguments.test}: a share of the pictures lies in 0…1")
    if arguments.pack is not None and not 16 <= arguments.pack <= 1024:
        raise UsageError(f"--pack {arguments.pack}: a size in pixels lies in 16…1024")
    told = ingest(arguments)
    if arguments.json:
        print(json.dumps(told, indent=2, sort_keys=True, ensure_ascii=False))  # noqa: T201
    else:
        print(f"{told['readable']} pictures listed in {arguments.out}; {told['failed']} could not be read")  # noqa: T201
    return 0


def ingest(arguments: argparse.Namespace) -> dict[str, Any]:
    """List and pack the pictures; what run.json holds. Raises NothingReadable, StaleOutput, StoreError."""
    sources, missed = scan(arguments.paths)
    settings = {name: getattr(arguments, name) for name in ("test", "seed", "pack")}
    manifest = listing_table(sources)
    key = stage_key(
        {"stage": "ingest", **settings},
        manifest_digest=listing_digest(manifest, missed),
        model_digests={},
        code_version=code_version(),
    )
    with open_output(arguments.out, key=key, overwrite=arguments.overwrite) as output:
        if output.state is State.REUSE:
            return read_run(output.directory)
        task = ListTask(partial=str(output.partial), limits=DecodeLimits())
        workers = arguments.workers or default_workers()
        with ray_session(workers=workers):
            items = manifest.select(["path", "uri", "size"])
            tally = RayRunner(workers=workers).map(ListWork, task, items, block=block_size(len(items)))
        failures = [*missed, *(Failure(**row) for row in task.failed().read().to_pylist())]
        rows = assign_splits(_rows(task), test=arguments.test, seed=arguments.seed)
        write_failures(output.path("failures.parquet"), failures)
        if not rows:
            raise NothingReadable(
                f"{', '.join(arguments.paths)}: no picture there that can be read; name another folder"
            )
        write_manifest(output.path("manifest.parquet"), rows)
        if arguments.pack is not None:
            _pack(arguments.pack, output, rows)
        return output.finish(
            {
                "images": len(sources) + len(missed),
                "readable": len(rows),
                "failed": len(failures),
                "contents": len({row.id for row in rows}),
                "splits": {
                    str(split): sum(row.split == split for row in rows) for split in {row.split for row in rows}
                },
                "digests": {"manifest": manifest_digest(rows, failures=failures), "code": code_version()},
                "config": settings,
                "engine": "ray",
                "blocks": tally.blocks,
                "workers": tally.workers,
            }
        )


def _rows(task: ListTask) -> list[ManifestRow]:
    found = {row["path"]: row for row in task.listed().read().to_pylist()}
    return [
        ManifestRow(**{**row, "id": ImageId(row["id"]), "uri": text_to_uri(row["uri"])})
        for _, row in sorted(found.items())
    ]


def _pack(size: int, output: Output, rows: Sequence[ManifestRow]) -> None:
    """Store the listed pictures as squares; a manifest's pictures that share their bytes are stored once."""
    names = output.paths(*(f"pack/{name}" for name in PACK_FILES))
    write_pack([Source(row.path, row.uri) for row in rows], names[0].parent, size)
