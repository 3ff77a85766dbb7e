"""Which pairs are asked about: inclusion probabilities, strata, no question twice."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ndd.errors import UsageError
from ndd.select import STRATA, Candidates, Choice, audit_sample, select, uncertainty, urgency
from ndd.types import Draw
from tests.ndd.data.builders import image

SCORES = arrays.arrays(np.float64, st.integers(1, 60), elements=st.floats(0.0, 1.0))


def candidates(score: np.ndarray, *, seed: int = 0, dim: int = 8, descriptor: np.ndarray | None = None) -> Candidates:
    """Pairs of different pictures, all with different ones."""
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(2 * len(score), dim))
    return Candidates(
        pictures=[image(i) for i in range(2 * len(score))],
        left=np.arange(len(score)),
        right=np.arange(len(score)) + len(score),
        score=score,
        descriptor=descriptor,
        vectors=(vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16),
    )


def stratum(score: float) -> int:
    return int(np.searchsorted(STRATA, score, side="right"))


@given(SCORES, st.integers(0, 70), st.integers(0, 5))
def test_every_audit_draw_knows_its_stratum_and_probability(score: np.ndarray, count: int, seed: int) -> None:
    drawn = audit_sample(score, count=count, seed=seed)
    assert len(drawn) == min(count, len(score))
    assert len({at for at, _ in drawn}) == len(drawn)
    assert all(0.0 < p <= 1.0 for _, p in drawn)
    # Horvitz and Thompson: 1/p of a stratum's draws add up to its size, hence all to the number of candidates.
    if drawn:
        assert sum(1.0 / p for _, p in drawn) == pytest.approx(len(score))
    if count >= len(set(map(stratum, score))):
        assert {stratum(score[at]) for at, _ in drawn} == set(map(stratum, score))


@pytest.mark.parametrize("count", [1, 3, 9, 25])
def test_inclusion_probabilities_are_those_of_many_draws(count: int) -> None:
    score = np.concatenate([np.full(40, 0.01), np.full(15, 0.4), np.full(3, 0.6), np.full(2, 0.99)])
    times, seen, said = 4000, Counter[int](), {}
    for seed in range(times):
        for at, p in audit_sample(score, count=count, seed=seed):
            seen[at] += 1
            said[at] = p
    assert said.keys() == set(range(len(score)))  # nobody's chance is nought
    for at, p in said.items():
        assert abs(seen[at] / times - p) < 4.5 * np.sqrt(p * (1 - p) / times) + 1e-9


def test_weighted_audit_draws_estimate_the_precision_without_bias() -> None:
    random = np.random.default_rng(3)
    score = random.beta(0.3, 0.3, size=400)
    truth = random.random(400) < score**2
    accepted = score >= 0.5
    estimates = []
    for seed in range(600):
        drawn = [(at, p) for at, p in audit_sample(score, count=40, seed=seed) if accepted[at]]
        weights = np.array([1 / p for _, p in drawn])
        estimates.append(float((weights * truth[[at for at, _ in drawn]]).sum() / weights.sum()))
    plain = float(np.mean(truth[accepted]))
    assert np.mean(estimates) == pytest.approx(plain, abs=4 * np.std(estimates) / np.sqrt(600) + 0.003)


@given(SCORES, st.integers(0, 40), st.floats(0.0, 1.0), st.integers(0, 3))
def test_what_is_chosen(score: np.ndarray, count: int, audit_share: float, seed: int) -> None:
    given_ = candidates(score)
    names = given_.pair_ids()
    exclude = set(names[::3])
    chosen = select(given_, count=count, audit_share=audit_share, seed=seed, exclude=exclude)
    assert len(chosen) <= count
    assert len({c.pair_id for c in chosen}) == len(chosen)
    assert not exclude & {c.pair_id for c in chosen}
    assert all(names[c.row] == c.pair_id for c in chosen)
    assert [c.urgency for c in chosen] == sorted((c.urgency for c in chosen), reverse=True)
    assert all(c.p_draw == 1.0 for c in chosen if c.draw is Draw.UNCERTAIN)
    audits = sum(c.draw is Draw.AUDIT for c in chosen)
    assert audits == min(int(np.ceil(count * audit_share)), len(names) - len(exclude))


@given(SCORES, st.integers(1, 30), st.randoms(use_true_random=False))
def test_the_order_in_which_pairs_were_found_does_not_matter(score: np.ndarray, count: int, random: object) -> None:
    here = candidates(score)
    order = np.random.default_rng(len(score)).permutation(len(score))
    # Also with the two pictures of each pair exchanged.
    there = Candidates(
        pictures=here.pictures,
        left=here.right[order],
        right=here.left[order],
        score=score[order],
        vectors=here.vectors,
    )

    def said(choices: list[Choice]) -> list[tuple[str, Draw, float]]:
        return [(c.pair_id, c.draw, c.p_draw) for c in choices]

    assert said(select(here, count=count, seed=5)) == said(select(there, count=count, seed=5))


def test_another_seed_gives_another_audit_and_the_same_uncertain_ones() -> None:
    score = np.random.default_rng(0).random(300)
    one, two = (select(candidates(score), count=40, audit_share=0.5, seed=seed) for seed in (1, 2))
    audits = [{c.pair_id for c in chosen if c.draw is Draw.AUDIT} for chosen in (one, two)]
    assert audits[0] != audits[1]


def test_ten_copies_of_one_question_are_asked_once() -> None:
    """Two groups of ten near copies, uncertain against each other: 100 pairs, one question; and twenty other questions."""
    random = np.random.default_rng(1)
    base = random.normal(size=(42, 32))
    vectors = np.concatenate(
        [base[0] + 0.05 * random.normal(size=(10, 32)), base[1] + 0.05 * random.normal(size=(10, 32))]
    )
    vectors = np.concatenate([vectors, base[2:]])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cross = [(a, b) for a in range(10) for b in range(10, 20)]
    others = [(20 + 2 * i, 21 + 2 * i) for i in range(20)]
    left, right = np.array(cross + others).T
    score = np.concatenate([np.full(100, 0.5), np.full(20, 0.4)])  # the copies are the more uncertain ones
    given_ = Candidates(
        pictures=[image(i) for i in range(60)], left=left, right=right, score=score, vectors=vectors.astype(np.float16)
    )
    chosen = select(given_, count=20, audit_share=0.0)
    assert sum(c.row < 100 for c in chosen) <= 2
    assert len(chosen) == 20
    # Without vectors, sharing a picture is what makes two questions alike.
    bare = Candidates(pictures=given_.pictures, left=left, right=right, score=score)
    assert sum(c.row < 100 for c in select(bare, count=20, audit_share=0.0)) <= 10


def test_a_question_like_one_asked_before_waits_for_new_ones() -> None:
    """Two questions of five near copies each, equally open; of one of them two copies were asked before."""
    random = np.random.default_rng(2)
    base = np.repeat(random.normal(size=(4, 32)), 5, axis=0)
    vectors = base + 0.02 * random.normal(size=base.shape)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    left, right = np.r_[0:5, 10:15], np.r_[5:10, 15:20]
    given_ = Candidates(
        pictures=[image(i) for i in range(20)], left=left, right=right, score=np.full(10, 0.5), vectors=vectors
    )
    names = given_.pair_ids()
    for asked in (0, 5):
        (chosen,) = select(given_, count=1, audit_share=0.0, exclude=names[asked : asked + 2])
        assert chosen.row // 5 != asked // 5


def test_the_uncertain_and_the_contradictory_come_first() -> None:
    score = np.array([0.01, 0.5, 0.99, 0.02, 0.6])
    contradicted = np.array([0.01, 0.5, 0.98, 0.97, 0.6])
    assert {c.row for c in select(candidates(score), count=2, audit_share=0.0)} == {1, 4}
    said = select(candidates(score, descriptor=contradicted), count=3, audit_share=0.0)
    assert {c.row for c in said} == {1, 3, 4}


def test_pairs_of_one_picture_and_repeated_pairs_are_no_questions() -> None:
    given_ = Candidates(
        pictures=[image("a"), image("b")],
        left=np.array([0, 0, 1]),
        right=np.array([0, 1, 0]),
        score=np.array([0.5, 0.5, 0.5]),
    )
    assert len(select(given_, count=3, audit_share=1.0)) == 1


def test_entropy_and_urgency() -> None:
    assert uncertainty(np.array([0.0, 0.5, 1.0])) == pytest.approx([0.0, 1.0, 0.0], abs=1e-9)
    assert urgency(0.5, draw=Draw.UNCERTAIN, pair_id="x") == pytest.approx(1.0)
    # Places of audit draws say nothing of their scores, and are spread evenly.
    places = [urgency(0.999, draw=Draw.AUDIT, pair_id=str(i)) for i in range(400)]
    assert np.mean(places) == pytest.approx(0.5, abs=0.06)
    assert places[7] == urgency(0.5, draw=Draw.AUDIT, pair_id="7")


def test_a_share_beyond_one_is_refused() -> None:
    with pytest.raises(UsageError, match="audit share"):
        select(candidates(np.array([0.5])), count=1, audit_share=1.5)
