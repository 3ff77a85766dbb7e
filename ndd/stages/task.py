"""Everything a worker needs to know of a search, and where on disk its steps find what the steps before them have left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ndd.config import FindConfig
from ndd.parquet import read_table
from ndd.stages.album import Album, load_album, map_album
from ndd.stages.chunks import EVIDENCE, FAILED, MANIFEST, PAIRS, PROPOSALS, ChunkStore, pictures_schema
from ndd.stages.decode import Decoder
from ndd.stages.verify import KeypointStore, VoterStore
from ndd.types import Failure

__all__ = ["SearchTask"]


@dataclass(frozen=True, kw_only=True)
class SearchTask:
    """Everything a worker needs to know of a search; small, and the same for every worker.

    embedding_digest: what the vectors must mean, the same on every machine. private: directory for chunks, reachable for
    every worker. pictures, evidence: names of the two caches below it. calibration: of the scorer. sided: only pairs
    between the two sides. must, cannot: pairs of ids that a person called duplicate or distinct; they are always candidates.
    vectors_only: nothing will be compared, so neither hashes nor hubness are wanted (they are 0).
    """

    config: FindConfig
    model: str
    embedding_digest: str
    dim: int
    image_size: int
    calibration: Mapping[str, Any] | None
    private: str
    pictures: str
    evidence: str
    sided: bool
    must: tuple[tuple[str, str], ...] = field(default=())
    cannot: tuple[tuple[str, str], ...] = field(default=())
    vectors_only: bool = False

    @property
    def manifest(self) -> Path:
        """The list of pictures."""
        return self.partial / "manifest.parquet"

    @property
    def candidates(self) -> Path:
        """The list of pairs."""
        return self.partial / "candidates.parquet"

    @property
    def proposed(self) -> Path:
        """The list of pairs to be glanced at."""
        return self.partial / "proposed.parquet"

    @property
    def pending(self) -> Path:
        """The pairs to be verified in this run."""
        return self.partial / "pending.parquet"

    @property
    def wanted(self) -> Path:
        """The pictures of pairs to be verified that have no keypoints yet."""
        return self.partial / "wanted.parquet"

    @property
    def votes(self) -> Path:
        """Directory of the index of keypoints that vote."""
        return self.partial / "votes"

    @property
    def facts(self) -> Path:
        """What is to be said of the run before its conclusion, JSON."""
        return self.partial / "facts.json"

    @property
    def result(self) -> Path:
        """Directory in which the finished files wait to be moved to where they belong."""
        return self.partial / "result"

    @property
    def partial(self) -> Path:
        """Directory emptied at the end of the run."""
        return Path(self.private) / "partial"

    def read_manifest(self) -> Any:
        """Arrow table, schema MANIFEST."""
        return read_table(self.manifest, MANIFEST)

    def read_candidates(self) -> Any:
        """Arrow table, schema PAIRS."""
        return read_table(self.candidates, PAIRS)

    def picture_store(self) -> ChunkStore:
        """Embedded pictures."""
        return ChunkStore(Path(self.private) / self.pictures, pictures_schema(self.dim))

    def failure_store(self) -> ChunkStore:
        """Pictures that could not be read in this run."""
        return ChunkStore(self.partial / "failed", FAILED)

    def proposal_store(self) -> ChunkStore:
        """Proposed pairs."""
        return ChunkStore(self.partial / "proposals", PROPOSALS)

    def seen_store(self) -> ChunkStore:
        """Proposed pairs that a glance left."""
        return ChunkStore(self.partial / "seen", PAIRS)

    def evidence_store(self) -> ChunkStore:
        """Verified pairs."""
        return ChunkStore(Path(self.private) / self.evidence, EVIDENCE)

    def keypoint_store(self) -> KeypointStore:
        """Keypoints written so far, of pictures in pairs that are verified."""
        return KeypointStore(self.partial / "keypoints")

    def voter_store(self) -> VoterStore:
        """Keypoints that vote, of every picture so far."""
        return VoterStore(self.partial / "voters")

    @property
    def uses_keypoints(self) -> bool:
        """Whether keypoints are looked for at all."""
        return self.config.verify == "keypoints"

    @property
    def joined(self) -> Path:
        """Directory of the readable pictures, joined."""
        return self.partial / "album"

    def album(self) -> Album:
        """The readable pictures; from the chunks as they are now until they have been joined."""
        return map_album(self.joined) or load_album(self.read_manifest(), self.picture_store())

    def unreadable(self) -> list[Failure]:
        """Pictures that could not be read in this run, in path order."""
        rows = (Failure(**row) for row in self.failure_store().read().to_pylist())
        return sorted(rows, key=lambda failure: failure.path)

    def decoder(self) -> Decoder:
        """How pictures are read in this search."""
        return Decoder(
            self.config.limits, size=self.image_size, sketch=self.uses_keypoints, hashed=not self.vectors_only
        )
