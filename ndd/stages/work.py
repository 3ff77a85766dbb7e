"""A search cut into pieces of work whose results lie on disk: what the runners hand to threads or to Ray.

Each `…Work` is made once per worker and called with a batch (a dict of columns, one item of work per row). It writes one
chunk and answers with counts, so whoever hands out the work needs no memory for the results. `seconds_in_python` says that
it computes in Python most of the time, and about how long for an item.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ndd.data.uris import text_to_uri
from ndd.errors import ModelError
from ndd.parquet import read_table, write_table
from ndd.stages.album import Album, load_album, write_album
from ndd.stages.chunks import EVIDENCE, FAILED, PAIRS, PROPOSALS, ROWS
from ndd.stages.decode import Decoder, Reading
from ndd.stages.match import SURE, Matcher, merge, merge_promises, pair_distances, pair_hash_bits, pair_standout
from ndd.stages.task import SearchTask
from ndd.stages.verify import KeypointStore, compare, needs_keypoints, to_text
from ndd.stages.votes import Votes, write_votes
from ndd.types import Failure, ImageId
from ndd.verify.glance import LEAST, glance
from ndd.verify.keypoints import Keypoints

__all__ = [
    "Counts",
    "EmbedWork",
    "GlanceWork",
    "KeypointWork",
    "MatchWork",
    "VerifyWork",
    "VoterWork",
    "collect",
    "count_votes",
    "decided_rows",
    "gather",
    "join_album",
    "put_candidates",
]

Batch = Mapping[str, Any]
Counts = dict[str, int]

_KEPT = 512
"""Pictures whose voters are kept at hand, 8 KiB each."""


class EmbedWork:
    """Decode and embed files: {"path", "uri", "size", "mtime_ns"} → one chunk of rows `pictures_schema`, and one of voters:
    while the pixels are at hand."""

    def __init__(self, task: SearchTask) -> None:
        from ndd.model.directory import describe
        from ndd.stages.embed import Embedder

        self._decoder, self._vectors_only = task.decoder(), task.vectors_only
        said = describe(task.model)
        if said.embedding_digest != task.embedding_digest:
            # Another file below the same path, or a machine without the package or the processor for the exported network.
            raise ModelError(
                f"{task.model}: a worker's vectors would be {said.embedding_digest[:12]}, the search wants "
                f"{task.embedding_digest[:12]}; put the same model on every machine, and where not all of them have the "
                "same processor and packages, set NDD_RUNTIME=torch"
            )
        # The first pictures are decoded while the network is compiled.
        loading = ThreadPoolExecutor(1, thread_name_prefix="network")
        self._loaded = loading.submit(Embedder, said)
        loading.shutdown(wait=False)
        self._pictures, self._failed = task.picture_store(), task.failure_store()
        self._voters = task.voter_store() if task.uses_keypoints else None

    def __call__(self, batch: Batch) -> Counts:
        """Counts: images, failed."""
        answers = self._decoder({"path": batch["path"], "uri": [text_to_uri(text) for text in batch["uri"]]})
        key = list(zip(*(batch[name] for name in ("path", "size", "mtime_ns")), strict=True))
        good = [(at, answer) for at, answer in enumerate(answers) if not isinstance(answer, Failure)]
        bad = [answer for answer in answers if isinstance(answer, Failure)]
        if good:
            if self._voters is not None:
                seen = {ImageId(reading.facts["id"]): reading for _, reading in good if not reading.facts["flat"]}
                self._voters.add((id, partial(_sketch, reading)) for id, reading in seen.items())
            embedder = self._loaded.result()
            vectors = embedder.embed(np.stack([reading.canvas for _, reading in good])).astype("<f2")
            hubness = np.zeros(len(vectors)) if self._vectors_only else embedder.hubness(vectors)
            rows = [
                {
                    "path": key[at][0],
                    "size": key[at][1],
                    "mtime_ns": key[at][2],
                    "vector": vector.tobytes(),
                    "hubness": crowd,
                    **reading.facts,
                }
                for (at, reading), vector, crowd in zip(good, vectors, hubness.tolist(), strict=True)
            ]
            columns = {name: [row[name] for row in rows] for name in self._pictures.schema.names}
            self._pictures.write(columns, of=(key[at] for at, _ in good))
        if bad:
            self._failed.write(
                {name: [getattr(f, name) for f in bad] for name in FAILED.names}, of=(f.path for f in bad)
            )
        return {"images": len(answers), "failed": len(bad)}


def _sketch(reading: Reading) -> NDArray[np.uint8]:
    assert reading.sketch is not None, "the decoder of a search with keypoints makes one"
    return reading.sketch


class VoterWork:
    """Extract the keypoints that vote of pictures {"row": rows of the album} that an earlier search has embedded.

    Only of representatives with something to see: a copy of the same bytes, or a flat picture, has nothing to add.
    """

    def __init__(self, task: SearchTask) -> None:
        self._album, self._decoder, self._store = task.album(), task.decoder(), task.voter_store()

    def __call__(self, batch: Batch) -> Counts:
        """Counts: images, voters (pictures whose voters were extracted)."""
        rows = np.intersect1d(np.asarray(batch["row"], np.int64), self._album.nodes)
        flat = self._album.table.column("flat").to_numpy()[rows]
        return {
            "images": len(batch["row"]),
            "voters": _extract_missing(self._store, self._album, rows[~flat], self._decoder),
        }


class KeypointWork:
    """Extract the keypoints of pictures {"wanted": rows of the list of wanted pictures}."""

    def __init__(self, task: SearchTask) -> None:
        self._album, self._decoder, self._store = task.album(), task.decoder(), task.keypoint_store()
        self._rows = read_table(task.wanted, ROWS).column("row").to_numpy()

    def __call__(self, batch: Batch) -> Counts:
        """Counts: images, keypoints (pictures whose keypoints were extracted)."""
        rows = self._rows[np.asarray(batch["wanted"], np.int64)]
        found = _extract_missing(self._store, self._album, rows, self._decoder)
        return {"images": len(rows), "keypoints": found}


def join_album(task: SearchTask) -> Counts:
    """Join what is known of the readable pictures, for all later steps. Counts: pictures."""
    album = load_album(task.read_manifest(), task.picture_store())
    write_album(task.joined, album)
    return {"pictures": len(album)}


def count_votes(task: SearchTask) -> Counts:
    """Index the keypoints that vote. Counts: voters."""
    album = task.album()
    sides = album.numbers("side")[album.nodes] if task.sided else np.zeros(len(album.nodes), np.int64)
    return {"voters": write_votes(task.votes, _node_ids(album), task.voter_store(), sides=sides)}


def _node_ids(album: Album) -> list[str]:
    ids: list[str] = album.table.column("id").take(album.nodes).to_pylist()
    return ids


class MatchWork:
    """Propose pairs for pictures {"row": rows of the album}.

    Only representatives have proposals: a copy of the same bytes has nothing to add.
    """

    def __init__(self, task: SearchTask) -> None:
        self._task = task
        self._album = task.album()
        nodes, album, config = self._album.nodes, self._album, task.config
        self._matcher = Matcher(
            album.vectors[nodes],
            album.hashes[nodes],
            album.numbers("quality")[nodes],
            neighbours=config.neighbours,
            max_distance=config.max_distance,
            hash_bits=config.hash_bits,
            side_M=album.numbers("side")[nodes] if task.sided else None,
            content_M=album.contents()[nodes],
            hubness_M=album.table.column("hubness").to_numpy()[nodes],
            votes=Votes(task.votes, _node_ids(album), task.voter_store()) if task.uses_keypoints else None,
        )

    def __call__(self, batch: Batch) -> Counts:
        """Counts: images, proposals."""
        asked = np.searchsorted(
            self._album.nodes, np.intersect1d(np.asarray(batch["row"], np.int64), self._album.nodes)
        )
        found = self._matcher({"node": asked})
        rows = {name: self._album.nodes[found[name]].tolist() for name in ("left", "right")}
        self._task.proposal_store().write({**rows, "promise": found["promise"].tolist()}, of=asked)
        return {"images": len(batch["row"]), "proposals": len(found["left"])}


def gather(task: SearchTask) -> Counts:
    """All proposals, each pair once → the list of pairs to be glanced at, sorted. Counts: pairs."""
    proposed = task.proposal_store().read()
    found = np.stack([proposed.column(name).to_numpy() for name in ("left", "right")], axis=1).astype(np.int64)
    pairs, promise = merge_promises(found, proposed.column("promise").to_numpy())
    table = {"left": pairs[:, 0], "right": pairs[:, 1], "promise": promise}
    write_table(task.proposed, pa.table(table, schema=PROPOSALS))
    return {"pairs": len(pairs)}


class GlanceWork:
    """Glance at pairs {"pair": rows of the list of proposed pairs} → one chunk of those that are worth a look."""

    seconds_in_python = 0.0003

    def __init__(self, task: SearchTask) -> None:
        proposed = read_table(task.proposed, PROPOSALS)
        self._left, self._right = (proposed.column(name).to_numpy() for name in ("left", "right"))
        self._promise = proposed.column("promise").to_numpy()
        album = task.album()
        self._ids = album.texts("id")
        self._voters, self._store = task.voter_store(), task.seen_store()
        self._vectors, self._hubness = album.vectors, album.table.column("hubness").to_numpy()
        self._keypoints = lru_cache(_KEPT)(
            self._voters.get
        )  # the list is sorted: most pictures are seen several times in a row

    def __call__(self, batch: Batch) -> Counts:
        """Counts: pairs, left (of them)."""
        asked = batch["pair"]
        standout = self.standout(asked).tolist()
        kept = [int(at) for at, out in zip(asked, standout, strict=True) if self._worth_a_look(int(at), out)]
        rows = {"left": self._left[kept].tolist(), "right": self._right[kept].tolist()}
        self._store.write(rows, of=batch["pair"])
        return {"pairs": len(batch["pair"]), "left": len(kept)}

    def standout(self, pairs: Any) -> NDArray[np.float64]:
        """(P,) by how much the vectors of each pair stand out."""
        at = np.asarray(pairs, np.int64)
        return pair_standout(self._vectors, self._hubness, self._left[at], self._right[at])

    def _worth_a_look(self, at: int, standout: float) -> bool:
        seen = self.seen(at)
        return seen is None or glance(*seen, standout=standout) >= LEAST

    def seen(self, at: int) -> tuple[Keypoints, Keypoints] | None:
        """The voters of a pair; None where it is not for a glance to decide: sure, flat, or not to be read any more."""
        if self._promise[at] == SURE:
            return None
        ids = [self._ids[int(side[at])] for side in (self._left, self._right)]
        if not all(id in self._voters for id in ids):
            return None
        left, right = (self._keypoints(id) for id in ids)
        return None if left is None or right is None else (left, right)


def _extract_missing(store: KeypointStore, album: Album, rows: NDArray[np.int64], decoder: Decoder) -> int:
    ids, uris = album.table.column("id"), album.table.column("uri")
    named = [(ids[int(row)].as_py(), text_to_uri(uris[int(row)].as_py())) for row in rows]
    return store.add(
        (id, lambda uri=uri: decoder.pixels(decoder.file(uri)))  # type: ignore[misc]
        for id, uri in named
        if id not in store
    )


def collect(task: SearchTask) -> Counts:
    """All proposals, those that a glance left where there are keypoints → the candidates, sorted by left and right path.

    Counts: pairs, verify (pairs that need it), pending (those of them that have not been verified by an earlier run), wanted
    (pictures of pending pairs that have no keypoints yet).
    """
    album = task.album()
    proposed = (task.seen_store() if task.uses_keypoints else task.proposal_store()).read()
    found = np.stack([proposed.column(name).to_numpy() for name in ("left", "right")], axis=1).astype(np.int64)
    decided = [decided_rows(album, pairs, sided=task.sided) for pairs in (task.must, task.cannot)]
    return put_candidates(task, album, merge(np.concatenate([found, *decided])))


def put_candidates(task: SearchTask, album: Album, pairs: NDArray[np.int64]) -> Counts:
    """Make `pairs` (P, 2), sorted, the candidates. Counts as `collect`."""
    left, right = pairs[:, 0], pairs[:, 1]
    verify = np.zeros(len(pairs), bool)
    if task.uses_keypoints:
        distance = pair_distances(album.vectors, left, right)
        bits, upright = pair_hash_bits(album.hashes, left, right)
        quality = album.numbers("quality")
        verify = needs_keypoints(distance, bits, upright, np.minimum(quality[left], quality[right]))
    write_table(task.candidates, pa.table({"left": left, "right": right}, schema=PAIRS))
    ids, store = album.texts("id"), task.keypoint_store()
    pending = pairs[verify][_unverified(task, ids, pairs[verify])]
    write_table(task.pending, pa.table({"left": pending[:, 0], "right": pending[:, 1]}, schema=PAIRS))
    missing = {ids[row]: row for row in np.unique(pending).tolist() if ids[row] not in store}  # on both sides, once
    wanted = np.asarray(sorted(missing.values()), np.int64)
    write_table(task.wanted, pa.table({"row": wanted}, schema=ROWS))
    return {"pairs": len(pairs), "verify": int(verify.sum()), "pending": len(pending), "wanted": len(wanted)}


def decided_rows(album: Album, decided: Sequence[tuple[str, str]], *, sided: bool) -> NDArray[np.int64]:
    """(P, 2) rows of the representatives of pairs of ids that a person has judged, left < right, sorted."""
    wanted = {id for pair in decided for id in pair}
    at: dict[str, list[tuple[int, int]]] = {}
    if wanted:
        ids, sides = album.table.column("id").take(album.nodes).to_pylist(), album.numbers("side")[album.nodes]
        for row, id, side in zip(album.nodes, ids, sides, strict=True):
            if id in wanted:
                at.setdefault(id, []).append((int(row), int(side)))
    found = [
        (a, b)
        for left, right in decided
        for a, side in at.get(left, ())
        for b, other in at.get(right, ())
        if not sided or side != other
    ]
    return merge(np.asarray(found, np.int64).reshape(-1, 2))


def _unverified(task: SearchTask, ids: Sequence[str], pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Which of the pairs (rows of the album) have no evidence on disk yet."""
    known = {
        pair
        for table in task.evidence_store()
        for pair in zip(table.column("left_id").to_pylist(), table.column("right_id").to_pylist(), strict=True)
    }
    return np.asarray([at for at, (a, b) in enumerate(pairs.tolist()) if (ids[a], ids[b]) not in known], np.int64)


class VerifyWork:
    """Compare keypoints of pairs {"pair": rows of the list of pending pairs} → one chunk of evidence."""

    seconds_in_python = 0.004

    def __init__(self, task: SearchTask) -> None:
        candidates = read_table(task.pending, PAIRS)
        self._left, self._right = (candidates.column(name).to_numpy() for name in ("left", "right"))
        self._ids = task.album().texts("id")
        self._keypoints = task.keypoint_store()
        self._store = task.evidence_store()

    def __call__(self, batch: Batch) -> Counts:
        """Counts: pairs."""
        rows: dict[str, list[str]] = {name: [] for name in EVIDENCE.names}
        for at in batch["pair"]:
            left_id, right_id = (ImageId(self._ids[int(side[int(at)])]) for side in (self._left, self._right))
            left, right = self._keypoints.get(left_id), self._keypoints.get(right_id)
            if left is None or right is None:
                continue
            evidence = compare(left, right, left_id=left_id, right_id=right_id)
            for name, value in (("left_id", left_id), ("right_id", right_id), ("evidence", to_text(evidence))):
                rows[name].append(value)
        self._store.write(rows, of=zip(rows["left_id"], rows["right_id"], strict=True))
        return {"pairs": len(rows["evidence"])}
