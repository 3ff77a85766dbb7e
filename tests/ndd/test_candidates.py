"""A finished search as candidates: every pair of different contents, with where its pictures lie."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ndd.candidates import read_candidates
from ndd.errors import InputError
from ndd.images import read_file
from ndd.tables import read_pairs
from ndd.types import Relation, image_id
from tests.samples import small_search


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_search(tmp_path_factory.mktemp("runs"))


def test_every_pair_of_different_contents_is_a_candidate(made: Path) -> None:
    run = read_candidates(made)
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


def test_files_that_changed_are_left_out(made: Path, tmp_path: Path) -> None:
    run = read_candidates(made)
    victim = Path(run.uris[0])
    content = victim.read_bytes()
    victim.unlink()
    try:
        again = read_candidates(made)
    finally:
        victim.write_bytes(content)
    assert again.lost > 0
    assert str(victim) not in again.uris


def test_a_folder_that_holds_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--out folder"):
        read_candidates(tmp_path)
