"""From what `--data` names to pictures that can be trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ndd.data.manifest import ManifestRow, manifest_digest, read_manifest
from ndd.data.manifest import Split as Side
from ndd.data.pack import Pack, load_pack, write_pack
from ndd.data.scan import Source, scan
from ndd.errors import NothingReadable, UsageError
from ndd.tables import write_failures
from ndd.training.config import TrainConfig
from ndd.training.loop import Split
from pipelines.streams import PictureStore

__all__ = ["TrainData", "prepare", "stored_size"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainData:
    """The pictures of a run. digest: over their contents, order and stored size."""

    store: PictureStore
    digest: str
    pictures: int
    failed: int
    split: Split

    def facts(self) -> dict[str, Any]:
        """What the model card says of them."""
        return {
            "digest": self.digest,
            "pictures": self.pictures,
            "unreadable": self.failed,
            "training": len(self.split.training),
            "held_out": len(self.split.held),
        }


def stored_size(config: TrainConfig) -> int:
    """Side of the stored squares, pixels: a quarter more than the largest view, since crops are enlarged; multiple of 32."""
    return 32 * -(-5 * max(stage.size for stage in config.stages) // (4 * 32))


def prepare(data: Path, run: Path, config: TrainConfig, *, decode: str = "once") -> TrainData:
    """data: a pack directory, a manifest (.parquet), or a folder of pictures.

    A folder or a manifest becomes a pack in `run`/pack, which, once made, is what the run trains on. `decode="stream"`
    leaves the files of a manifest as they are and decodes them for every view. The split of a manifest is kept; else
    `config.holdout` of the pictures are held out. Raises UsageError, NothingReadable.
    """
    if not data.exists():
        raise UsageError(f"--data {data}: there is no such folder, pack or manifest")
    if (data / "pack.json").is_file():
        return _of_pack(load_pack(data), config, sides=None)
    rows = _distinct(read_manifest(data)) if data.is_file() else None
    if decode == "stream":
        if rows is None:
            raise UsageError(f"--data {data}: decoding on the way needs a manifest; ingest the folder first")
        return _of_manifest(data, rows, config)
    place = run / "pack"
    if not (place / "pack.json").is_file():
        sources, failures = scan([data]) if rows is None else ([Source(row.path, row.uri) for row in rows], [])
        if not sources:
            raise NothingReadable(f"--data {data}: no pictures there")
        pack = write_pack(sources, place, stored_size(config))
        write_failures(run / "failures.parquet", sorted([*failures, *pack.failures], key=lambda f: f.path))
    sides = None if rows is None else {row.id: row.split for row in rows}
    return _of_pack(load_pack(place), config, sides=sides)


def _of_pack(pack: Pack, config: TrainConfig, *, sides: dict[Any, Side | None] | None) -> TrainData:
    return TrainData(
        store=PictureStore(path=pack.directory.absolute(), size=pack.size),
        digest=pack.digest,
        pictures=len(pack.ids),
        failed=len(pack.failures),
        split=_split([sides[i] for i in pack.ids] if sides else [None] * len(pack.ids), config),
    )


def _of_manifest(manifest: Path, rows: Sequence[ManifestRow], config: TrainConfig) -> TrainData:
    every = read_manifest(manifest)
    number = {row.path: i for i, row in enumerate(every)}
    split = _split([row.split for row in rows], config)
    at = np.array([number[row.path] for row in rows])
    return TrainData(
        store=PictureStore(path=manifest.absolute(), size=stored_size(config)),
        digest=manifest_digest(rows),
        pictures=len(rows),
        failed=0,
        split=Split(training=at[split.training], held=at[split.held]),
    )


def _split(sides: Sequence[Side | None], config: TrainConfig) -> Split:
    if not any(sides):
        return Split.draw(len(sides), config)
    training = np.array([i for i, side in enumerate(sides) if side is Side.TRAIN], np.int64)
    return Split(training=training, held=np.array([i for i, s in enumerate(sides) if s is Side.TEST], np.int64))


def _distinct(rows: Sequence[ManifestRow]) -> list[ManifestRow]:
    """One row per content: a second copy of a file would be its own negative."""
    return list({row.id: row for row in reversed(rows)}.values())[::-1]
