"""The detector on one page: what ndd can do with pictures in hand. For whole albums see `ndd.find`, which does the same.

    from ndd.detector import Detector

    detector = Detector()                       # the champion; or Detector("runs/mine/model")
    match = detector.compare("a.jpg", "b.png")  # match.score, match.duplicate, match.relation, match.evidence
    detector.add(["a.jpg", "c.jpg"])
    detector.query("b.png", k=1)                # [("a.jpg", Match(…))]
    detector.find(["photos/"], out="found")      # tables and a report

A picture is a path, the bytes of a file, or an (H, W, 3) uint8 RGB array.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from ndd.config import FindConfig
from ndd.data.decisions import DecisionStore, obeyed
from ndd.errors import DecodeError, InputError
from ndd.index.base import cosine_distance
from ndd.index.flat import FlatIndex
from ndd.known import KnownPicture
from ndd.model.directory import describe, resolve
from ndd.stages.decode import Decoder, Reading
from ndd.stages.embed import Embedder
from ndd.stages.match import pair_hash_bits
from ndd.stages.verify import compare, evidence_values, needs_keypoints
from ndd.types import ImageId, Match
from ndd.verify.score import PairEvidence, Scorer, relation_of

if TYPE_CHECKING:
    from ndd.index.search import Compare
    from ndd.index.store import IndexStore

__all__ = ["Decoded", "Detector", "Image"]

Image: TypeAlias = str | os.PathLike[str] | bytes | NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Decoded:
    """A picture that has been read but not yet seen by the network: its bytes and what they hold."""

    content: bytes
    reading: Reading


class Detector:
    """One model, ready to embed and compare; `add` and `query` keep an index in memory.

    Raises ModelError if there is no usable model. Methods raise DecodeError for a picture that cannot be read.
    """

    def __init__(self, model: str | os.PathLike[str] | None = None, *, config: FindConfig | None = None) -> None:
        """model: a model directory; None for NDD_MODEL, the champion, or the one that comes with ndd."""
        self.config = config or FindConfig()
        self.model = describe(resolve(model))
        self.decoder = Decoder(self.config.limits, size=self.model.config.image_size)
        self.embedder = Embedder(self.model)
        self.scorer = Scorer(self.model.calibration)
        self._index = FlatIndex(self.embedder.dim)
        self._stored: list[tuple[str, KnownPicture]] = []

    def embed(self, images: Sequence[Image]) -> NDArray[np.float32]:
        """(N, D) float32 embeddings of unit length (up to rounding): the vectors `ndd embed` writes, bit for bit."""
        if not images:
            return np.zeros((0, self.embedder.dim), np.float32)
        canvases = np.stack([self.decoder.read(self._content(image)).canvas for image in images])
        return self.embedder.embed(canvases).astype(np.float32)

    def compare(self, a: Image, b: Image, *, decisions: DecisionStore | None = None) -> Match:
        """What two pictures are to each other.

        The score is under the calibration's prior, where `find` estimates the prior from the album; the evidence is the
        same. A single pair is accepted if its own score reaches the wanted precision. decisions: a person's word on the
        two settles whether they are duplicates (`ndd.data.decisions.obeyed`).
        """
        left, right = self.look(a), self.look(b)
        match = self.match(left, right)
        if decisions is None or left.id == right.id:
            return match
        return obeyed(match, decisions.word(left.id, right.id), relation=self.config.relation)

    def look(self, image: Image) -> KnownPicture:
        """All that is to be known of a picture, to be compared any number of times. Raises DecodeError, InputError."""
        return self.finish([self.decode(image)])[0]

    def look_many(self, images: Sequence[Image]) -> list[KnownPicture | DecodeError]:
        """`look` at many, with one pass of the network; in place of a picture that cannot be read stands its error."""
        read: list[Decoded | DecodeError] = []
        for image in images:
            try:
                read.append(self.decode(image))
            except DecodeError as error:
                read.append(error)
        known = iter(self.finish([found for found in read if isinstance(found, Decoded)]))
        return [found if isinstance(found, DecodeError) else next(known) for found in read]

    def decode(self, image: Image) -> Decoded:
        """The first half of `look`: everything but the network. Any number of threads may decode at the same time."""
        content = self._content(image)
        try:
            return Decoded(content=content, reading=self.decoder.read(content))
        except DecodeError as error:
            if not isinstance(image, str | os.PathLike):
                raise
            raise DecodeError(f"{os.fspath(image)}: {error.reason}", stage=error.stage) from None
        except (MemoryError, OSError, ValueError, ArithmeticError, RuntimeError) as error:
            # A decoder met something nobody foresaw: it costs this picture, as in a search, and no other.
            raise DecodeError(f"unexpected {type(error).__name__}: {error}"[:300]) from error

    def finish(self, pictures: Sequence[Decoded]) -> list[KnownPicture]:
        """The second half of `look`, for many: one vector each, whoever else is in the batch."""
        if not pictures:
            return []
        vectors = self.embedder.embed(np.stack([picture.reading.canvas for picture in pictures]))
        hubness = self.embedder.hubness(vectors).tolist()
        return [self._known(picture, vectors[i : i + 1], hubness[i]) for i, picture in enumerate(pictures)]

    def match(self, a: KnownPicture, b: KnownPicture) -> Match:
        """What two known pictures are to each other: `compare` without reading them again."""
        evidence = self._evidence(a, b)
        score = float(self.scorer.score([evidence])[0])
        relation = relation_of(evidence)
        within = relation is not None and relation.within(self.config.relation)
        return Match(
            score=score,
            distance=evidence.distance,
            duplicate=within and score >= self.config.precision,
            relation=relation,
            evidence=evidence_values(evidence),
        )

    def answer(self, match: Match) -> dict[str, Any]:
        """A match as plain JSON values: the body of `ndd compare --json` and of `/v1/compare`."""
        return {
            "score": match.score,
            "distance": match.distance,
            "duplicate": match.duplicate,
            "relation": match.relation,
            "evidence": dict(match.evidence),
            "threshold": self.config.precision,
            "digests": {"embedding": self.model.embedding_digest, "scorer": self.model.scorer_digest},
        }

    def find(
        self,
        paths: Sequence[str | os.PathLike[str]],
        *,
        out: str | os.PathLike[str],
        against: Sequence[str | os.PathLike[str]] = (),
        workers: int | None = None,
    ) -> dict[str, Any]:
        """Find the near-duplicates among the pictures below `paths`, as `ndd find` does; returns what run.json holds."""
        from ndd.find import FindRequest, find
        from ndd.local import LocalRunner

        model = self.model.directory
        request = FindRequest(paths=paths, out=out, against=against, config=self.config, model=model)
        return find(request, LocalRunner(workers=workers))

    def add(self, images: Sequence[Image], *, names: Sequence[str] | None = None) -> None:
        """Put pictures into the index. names: what `query` calls them (default: their paths, else a running number)."""
        for at, image in enumerate(images):
            known = self.look(image)
            default = os.fspath(image) if isinstance(image, str | os.PathLike) else f"#{len(self._stored)}"
            self._stored.append((default if names is None else names[at], known))
            self._index.add(known.vector)

    def query(self, image: Image, *, k: int = 10) -> list[tuple[str, Match]]:
        """The `k` nearest pictures of the index, likeliest duplicates first, each with its match."""
        known = self.look(image)
        rows = self._index.search(known.vector, k=k).rows[0]
        found = [(name, self.match(known, other)) for name, other in (self._stored[row] for row in rows if row >= 0)]
        return sorted(found, key=lambda item: (-item[1].score, item[1].distance, item[0]))

    def search(
        self,
        store: IndexStore,
        picture: KnownPicture,
        *,
        k: int = 10,
        decisions: DecisionStore | None = None,
        compare: Compare | None = None,
    ) -> list[tuple[str, Match]]:
        """At most `k` pictures of a store that may be `picture`, likeliest first, each with its match.

        Looked at are the k nearest vectors within the config's max_distance, the k nearest perceptual hashes, pictures with
        the same bytes, and those a person called duplicates. decisions: such a word settles whether a pair is a duplicate,
        and its place: confirmed first, distinct ones last. compare: how the picture is matched with what was found (default:
        with one after the other). Raises DigestMismatch for a store of another model's vectors.
        """
        from ndd.index.search import search

        store.must_be_of(self.model.embedding_digest)
        return search(store, picture, compare or self._compare, config=self.config, k=k, decisions=decisions)

    def explain(self, a: Image, b: Image, *, out: str | os.PathLike[str]) -> Path:
        """Draw what two pictures have in common to the PNG file `out`."""
        from ndd.explain import draw
        from ndd.model import checkpoint

        read = [self.decode(image) for image in (a, b)]
        left, right = self.finish(read)
        return draw(
            checkpoint.load(self.model.directory).model,
            (self.decoder.pixels(read[0].content), self.decoder.pixels(read[1].content)),
            (read[0].reading.canvas, read[1].reading.canvas),
            (left.keys, right.keys),
            self.match(left, right),
            out,
        )

    def _compare(self, picture: KnownPicture, others: Sequence[KnownPicture]) -> list[Match]:
        return [self.match(picture, other) for other in others]

    def _known(self, picture: Decoded, vector_1D: NDArray[np.float16], hubness: float) -> KnownPicture:
        facts = {**picture.reading.facts, "hubness": hubness}
        id, hashes = ImageId(facts.pop("id")), np.frombuffer(facts.pop("hashes"), np.uint8).reshape(8, 32)
        pixels = functools.partial(self.decoder.pixels, picture.content)
        canvas = picture.reading.canvas
        return KnownPicture(id=id, vector=vector_1D, hashes=hashes, facts=facts, pixels=pixels, canvas=canvas)

    def _evidence(self, a: KnownPicture, b: KnownPicture) -> PairEvidence:
        if a.id == b.id:
            return PairEvidence(distance=0.0, hash_bits=0, identical=True)
        zero, one = np.array([0]), np.array([1])
        distance = cosine_distance(a.vector, b.vector)
        bits, upright = pair_hash_bits(np.stack([a.hashes, b.hashes]), zero, one)
        quality = np.minimum([a.facts["quality"]], [b.facts["quality"]])
        verify = self.config.verify == "keypoints" and needs_keypoints(distance, bits, upright, quality)[0]
        return PairEvidence(
            distance=float(distance[0]),
            hash_bits=int(bits[0]),
            geometry=compare(a.keys, b.keys, left_id=a.id, right_id=b.id) if verify else None,
            flat=a.facts["flat"] or b.facts["flat"],
            upright=bool(upright[0]),
            hubness=float(a.facts["hubness"] + b.facts["hubness"]) / 2,
        )

    def _content(self, image: Image) -> bytes:
        if isinstance(image, bytes):
            return image
        if isinstance(image, np.ndarray):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                raise InputError(f"a picture as an array is (H, W, 3) uint8 RGB, got {image.shape} {image.dtype}")
            return cv2.imencode(".png", image[:, :, ::-1])[1].tobytes()
        try:
            return self.decoder.file(image)
        except DecodeError as error:
            raise DecodeError(f"{os.fspath(image)}: {error.reason}", stage=error.stage) from None
