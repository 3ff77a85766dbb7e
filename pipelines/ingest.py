"""`python -m pipelines ingest`: folders, object stores, tars, Parquet → manifest (content id, size, date, split, group),
failures, and a pack for training.

DIR/manifest.parquet   one row per readable picture       DIR/failures.parquet   the others, with stage and reason
DIR/pack/              with --pack SIZE: decoded squares   DIR/run.json           written last
DIR/parts/             with --parts: the pack in files of at most 36 MiB, to be carried to another machine
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from ndd.config import DecodeLimits
from ndd.data.manifest import MANIFEST, ManifestRow, assign_splits, join_groups, manifest_digest, write_manifest
from ndd.data.pack import write_pack
from ndd.data.parts import write_parts
from ndd.data.scan import Source
from ndd.data.uris import text_to_uri, uri_to_text
from ndd.errors import InputError, NothingReadable, SchemaError, UsageError
from ndd.find import block_size, listing_digest
from ndd.runs import Output, State, code_version, open_output, read_run, stage_key
from ndd.stages.chunks import FAILED, ChunkStore
from ndd.stages.chunks import MANIFEST as LISTING
from ndd.stages.decode import Decoder, Reading
from ndd.stages.work import Counts
from ndd.tables import write_failures
from ndd.types import Failure, ImageId
from pipelines.session import default_workers, ray_session
from pipelines.sources import Listed, list_sources, read_source
from pipelines.stages import RayRunner

__all__ = ["ListTask", "ListWork", "add_arguments", "run"]

PACK_FILES = ("images.npy", "pictures.parquet", "failures.parquet", "pack.json")
_LISTED = pa.schema([field for field in MANIFEST if field.name not in ("sha256", "split", "group")])


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


class _Reader(Decoder):
    """Reads pictures wherever they lie."""

    def file(self, uri: Any) -> bytes:
        return read_source(uri, limits=self._limits)

    def read(self, content: bytes) -> Reading:
        reading = super().read(content)
        reading.facts["size"] = len(content)
        return reading


class ListWork:
    """Read and decode files: {"path", "uri"} → rows of the manifest. Decoding is what tells a cut file from a whole one."""

    def __init__(self, task: ListTask) -> None:
        self._task = task
        # The square is not needed: a small one costs least.
        self._decoder = _Reader(task.limits, size=32)

    def __call__(self, batch: Mapping[str, Any]) -> Counts:
        """Counts: images, failed."""
        answers = self._decoder({"path": batch["path"], "uri": [text_to_uri(uri) for uri in batch["uri"]]})
        good = [(at, answer.facts) for at, answer in enumerate(answers) if not isinstance(answer, Failure)]
        bad = [answer for answer in answers if isinstance(answer, Failure)]
        if good:
            given = {name: [batch[name][at] for at, _ in good] for name in ("path", "uri")}
            found = {name: [facts[name] for _, facts in good] for name in _LISTED.names if name not in given}
            self._task.listed().write(given | found, of=given["path"])
        if bad:
            rows = {name: [getattr(failure, name) for failure in bad] for name in FAILED.names}
            self._task.failed().write(rows, of=rows["path"])
        return {"images": len(answers), "failed": len(bad)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `python -m pipelines ingest`."""
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="folders, picture files, .tar and .parquet files with pictures, URLs (s3://bucket/prefix …)",
    )
    parser.add_argument("--out", required=True, metavar="DIR")
    parser.add_argument(
        "--test", type=float, default=0.2, metavar="SHARE", help="share of contents kept for testing (0.2)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the split (0)")
    parser.add_argument(
        "--groups",
        type=Path,
        metavar="CSV",
        help="columns path (or image) and group: whole groups on one side of the cut",
    )
    parser.add_argument("--pack", type=int, metavar="SIZE", help="also store the pictures as squares of SIZE pixels")
    parser.add_argument(
        "--parts", action="store_true", help="with --pack: the pack once more, in files of at most 36 MiB"
    )
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
    if arguments.parts and arguments.pack is None:
        raise UsageError("--parts has no effect without --pack SIZE, which says what to cut up")
    told = ingest(arguments)
    if arguments.json:
        print(json.dumps(told, indent=2, sort_keys=True, ensure_ascii=False))  # noqa: T201
    else:
        print(f"{told['readable']} pictures listed in {arguments.out}; {told['failed']} could not be read")  # noqa: T201
    return 0


def ingest(arguments: argparse.Namespace) -> dict[str, Any]:
    """List and pack the pictures; what run.json holds. Raises NothingReadable, StaleOutput, StoreError."""
    sources, missed = list_sources(arguments.paths)
    settings = {name: getattr(arguments, name) for name in ("test", "seed", "pack", "parts")}
    groups = None if arguments.groups is None else _read_groups(arguments.groups)
    manifest = _listing(sources)
    key = stage_key(
        {"stage": "ingest", "groups": groups, **settings},
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
        rows = _rows(task)
        if groups is not None:
            groups = _groups_of(rows, groups)
        rows = assign_splits(rows, groups=groups, test=arguments.test, seed=arguments.seed)
        write_failures(output.path("failures.parquet"), failures)
        if not rows:
            raise NothingReadable(
                f"{', '.join(arguments.paths)}: no picture there that can be read; name another folder"
            )
        write_manifest(output.path("manifest.parquet"), rows)
        parts = 0 if arguments.pack is None else _pack(arguments.pack, output, rows, parts=arguments.parts)
        return output.finish(
            {
                "images": len(sources) + len(missed),
                "readable": len(rows),
                "failed": len(failures),
                "contents": len({row.id for row in rows}),
                "parts": parts,
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


def _listing(sources: Sequence[Listed]) -> Any:
    """Arrow table of what was found, as `ndd.find.listing_digest` reads it."""
    columns = [
        [source.path for source in sources],
        [uri_to_text(source.uri) for source in sources],
        [source.size for source in sources],
        [source.stamp for source in sources],
        [0] * len(sources),
    ]
    return pa.Table.from_arrays([pa.array(c, f.type) for c, f in zip(columns, LISTING, strict=True)], schema=LISTING)


def _read_groups(path: Path) -> dict[str, str]:
    """path → group. Raises InputError, SchemaError."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--groups {path}: cannot be read ({error}); name a CSV file") from None
    name = "path" if rows and "path" in rows[0] else "image"
    if not rows or name not in rows[0] or "group" not in rows[0]:
        raise SchemaError(f"--groups {path}: expected columns path (or image) and group, and at least one row")
    return {row[name]: row["group"] for row in rows}


def _groups_of(rows: Sequence[ManifestRow], groups: Mapping[str, str]) -> dict[str, str]:
    """The group of each path; its content for what is in none. Pictures with the same bytes are in one group."""
    alone = [
        f"{chr(sys.maxunicode)}{row.id}" for row in rows
    ]  # after every given name: a joined group goes by the first
    first: dict[ImageId, int] = {}
    links = [(first.setdefault(row.id, at), at) for at, row in enumerate(rows)]
    joined = join_groups([groups.get(row.path, own) for row, own in zip(rows, alone, strict=True)], links)
    return {row.path: row.id if group == own else group for row, own, group in zip(rows, alone, joined, strict=True)}


def _pack(size: int, output: Output, rows: Sequence[ManifestRow], *, parts: bool) -> int:
    """Store the listed pictures as squares, those that share their bytes once; how many parts they were cut into."""
    names = output.paths(*(f"pack/{name}" for name in PACK_FILES))
    pack = write_pack([Source(row.path, row.uri) for row in rows], names[0].parent, size, read=read_source)
    if not parts:
        return 0
    with tempfile.TemporaryDirectory(dir=output.partial, prefix="parts-") as scratch:
        written = [*write_parts(pack, scratch), Path(scratch) / "parts.json"]
        for source, target in zip(written, output.paths(*(f"parts/{path.name}" for path in written)), strict=True):
            target.parent.mkdir(parents=True, exist_ok=True)
            source.replace(target)
    return len(written) - 1
