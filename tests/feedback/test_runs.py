"""A finished search as candidates: every pair of different contents, with where its pictures lie."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from feedback import push, runs
from feedback.desk import Desk
from ndd.config import FindConfig
from ndd.data.queue import QueuedPair
from ndd.errors import InputError
from ndd.find import FindRequest, find
from ndd.images import read_file
from ndd.local import LocalRunner
from ndd.tables import read_pairs
from ndd.types import Draw, Relation, image_id
from tests.ndd.data.builders import EPOCH, decision, queued
from tests.samples import small_album, small_model


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    small_album(folder / "album")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NDD_HOME", str(folder / "home"))
        request = FindRequest(
            paths=[folder / "album"],
            out=folder / "out",
            config=FindConfig(floor=0.0),
            model=small_model(folder / "model"),
        )
        find(request, LocalRunner(workers=2))
    return folder / "out"


def test_every_pair_of_different_contents_is_a_candidate(made: Path) -> None:
    run = runs.read(made)
    rows = read_pairs(made / "pairs.parquet")
    assert len(run.candidates) == len([row for row in rows if row.relation is not Relation.EXACT]) > 20
    assert run.lost == 0
    for at, row in enumerate(run.rows):
        names = {run.uris[end] for end in (run.candidates.left[at], run.candidates.right[at])}
        assert {name.rsplit("/album/", 1)[1] for name in names} == {row.left, row.right}
    for id, uri in zip(run.candidates.pictures, run.uris, strict=True):
        assert image_id(read_file(uri)) == id
    assert run.candidates.descriptor is not None
    assert np.all((run.candidates.descriptor >= 0) & (run.candidates.descriptor <= 1))
    assert run.candidates.vectors is not None
    assert np.allclose(np.linalg.norm(run.candidates.vectors.astype(float), axis=1), 1, atol=0.01)


def test_choosing_twice_asks_nothing_twice(made: Path) -> None:
    desk, run = Desk(), runs.read(made)
    assert push.choose(desk, run, count=6, audit_share=0.5, seed=0) == 6
    first = {pair.pair_id: pair for pair in desk.queue.waiting()}
    assert {pair.draw for pair in first.values()} == {Draw.AUDIT, Draw.UNCERTAIN}
    assert all(Path(pair.left_uri).name in pair.evidence["left"] for pair in first.values())
    push.choose(desk, run, count=6, audit_share=0.5, seed=0)
    both = [pair.pair_id for pair in desk.queue.waiting()]
    assert len(both) == len(set(both)) == 12
    some = next(iter(first.values()))
    desk.decisions.append(replace(decision(), left_id=some.left_id, right_id=some.right_id))
    push.choose(desk, run, count=500, audit_share=0.0, seed=0)
    assert some.pair_id not in {pair.pair_id for pair in desk.queue.waiting()}


def test_files_that_changed_are_left_out(made: Path, tmp_path: Path) -> None:
    run = runs.read(made)
    victim = Path(run.uris[0])
    content = victim.read_bytes()
    victim.unlink()
    try:
        again = runs.read(made)
    finally:
        victim.write_bytes(content)
    assert again.lost > 0
    assert str(victim) not in again.uris


def test_a_folder_that_holds_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--out folder"):
        runs.read(tmp_path)


def test_of_many_waiting_pairs_the_audit_draws_and_the_most_uncertain_go_first() -> None:
    waiting: list[QueuedPair] = [queued(f"a{i}", f"b{i}", score=0.5 + i / 100) for i in range(30)]
    waiting.append(queued("x", "y", draw=Draw.AUDIT, score=0.999))
    sent = list(push._most_urgent(waiting, 6))
    assert [pair.draw for pair in sent].count(Draw.AUDIT) == 1
    assert {round(pair.score, 2) for pair in sent if pair.draw is Draw.UNCERTAIN} == {0.5, 0.51, 0.52, 0.53, 0.54}
    assert list(push._most_urgent(waiting, None)) == waiting
    assert waiting[0].enqueued == EPOCH
