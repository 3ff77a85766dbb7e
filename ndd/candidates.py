"""The pairs of a `find` run, with what is needed to choose among them and to show them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ndd.data.queue import QueuedPair
from ndd.data.scan import scan
from ndd.errors import InputError, ModelError
from ndd.find import listing_table
from ndd.model.directory import describe
from ndd.runs import PRIVATE, read_run
from ndd.select import STRATA, Candidates, Choice
from ndd.stages.album import fresh_rows
from ndd.stages.chunks import ChunkStore, pictures_schema
from ndd.tables import PairRow, read_pairs
from ndd.types import ImageId
from ndd.verify.score import PairEvidence, Scorer

__all__ = ["FindRun", "read_candidates"]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FindRun:
    """A run's pairs of different contents whose files are as they were.

    rows: as in pairs.parquet, row i belonging to candidate i. uris: of each of `candidates.pictures`. facts: for a person,
    of each picture. lost: pairs left out, because a file changed or went away. strata: for the audit draw. prior: share of
    duplicates among all candidates, which the scores hold under.
    """

    directory: Path
    candidates: Candidates
    rows: Sequence[PairRow]
    uris: Sequence[str]
    facts: Sequence[str]
    roots: Sequence[str]
    strata: Sequence[float]
    embedding_digest: str
    scorer_digest: str
    prior: float
    lost: int

    def queued(self, choice: Choice, *, now: datetime) -> QueuedPair:
        """A chosen pair as it goes into the queue."""
        row, known = self.rows[choice.row], self.candidates
        ends = sorted((known.pictures[at], at) for at in (known.left[choice.row], known.right[choice.row]))
        (left, a), (right, b) = ends
        evidence = {name: row.evidence[name] for name in ("inliers", "mirrored") if name in row.evidence}
        return QueuedPair(
            left_id=left,
            right_id=right,
            left_uri=self.uris[a],
            right_uri=self.uris[b],
            score=row.score,
            draw=choice.draw,
            p_draw=choice.p_draw,
            embedding_digest=self.embedding_digest,
            scorer_digest=self.scorer_digest,
            source="find",
            enqueued=now,
            evidence={
                **evidence,
                "left": self.facts[a],
                "right": self.facts[b],
                "distance": round(row.distance, 4),
                "duplicate": row.duplicate,
                "prior": self.prior,
                "relation": None if row.relation is None else str(row.relation),
            },
        )


def read_candidates(directory: str | os.PathLike[str]) -> FindRun:
    """The pairs of the complete run in `directory`. Raises InputError if there is none, SchemaError, StoreError."""
    out = Path(directory)
    if not (out / "run.json").is_file():
        raise InputError(f"{out}: no complete run of find; give the --out folder of `ndd find`")
    run = read_run(out)
    known = _pictures(out, run)
    rows, ends, lost = [], [], 0
    for row in read_pairs(out / "pairs.parquet"):
        a, b = known.at.get(row.left), known.at.get(row.right)
        if a is None or b is None:
            lost += 1
        elif known.ids[a] != known.ids[b]:
            rows.append(row)
            ends.append((a, b))
    sides = np.asarray(ends, np.int64).reshape(-1, 2)
    return FindRun(
        directory=out,
        candidates=Candidates(
            pictures=known.ids,
            left=sides[:, 0],
            right=sides[:, 1],
            score=np.array([row.score for row in rows], np.float64),
            descriptor=_by_descriptor(rows, run),
            vectors=known.vectors,
        ),
        rows=rows,
        uris=known.uris,
        facts=known.facts,
        roots=[*run["paths"], *run["against"]],
        strata=(*STRATA, float(run["threshold"])),
        embedding_digest=run["digests"]["embedding"],
        scorer_digest=run["digests"]["scorer"],
        prior=float(run["prior"]),
        lost=lost,
    )


@dataclass(slots=True)
class _Known:
    at: dict[str, int]
    ids: list[ImageId]
    uris: list[str]
    facts: list[str]
    vectors: NDArray[np.float16]


def _pictures(out: Path, run: dict[str, Any]) -> _Known:
    """The pictures whose files are as they were, from what the run keeps of them."""
    chunks = sorted((out / PRIVATE).glob("embed-*/[0-9a-f]*.parquet"))
    if not chunks:
        raise InputError(f"{out}: what the run knew of its pictures is gone; run find again")
    kept = chunks[0].parent
    dim = pq.read_schema(chunks[0]).field("vector").type.byte_width // 2
    sources, _ = scan([*run["paths"], *run["against"]])
    manifest = listing_table(sources)
    known = _Known({}, [], [], [], np.zeros((0, dim), np.float16))
    vectors = []
    for row, table, at in fresh_rows(manifest, ChunkStore(kept, pictures_schema(dim))):
        values = {name: table.column(name)[at].as_py() for name in ("path", "id", "width", "height", "format", "size")}
        known.at[values["path"]] = len(known.ids)
        known.ids.append(ImageId(values["id"]))
        known.uris.append(sources[row].uri)
        known.facts.append(
            f"{values['path']} · {values['width']} × {values['height']} {values['format']}, {values['size'] / 1000:,.0f} kB"
        )
        vectors.append(np.frombuffer(table.column("vector")[at].as_py(), "<f2"))
    known.vectors = np.stack(vectors) if vectors else known.vectors
    return known


def _by_descriptor(rows: Sequence[PairRow], run: dict[str, Any]) -> NDArray[np.float64] | None:
    """P(duplicate) had nothing been verified, under the run's prior; None if the run's model is gone."""
    try:
        scorer = Scorer(describe(run["model"]["directory"]).calibration, prior=float(run["prior"]))
    except (ModelError, KeyError, TypeError, OSError):
        return None
    return scorer.score([_bare(row) for row in rows])


def _bare(row: PairRow) -> PairEvidence:
    """A pair as it was before it was verified."""
    bits, hubness = int(row.evidence.get("hash_bits", 256)), float(row.evidence.get("hubness", 0.0))
    return PairEvidence(distance=row.distance, hash_bits=bits, hubness=hubness)
