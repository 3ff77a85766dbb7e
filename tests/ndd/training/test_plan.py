"""An epoch's plan depends on the seed and the epoch alone; workers' shares are parts of one and the same batch."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from ndd.training.plan import Batch, EpochPlan, make_batch, plan_epoch
from tests.ndd.training.builders import tiny, tiny_pictures


def tensors(batch: Batch) -> list[torch.Tensor]:
    return [*batch.views, *batch.view_to_picture, *batch.pose, batch.labels, batch.pictures]


def plan(kind: str = "infonce", epoch: int = 0, **overrides: object) -> EpochPlan:
    return plan_epoch(tiny(loss__kind=kind, **overrides), np.arange(24), epoch=epoch)


@pytest.mark.parametrize("kind", ["contrastive", "triplet", "infonce"])
def test_the_seed_and_the_epoch_say_it_all(kind: str) -> None:
    first, second = plan(kind, 1), plan(kind, 1)
    np.testing.assert_array_equal(first.pictures, second.pictures)
    np.testing.assert_array_equal(first.edits[1].view_to_picture, second.edits[1].view_to_picture)
    for other in (plan(kind, 0), plan(kind, 1, seed=5)):
        assert not np.array_equal(first.pictures, other.pictures)


def test_every_picture_comes_once_before_any_comes_twice() -> None:
    order = plan(examples=36).pictures[:, 0]
    assert sorted(order[:24]) == list(range(24))
    assert len(set(order[24:])) == 12
    assert sorted(plan(examples=None).pictures[:, 0]) == list(range(24))


@pytest.mark.parametrize("count", [2, 3, 24])
def test_a_stranger_is_never_the_picture_itself(count: int) -> None:
    drawn = plan_epoch(tiny(loss__kind="triplet", examples=500), np.arange(count) * 3 + 1, epoch=0)
    assert (drawn.pictures[:, 0] != drawn.pictures[:, 2]).all()
    assert set(drawn.pictures[:, 2]) == set(np.arange(count) * 3 + 1)


def test_a_single_picture_cannot_be_trained_on() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        plan_epoch(tiny(), np.arange(1), epoch=0)


def test_edits_grow_over_the_run_and_the_first_view_is_the_gentler() -> None:
    early, late = plan(epoch=0, epochs=10, examples=400), plan(epoch=9, epochs=10, examples=400)

    def strength(p: EpochPlan, role: int) -> float:
        return float(np.abs(p.edits[role].view_to_picture - np.eye(3)).mean())

    assert strength(early, 1) < 0.5 * strength(late, 1)
    assert strength(late, 0) < 0.8 * strength(late, 1)


@pytest.mark.parametrize("kind", ["contrastive", "triplet", "infonce"])
@pytest.mark.parametrize("workers", [2, 4])
def test_shares_make_up_the_batch(kind: str, workers: int) -> None:
    drawn, images = plan(kind), tiny_pictures()
    for step in range(drawn.steps):
        whole = make_batch(drawn, drawn.rows(step), images)
        parts = [make_batch(drawn, drawn.rows(step, rank=r, workers=workers), images) for r in range(workers)]
        for expected, *pieces in zip(tensors(whole), *map(tensors, parts), strict=True):
            assert torch.equal(torch.cat(pieces), expected)


def test_a_batch_that_cannot_be_shared() -> None:
    with pytest.raises(ValueError, match="4 examples cannot be shared evenly by 3"):
        plan().rows(0, workers=3)


def test_read_only_arrays_will_do() -> None:
    """Plans come out of Ray's object store, and pictures out of a mapped file, as read-only arrays."""
    drawn = plan("contrastive")
    for edits in drawn.edits:
        for field in dataclasses.fields(edits):
            getattr(edits, field.name).setflags(write=False)
    for array in (drawn.pictures, drawn.labels, drawn.others):
        array.setflags(write=False)
    images = tiny_pictures()
    images.setflags(write=False)
    batch = make_batch(drawn, drawn.rows(0), images)
    batch.labels.add_(1)  # the batch's memory is its own
    assert (batch.labels - 1 == torch.tensor(drawn.labels[:4])).all()


def test_the_last_smaller_batch_is_left_out() -> None:
    drawn = plan(examples=11)
    assert drawn.steps == 2
    assert drawn.rows(1) == slice(4, 8)
