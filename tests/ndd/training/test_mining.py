"""Mined at the start of an epoch, kept for whoever goes on with it, and the same on every worker."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ndd.data.sampling import DecidedPairs
from ndd.training.local import train_local
from ndd.training.loop import start_state
from ndd.training.mining import embed_rows, hard_negatives
from ndd.training.workers import Share
from tests.ndd.training.builders import tiny, tiny_pictures

ROWS = np.arange(2, 20)
HARD = {"loss__kind": "triplet", "sampling__hard": 0.7, "sampling__first": 1, "sampling__neighbours": 3}


def test_the_nearest_of_the_current_weights(tmp_path: Path) -> None:
    state = start_state(tiny(**HARD), tmp_path, device="cpu")
    images = tiny_pictures()
    assert hard_negatives(state, images, ROWS, tmp_path, epoch=0, share=Share()) is None
    known = DecidedPairs(duplicates=np.array([[2, 3]]), distinct=np.zeros((0, 2), np.int64))
    found = hard_negatives(state, images, ROWS, tmp_path, epoch=1, share=Share(), decided=known)
    assert found is not None
    vectors = embed_rows(state.average, images, ROWS, size=32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    similarity = vectors @ vectors.T
    for at, (row, near) in enumerate(zip(found.rows, found.neighbours, strict=True)):
        assert row not in near
        assert {int(row), *map(int, near)} < {*range(2, 20), -1}
        assert not {2, 3} <= {int(row), *map(int, near)}
        kept = [similarity[at, int(r) - 2] for r in near if r >= 0]
        assert kept == sorted(kept, reverse=True)
        assert all(s <= 0.98 + 1e-3 for s in kept)


def test_what_was_found_outlasts_the_weights_it_was_found_with(tmp_path: Path) -> None:
    config = tiny(**HARD, sampling__every=2, epochs=4)
    state, images = start_state(config, tmp_path, device="cpu"), tiny_pictures()
    first = hard_negatives(state, images, ROWS, tmp_path, epoch=1, share=Share())
    with torch.no_grad():
        for parameter in state.average.parameters():
            parameter.add_(torch.randn_like(parameter))
    again = hard_negatives(state, images, ROWS, tmp_path, epoch=2, share=Share())
    assert first is not None
    assert again is not None
    np.testing.assert_array_equal(first.neighbours, again.neighbours)
    anew = hard_negatives(state, images, ROWS, tmp_path, epoch=3, share=Share())
    assert anew is not None
    assert not np.array_equal(first.neighbours, anew.neighbours)
    assert [path.name for path in tmp_path.glob("hard-*")] == ["hard-0003.npz"]


def test_no_more_than_the_pool_is_searched(tmp_path: Path) -> None:
    state = start_state(tiny(**HARD, sampling__pool=6), tmp_path, device="cpu")
    asked: list[int] = []

    class Watched:
        def __len__(self) -> int:
            return 24

        def __getitem__(self, rows: np.ndarray) -> np.ndarray:
            asked.extend(map(int, rows))
            return tiny_pictures()[rows]

    found = hard_negatives(state, Watched(), ROWS, tmp_path, epoch=1, share=Share())
    assert found is not None
    assert len(found.rows) == len(asked) == len(set(asked)) == 6


def test_a_run_stopped_within_such_an_epoch_goes_on_exactly(tmp_path: Path) -> None:
    config, images = tiny(**HARD), tiny_pictures()
    whole = train_local(config, images, tmp_path / "whole")
    train_local(config, images, tmp_path / "cut", max_steps=4)
    cut = train_local(config, images, tmp_path / "cut")
    for name, value in whole.model.state_dict().items():
        assert torch.equal(cut.model.state_dict()[name], value), name
    plain = train_local(tiny(loss__kind="triplet"), images, tmp_path / "plain")
    changed = zip(whole.model.parameters(), plain.model.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in changed), "hard negatives made no difference"
