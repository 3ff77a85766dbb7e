"""Steps of a search on disk: what a chunk holds, what is used again, what is not."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ndd.config import FindConfig
from ndd.data.scan import scan
from ndd.errors import ModelError
from ndd.find import listing_table
from ndd.model.directory import describe
from ndd.parquet import read_table, write_table
from ndd.stages.album import fresh_rows
from ndd.stages.chunks import PROPOSALS, ROWS
from ndd.stages.group import judge
from ndd.stages.match import SURE
from ndd.stages.task import SearchTask
from ndd.stages.work import (
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
    put_candidates,
)
from ndd.verify.glance import glance
from tests.samples import small_album


def make_task(private: Path, model: Path, pictures: Path, config: FindConfig | None = None) -> SearchTask:
    said = describe(model)
    task = SearchTask(
        config=config or FindConfig(neighbours=3),
        model=str(model),
        embedding_digest=said.embedding_digest,
        dim=said.config.dim,
        image_size=said.config.image_size,
        calibration=None,
        private=str(private),
        pictures="embed-0",
        evidence="verify-0",
        sided=False,
    )
    task.partial.mkdir(parents=True)
    write_table(task.manifest, listing_table(scan([pictures])[0]))
    return task


def in_parts(count: int, size: int, name: str) -> Iterator[dict[str, list[int]]]:
    """{name: rows} of 0 … count − 1, `size` at a time."""
    return ({name: list(range(at, min(count, at + size)))} for at in range(0, count, size))


def run(task: SearchTask, *, size: int, backwards: bool = False) -> None:
    """All steps, cut into chunks of `size`."""
    embed(task, size=size, backwards=backwards)
    search(task, size=size)


def embed(task: SearchTask, *, size: int, backwards: bool = False) -> None:
    manifest, work = task.read_manifest(), EmbedWork(task)
    starts = range(0, len(manifest), size)
    for at in reversed(starts) if backwards else starts:
        work(manifest.slice(at, size).to_pydict())


def search(task: SearchTask, *, size: int) -> dict[str, int]:
    """All steps after embedding; the counts of `collect`."""
    count = len(task.album())
    if task.uses_keypoints:
        count_votes(task)
    match = MatchWork(task)
    for part in in_parts(count, size, "row"):
        match(part)
    if task.uses_keypoints:
        proposed, glance = gather(task)["pairs"], GlanceWork(task)
        for part in in_parts(proposed, size, "pair"):
            glance(part)
    counts = collect(task)
    keypoints = KeypointWork(task)
    for part in in_parts(counts["wanted"], size, "wanted"):
        keypoints(part)
    verify = VerifyWork(task)
    for part in in_parts(counts["pending"], size, "pair"):
        verify(part)
    return counts


def evidence(task: SearchTask) -> dict[tuple[str, str], str]:
    rows = task.evidence_store().read().to_pylist()
    return {(row["left_id"], row["right_id"]): row["evidence"] for row in rows}


def test_the_cut_leaves_no_trace(model: Path, pictures: Path, tmp_path: Path) -> None:
    a, b = (make_task(tmp_path / name, model, pictures) for name in "ab")
    run(a, size=5)
    run(b, size=7, backwards=True)
    first, second = a.album(), b.album()
    assert first.table.equals(second.table)
    assert np.array_equal(first.vectors, second.vectors)
    assert np.array_equal(first.hashes, second.hashes)
    assert a.read_candidates().equals(b.read_candidates())
    assert evidence(a) == evidence(b)
    assert len(evidence(a)) > 10


def test_the_joined_album_is_the_one_in_the_chunks(model: Path, pictures: Path, tmp_path: Path) -> None:
    task = make_task(tmp_path / "task", model, pictures)
    embed(task, size=5)
    before = task.album()
    assert join_album(task) == {"pictures": len(before)}
    shutil.rmtree(task.picture_store().directory)
    after = task.album()
    assert after.table.equals(before.table)
    for name in ("vectors", "hashes", "nodes"):
        ours, theirs = getattr(after, name), getattr(before, name)
        assert type(ours) is np.ndarray and ours.dtype == theirs.dtype and np.array_equal(ours, theirs)
    assert list(after.copies()) == list(before.copies()) != []


def test_one_bad_file_is_a_failure_and_drops_nobody(model: Path, pictures: Path, tmp_path: Path) -> None:
    task = make_task(tmp_path / "task", model, pictures)
    manifest = task.read_manifest()
    counts = EmbedWork(task)(manifest.to_pydict())
    assert counts == {"images": len(manifest), "failed": 1}
    assert [failure.path for failure in task.unreadable()] == ["cut.jpg"]
    assert set(task.album().texts("path")) == set(manifest.column("path").to_pylist()) - {"cut.jpg"}


def test_exact_copies_have_one_representative_and_form_a_star(model: Path, pictures: Path, tmp_path: Path) -> None:
    task = make_task(tmp_path / "task", model, pictures)
    EmbedWork(task)(task.read_manifest().to_pydict())
    album = task.album()
    paths = album.texts("path")
    assert [(paths[a], paths[b]) for a, b in album.copies()] == [("cat.png", "crops/cat-again.png")]
    assert {paths[row] for row in album.nodes} == set(paths) - {"crops/cat-again.png"}


def test_a_changed_file_is_not_taken_from_an_old_chunk(model: Path, tmp_path: Path) -> None:
    pictures = small_album(tmp_path / "album")
    task = make_task(tmp_path / "task", model, pictures)
    EmbedWork(task)(task.read_manifest().to_pydict())
    before = len(list(fresh_rows(task.read_manifest(), task.picture_store())))
    os.utime(pictures / "cat.png", ns=(1, 1))
    manifest = listing_table(scan([pictures])[0])
    fresh = {row for row, _, _ in fresh_rows(manifest, task.picture_store())}
    assert len(fresh) == before - 1
    assert manifest.column("path").to_pylist().index("cat.png") not in fresh


def test_a_damaged_or_unfinished_chunk_counts_as_not_written(model: Path, pictures: Path, tmp_path: Path) -> None:
    task = make_task(tmp_path / "task", model, pictures)
    embed(task, size=6)
    store = task.picture_store()
    whole = store.read()
    chunks = sorted(store.directory.iterdir())
    content = chunks[0].read_bytes()
    chunks[0].write_bytes(content[: len(content) // 2])
    unfinished = store.directory / ".ndd-0011.tmp.parquet"
    unfinished.write_bytes(content[:100])
    assert len(store.read()) < len(whole)
    assert unfinished.exists(), "another worker may still be writing it"
    embed(task, size=6)
    assert len(store.read()) == len(whole)


def test_verified_pairs_are_not_verified_again(model: Path, pictures: Path, tmp_path: Path) -> None:
    task = make_task(tmp_path / "task", model, pictures)
    run(task, size=30)
    again = collect(task)
    assert again["pending"] == 0
    assert again["verify"] == len(evidence(task))


def test_without_verification_no_keypoints_are_looked_for(model: Path, pictures: Path, tmp_path: Path) -> None:
    task = make_task(tmp_path / "task", model, pictures, FindConfig(verify="none"))
    run(task, size=30)
    assert not (task.partial / "voters").exists()
    assert not (task.partial / "keypoints").exists()
    assert not evidence(task)
    assert len(task.read_candidates()) > 0


def test_a_picture_that_vanishes_before_verification_is_reported(model: Path, tmp_path: Path) -> None:
    pictures = small_album(tmp_path / "album")
    task = make_task(tmp_path / "task", model, pictures)
    EmbedWork(task)(task.read_manifest().to_pydict())
    (pictures / "coffee.png").unlink()
    counts = search(task, size=1000)
    album = task.album()
    names = dict(zip(album.texts("id"), album.texts("path"), strict=True))
    (failure,) = task.keypoint_store().failures(names)
    assert (failure.path, failure.stage) == ("coffee.png", "verify")
    assert counts["pending"] > len(evidence(task)) > 0


def test_only_what_is_to_be_verified_is_looked_at_in_detail(model: Path, pictures: Path, tmp_path: Path) -> None:
    task = make_task(tmp_path / "task", model, pictures)
    run(task, size=30)
    ids = task.album().texts("id")
    seen, voters = task.keypoint_store(), task.voter_store()
    verified = {id for pair in evidence(task) for id in pair}
    assert {id for id in ids if id in seen} == verified
    flat = set(np.asarray(ids)[task.album().table.column("flat").to_numpy()].tolist())
    assert {id for id in ids if id in voters} == set(ids) - flat


def test_voters_of_reused_pictures_are_those_of_new_ones(model: Path, pictures: Path, tmp_path: Path) -> None:
    new, reused = (make_task(tmp_path / name, model, pictures) for name in ("new", "reused"))
    EmbedWork(new)(new.read_manifest().to_pydict())
    EmbedWork(dataclasses.replace(reused, config=FindConfig(verify="none")))(reused.read_manifest().to_pydict())
    album = reused.album()
    counts = VoterWork(reused)({"row": list(range(len(album)))})
    assert counts["images"] == len(album) > counts["voters"] > 0
    for id in album.texts("id"):
        first, second = (task.voter_store().voters(id) for task in (new, reused))
        assert (first is None) == (second is None)
        if first is not None and second is not None:
            for name in ("descriptors", "words", "octaves", "angles"):
                assert np.array_equal(getattr(first, name), getattr(second, name))
    assert VoterWork(reused)({"row": list(range(len(album)))})["voters"] == 0, "not twice"


def test_a_reused_picture_that_has_vanished_is_reported_once(model: Path, tmp_path: Path) -> None:
    pictures = small_album(tmp_path / "album")
    task = make_task(tmp_path / "task", model, pictures)
    EmbedWork(dataclasses.replace(task, config=FindConfig(verify="none")))(task.read_manifest().to_pydict())
    for name in ("coffee.png", "coffee-small.jpg"):
        (pictures / name).unlink()
    VoterWork(task)({"row": list(range(len(task.album())))})
    search(task, size=1000)
    failures = judge(task, task.album()).failures
    assert [(failure.path, failure.stage) for failure in failures] == [
        ("coffee-small.jpg", "verify"),
        ("coffee.png", "verify"),
    ]


def test_the_same_bytes_on_both_sides_are_looked_at_once(model: Path, pictures: Path, tmp_path: Path) -> None:
    task = make_task(tmp_path / "task", model, pictures)
    EmbedWork(task)(task.read_manifest().to_pydict())
    paths = task.album().texts("path")
    one, again, other = (paths.index(name) for name in ("cat.png", "crops/cat-again.png", "rocket.png"))
    counts = put_candidates(
        task, task.album(), np.array(sorted(sorted(pair) for pair in ((one, other), (again, other))))
    )
    assert (counts["pending"], counts["wanted"]) == (2, 2)
    assert KeypointWork(task)({"wanted": [0, 1]})["keypoints"] == 2


@pytest.mark.parametrize("parts", [[[0, 1, 2]], [[2], [0, 1]]])
def test_a_glance_goes_by_voters_and_vectors_however_it_is_cut(
    model: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: list[list[int]]
) -> None:
    task = make_task(tmp_path / "task", model, pictures)
    EmbedWork(task)(task.read_manifest().to_pydict())
    paths = task.album().texts("path")
    rows = sorted(paths.index(name) for name in ("cat.png", "coffee.png", "rocket.png"))
    pairs = [(rows[0], rows[1]), (rows[0], rows[2]), (rows[1], rows[2])]
    proposed = {"left": [a for a, _ in pairs], "right": [b for _, b in pairs], "promise": [1.0] * 3}
    task.proposal_store().write(proposed, of=range(3))
    gather(task)
    work, album, voters = GlanceWork(task), task.album(), task.voter_store()
    ids, vectors = album.texts("id"), album.vectors.astype(np.float64)
    crowd = album.table.column("hubness").to_numpy()
    odds = []
    for a, b in pairs:
        left, right = voters.get(ids[a]), voters.get(ids[b])
        assert left is not None
        assert right is not None
        cosine = vectors[a] @ vectors[b] / np.linalg.norm(vectors[a]) / np.linalg.norm(vectors[b])
        odds.append(glance(left, right, standout=cosine - (crowd[a] + crowd[b]) / 2))
    between = float(np.mean(np.sort(odds)[:2]))
    assert min(odds) < between - 1e-6
    monkeypatch.setattr("ndd.stages.work.LEAST", between)
    assert sum(work({"pair": part})["left"] for part in parts) == 2
    left_over = [(row["left"], row["right"]) for row in task.seen_store().read().to_pylist()]
    assert sorted(left_over) == [p for p, o in zip(pairs, odds, strict=True) if o > between]


def test_a_pair_that_anyone_is_sure_of_is_not_glanced_at(
    model: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Vectors of an untrained model are all near to one another: without this every glance would leave every pair.
    monkeypatch.setattr("ndd.stages.work.LEAST", 50.0)
    task = make_task(tmp_path / "task", model, pictures)
    EmbedWork(task)(task.read_manifest().to_pydict())
    paths = task.album().texts("path")
    cat, coffee, rocket = (paths.index(name) for name in ("cat.png", "coffee.png", "rocket.png"))
    pairs = [sorted(pair) for pair in ((cat, coffee), (cat, rocket))]
    # Proposed twice, and sure once: sure. Strangers: a glance alone would leave neither.
    rows = {"left": [p[0] for p in pairs * 2], "right": [p[1] for p in pairs * 2], "promise": [1.0, 1.0, SURE, 1.0]}
    task.proposal_store().write(rows, of=range(4))
    assert gather(task) == {"pairs": 2}
    listed = read_table(task.proposed, PROPOSALS).to_pylist()
    assert [(row["left"], row["right"]) for row in listed] == sorted((left, right) for left, right in pairs)
    assert GlanceWork(task)({"pair": [0, 1]}) == {"pairs": 2, "left": 1}
    assert task.seen_store().read().to_pylist() == [{"left": pairs[0][0], "right": pairs[0][1]}]
    counts = collect(task)
    assert counts == {"pairs": 1, "verify": 1, "pending": 1, "wanted": 2}
    assert read_table(task.wanted, ROWS).column("row").to_pylist() == pairs[0]


def test_a_worker_with_another_embedding_refuses(model: Path, pictures: Path, tmp_path: Path) -> None:
    task = make_task(tmp_path / "private", model, pictures)
    with pytest.raises(ModelError, match=r"would be .* the search wants 0123456789ab; .*NDD_RUNTIME=torch"):
        EmbedWork(dataclasses.replace(task, embedding_digest="0123456789abcdef"))


def test_judged_pairs_are_candidates_however_unlike(model: Path, pictures: Path, tmp_path: Path) -> None:
    config = FindConfig(neighbours=1, max_distance=1e-6, hash_bits=0, verify="none")
    plain = make_task(tmp_path / "plain", model, pictures, config)
    EmbedWork(plain)(plain.read_manifest().to_pydict())
    ids = dict(zip(plain.album().texts("path"), plain.album().texts("id"), strict=True))
    pair = tuple(sorted((ids["blank.png"], ids["rocket.png"])))
    task = SearchTask(**{**vars(plain), "must": (pair,)})  # type: ignore[arg-type]
    collect(task)
    paths = task.album().texts("path")
    found = task.read_candidates().to_pylist()
    assert ("blank.png", "rocket.png") in {(paths[row["left"]], paths[row["right"]]) for row in found}
    assert isinstance(task.read_manifest(), pa.Table)
