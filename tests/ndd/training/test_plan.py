"""An epoch's plan depends on the seed and the epoch alone; workers' shares are parts of one and the same batch."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from ndd.data.sampling import DecidedPairs, HardNegatives
from ndd.training.plan import Batch, EpochPlan, make_batch, plan_epoch
from tests.ndd.training.builders import tiny, tiny_pictures


def tensors(batch: Batch) -> list[torch.Tensor]:
    return [*batch.views, *batch.view_to_picture, *batch.pose, batch.labels, batch.pictures, batch.partners]


def plan(kind: str = "infonce", epoch: int = 0, **overrides: object) -> EpochPlan:
    return plan_epoch(tiny(loss__kind=kind, **overrides), np.arange(24), epoch=epoch)


@pytest.mark.parametrize("kind", ["contrastive", "triplet", "infonce"])
def test_the_seed_and_the_epoch_say_it_all(kind: str) -> None:
    first, second = plan(kind, 1), plan(kind, 1)
    np.testing.assert_array_equal(first.pictures, second.pictures)
    ours, theirs = first.edits(first.rows(1)), second.edits(second.rows(1))
    np.testing.assert_array_equal(ours[1].view_to_picture, theirs[1].view_to_picture)
    for other in (plan(kind, 0), plan(kind, 1, seed=5)):
        assert not np.array_equal(first.pictures, other.pictures)
        assert not np.array_equal(ours[1].texture, other.edits(other.rows(1))[1].texture)


def test_edits_are_those_of_the_example_however_they_are_asked_for() -> None:
    drawn = plan(examples=11)  # two batches and a rest
    whole = drawn.edits(slice(0, 11))
    assert [len(edits) for edits in whole] == [11, 11]
    for rows in (slice(0, 4), slice(5, 7), slice(2, 10), slice(8, 11)):
        for some, every in zip(drawn.edits(rows), whole, strict=True):
            for field in dataclasses.fields(some):
                np.testing.assert_array_equal(getattr(some, field.name), getattr(every, field.name)[rows])


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
        return float(np.abs(p.edits(slice(0, 400))[role].view_to_picture - np.eye(3)).mean())

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


def test_a_plan_holds_no_more_than_a_few_numbers_per_example() -> None:
    drawn = plan("triplet", examples=100_000)
    held = sum(array.nbytes for array in (drawn.pictures, drawn.labels, drawn.others))
    assert held <= 48 * 100_000


HARD = HardNegatives(rows=np.arange(24), neighbours=np.stack([(np.arange(24) + 7) % 24, np.full(24, -1)], axis=1))


@pytest.mark.parametrize(("kind", "role", "strangers"), [("triplet", 2, 1.0), ("contrastive", 1, 0.5)])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_share_of_the_strangers_is_hard(kind: str, role: int, strangers: float, share: float) -> None:
    config = tiny(loss__kind=kind, examples=4000, sampling__hard=share)
    drawn = plan_epoch(config, np.arange(24), epoch=1, hard=HARD)
    usual = plan_epoch(config, np.arange(24), epoch=1)
    near = drawn.pictures[:, role] == (drawn.pictures[:, 0] + 7) % 24
    # One stranger in 23 is the near one by chance.
    assert near.mean() == pytest.approx(strangers * (share + (1 - share) / 23), abs=0.03)
    np.testing.assert_array_equal(drawn.pictures[:, 0], usual.pictures[:, 0])
    np.testing.assert_array_equal(drawn.labels, usual.labels)


def test_pictures_without_a_near_stranger_get_any() -> None:
    none = HardNegatives(rows=np.arange(5), neighbours=np.full((5, 3), -1))
    config = tiny(loss__kind="triplet", examples=300, sampling__hard=1.0)
    drawn = plan_epoch(config, np.arange(24), epoch=1, hard=none)
    np.testing.assert_array_equal(drawn.pictures, plan_epoch(config, np.arange(24), epoch=1).pictures)


DECIDED = DecidedPairs(duplicates=np.array([[0, 1], [2, 3]]), distinct=np.array([[4, 5]]))


def pairs_of(drawn: EpochPlan, roles: tuple[int, int]) -> set[tuple[int, int]]:
    return {tuple(sorted(map(int, row[list(roles)]))) for row in drawn.pictures}  # type: ignore[misc]


def test_decided_pairs_take_their_share_under_their_label() -> None:
    config = tiny(loss__kind="contrastive", examples=4000, sampling__decisions=0.4)
    drawn = plan_epoch(config, np.arange(6, 24), epoch=0, decided=DECIDED)
    decided = (drawn.pictures < 6).all(axis=1)
    assert decided.mean() == pytest.approx(0.4, abs=0.03)
    for row, label in zip(drawn.pictures[decided], drawn.labels[decided], strict=True):
        assert tuple(sorted(row)) in ({(4, 5)} if label else {(0, 1), (2, 3)})
    assert drawn.labels.mean() == 0.5
    assert len({tuple(row) for row in drawn.pictures[decided]}) == 6  # either order


def test_decided_pairs_as_triplets() -> None:
    config = tiny(loss__kind="triplet", examples=600, sampling__decisions=1.0)
    drawn = plan_epoch(config, np.arange(6), epoch=0, decided=DECIDED)
    links = {(0, 1), (2, 3)}
    for anchor, positive, negative in drawn.pictures:
        same = anchor == positive or tuple(sorted((anchor, positive))) in links
        assert same
        assert tuple(sorted((anchor, negative))) not in links
        assert tuple(sorted((positive, negative))) not in links
        assert negative not in (anchor, positive)
    assert pairs_of(drawn, (0, 1)) >= links
    assert (4, 5) in pairs_of(drawn, (0, 2))


def test_infonce_takes_the_duplicates() -> None:
    drawn = plan_epoch(tiny(examples=400, sampling__decisions=1.0), np.arange(24), epoch=0, decided=DECIDED)
    assert pairs_of(drawn, (0, 1)) == {(0, 1), (2, 3)}
    assert not drawn.labels.any()


def test_a_known_duplicate_is_no_stranger() -> None:
    decided = DecidedPairs(duplicates=np.array([[0, 1], [1, 2], [0, 2]]), distinct=np.zeros((0, 2), np.int64))
    drawn = plan_epoch(tiny(loss__kind="triplet", examples=500), np.arange(4), epoch=0, decided=decided)
    assert pairs_of(drawn, (0, 2)) == {(0, 3), (1, 3), (2, 3)}


def test_only_views_of_one_picture_are_aligned() -> None:
    config = tiny(loss__kind="contrastive", examples=40, sampling__decisions=0.5)
    drawn = plan_epoch(config, np.arange(24), epoch=0, decided=DECIDED)
    seen = set()
    for step in range(drawn.steps):
        batch = make_batch(drawn, drawn.rows(step), tiny_pictures())
        for a, b, label, aligned in zip(batch.pictures, batch.partners, batch.labels, batch.aligned, strict=True):
            assert bool(aligned) == (int(a) == int(b))
            seen.add((int(label), bool(aligned)))
    assert seen == {(0, True), (1, False), (0, False)}  # the last: duplicates by a person's word
