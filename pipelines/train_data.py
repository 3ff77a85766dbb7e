"""From what `--data` names to pictures that can be trained on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndd.data.decision_rows import read_decisions
from ndd.data.decisions import DecisionStore, settle
from ndd.data.manifest import ManifestRow, fold_of, join_groups, manifest_digest, read_manifest, split_of
from ndd.data.manifest import Split as Side
from ndd.data.pack import Pack, load_pack, write_pack
from ndd.data.parts import is_parts, join_parts
from ndd.data.sampling import DecidedPairs, decided_pairs
from ndd.data.scan import Source, scan
from ndd.errors import NothingReadable, SchemaError, UsageError
from ndd.tables import write_failures
from ndd.training.config import TrainConfig
from ndd.training.loop import Split
from ndd.types import Decision, ImageId
from pipelines.sources import read_source
from pipelines.streams import PictureStore

__all__ = ["TrainData", "prepare", "stored_size"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainData:
    """The pictures of a run. digest: over their contents, order and stored size. decided: people's pairs among those
    trained on; passed_over: how many were not."""

    store: PictureStore
    digest: str
    pictures: int
    failed: int
    split: Split
    decided: DecidedPairs | None = None
    passed_over: int = 0

    def facts(self) -> dict[str, Any]:
        """What the model card says of them."""
        facts: dict[str, Any] = {
            "digest": self.digest,
            "pictures": self.pictures,
            "unreadable": self.failed,
            "training": len(self.split.training),
            "held_out": len(self.split.held),
        }
        if self.decided is not None:
            duplicates, distinct = len(self.decided.duplicates), len(self.decided.distinct)
            facts["decisions"] = {"duplicate": duplicates, "distinct": distinct, "not_used": self.passed_over}
        return facts


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Listed:
    """A row for each stored picture. group: pictures that may not be on two sides of a cut. side: of the cut that the
    pictures came with, if they did. row: its number in the store."""

    ids: Sequence[ImageId]
    groups: Sequence[str]
    sides: Sequence[Side | None]
    rows: NDArray[np.int64]


def stored_size(config: TrainConfig) -> int:
    """Side of the stored squares, pixels: a quarter more than the largest view, since crops are enlarged; multiple of 32."""
    return 32 * -(-5 * max(stage.size for stage in config.stages) // (4 * 32))


def prepare(
    data: Path, run: Path, config: TrainConfig, *, decode: str = "once", decisions: Path | None = None
) -> TrainData:
    """data: a pack directory, the parts of one, a manifest (.parquet), or a folder of pictures.

    Parts, a folder or a manifest become a pack in `run`/pack, which, once made, is what the run trains on.
    `decode="stream"` leaves the pictures of a manifest where they are and decodes them for every view. The cut of a
    manifest is kept; else `config.holdout` of the pictures are held out, or one of `config.folds`. decisions: a decision
    store's directory, or a .csv or .parquet file of decisions. Raises UsageError, NothingReadable, SchemaError.
    """
    if not data.exists():
        raise UsageError(f"--data {data}: there is no such folder, pack or manifest")
    people = _read_decisions(decisions)
    if (data / "pack.json").is_file():
        return _of_pack(load_pack(data), config, people, rows=None)
    if is_parts(data):
        if not (run / "pack" / "pack.json").is_file():
            join_parts(data, run / "pack")
        return _of_pack(load_pack(run / "pack"), config, people, rows=None)
    rows = _distinct(read_manifest(data)) if data.is_file() else None
    if decode == "stream":
        if rows is None:
            raise UsageError(f"--data {data}: decoding on the way needs a manifest; ingest the folder first")
        return _of_manifest(data, rows, config, people)
    place = run / "pack"
    if not (place / "pack.json").is_file():
        sources, failures = scan([data]) if rows is None else ([Source(row.path, row.uri) for row in rows], [])
        if not sources:
            raise NothingReadable(f"--data {data}: no pictures there")
        pack = write_pack(sources, place, stored_size(config), read=read_source)
        write_failures(run / "failures.parquet", sorted([*failures, *pack.failures], key=lambda f: f.path))
    return _of_pack(load_pack(place), config, people, rows=rows)


def _read_decisions(place: Path | None) -> list[Decision] | None:
    if place is None:
        return None
    if place.is_dir():
        return list(DecisionStore(place).current().values())
    return list(settle(read_decisions(place)).values())


def _of_pack(
    pack: Pack, config: TrainConfig, people: list[Decision] | None, *, rows: Sequence[ManifestRow] | None
) -> TrainData:
    known = {row.id: row for row in rows or ()}
    listed = _Listed(
        ids=pack.ids,
        groups=[known[i].group or i if i in known else i for i in pack.ids],
        sides=[known[i].split if i in known else None for i in pack.ids],
        rows=np.arange(len(pack.ids)),
    )
    store = PictureStore(path=pack.directory.absolute(), size=pack.size)
    return _train_data(
        listed, config, people, store=store, digest=pack.digest, pictures=len(pack.ids), failed=len(pack.failures)
    )


def _of_manifest(
    manifest: Path, rows: Sequence[ManifestRow], config: TrainConfig, people: list[Decision] | None
) -> TrainData:
    number = {row.path: i for i, row in enumerate(read_manifest(manifest))}
    listed = _Listed(
        ids=[row.id for row in rows],
        groups=[row.group or row.id for row in rows],
        sides=[row.split for row in rows],
        rows=np.array([number[row.path] for row in rows]),
    )
    store = PictureStore(path=manifest.absolute(), size=stored_size(config))
    digest = manifest_digest(rows)
    return _train_data(listed, config, people, store=store, digest=digest, pictures=len(rows), failed=0)


def _train_data(listed: _Listed, config: TrainConfig, people: list[Decision] | None, **facts: Any) -> TrainData:
    row_of = dict(zip(listed.ids, map(int, listed.rows), strict=True))
    every = None if people is None else decided_pairs(people, row_of)
    split = _split(listed, every, config)
    decided = None if every is None else every.among(split.training)
    passed_over = len(people or ()) - len(decided or ())
    if decided is not None and len(decided) == 0 and config.sampling.decisions > 0:
        raise SchemaError(
            f"none of the {passed_over} decisions is on two training pictures; give the pictures they are about with --data"
        )
    return TrainData(split=split, decided=decided, passed_over=passed_over, **facts)


def _split(listed: _Listed, decided: DecidedPairs | None, config: TrainConfig) -> Split:
    """Whole groups on one side. Duplicates by decision are one group."""
    groups = list(listed.groups)
    if decided is not None and len(decided.duplicates):
        place = {int(row): at for at, row in enumerate(listed.rows)}
        groups = join_groups(groups, [(place[int(a)], place[int(b)]) for a, b in decided.duplicates])
    if config.folds:
        held = [fold_of(group, folds=config.folds, seed=config.seed) == config.fold for group in groups]
    elif any(listed.sides):
        held = [side is Side.TEST for side in listed.sides]
    elif config.holdout == 0:
        held = [False] * len(groups)
    elif len(set(groups)) < len(groups):
        held = [split_of(group, test=config.holdout, seed=config.seed) is Side.TEST for group in groups]
    else:
        drawn = set(Split.draw(len(groups), config).held.tolist())
        held = [at in drawn for at in range(len(groups))]
    known = [not any(listed.sides) or bool(config.folds) or side is not None for side in listed.sides]
    training = [at for at in range(len(groups)) if known[at] and not held[at]]
    if config.limit is not None:
        training = sorted(sorted(training, key=lambda at: listed.ids[at])[: config.limit])
    seen = {groups[at] for at in training}
    # A cut that came with the pictures may have been made before somebody found two of them to be duplicates.
    tested = [at for at in range(len(groups)) if known[at] and held[at] and groups[at] not in seen]
    return Split(training=_rows(listed, training), held=_rows(listed, tested))


def _rows(listed: _Listed, at: Iterable[int]) -> NDArray[np.int64]:
    return listed.rows[np.fromiter(at, np.int64)]


def _distinct(rows: Sequence[ManifestRow]) -> list[ManifestRow]:
    """One row per content: a second copy of a file would be its own negative."""
    return list({row.id: row for row in reversed(rows)}.values())[::-1]
