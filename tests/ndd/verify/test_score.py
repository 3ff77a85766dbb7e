from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndd.errors import ModelError
from ndd.types import Relation
from ndd.verify.geometry import GeometricEvidence
from ndd.verify.score import (
    DEFAULT_CALIBRATION,
    UNVERIFIED_FEATURES,
    VERIFIED_FEATURES,
    PairEvidence,
    Scorer,
    _unverified,
    estimate_prior,
    features,
    least_score,
    relation_of,
    threshold_for_precision,
)

IDENTITY = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
STRONG = GeometricEvidence(
    inliers=150,
    matches=160,
    inlier_ratio=0.7,
    overlap_left=1.0,
    overlap_right=1.0,
    area_left=0.8,
    area_right=0.8,
    correlation=0.96,
    agreement=0.99,
    core=0.99,
    explained_left=0.98,
    explained_right=0.98,
    difference=0.01,
    transform=IDENTITY,
)
CAPTION = dataclasses.replace(
    STRONG,
    inliers=40,
    inlier_ratio=0.35,
    correlation=0.2,
    agreement=0.25,
    core=0.4,
    explained_left=0.15,
    explained_right=0.2,
)


def evidence(**values: Any) -> PairEvidence:
    return PairEvidence(**{"distance": 0.4, "hash_bits": 100, **values})


# --- the score -------------------------------------------------------------------------------------------------------


def test_strong_evidence_scores_high_and_none_scores_low() -> None:
    scorer = Scorer()
    strong, caption, nothing = scorer.score(
        [evidence(geometry=STRONG), evidence(geometry=CAPTION), evidence(geometry=GeometricEvidence(matches=30))]
    )
    assert strong > 0.99
    assert caption < 0.5
    assert nothing < 0.05


def test_identical_bytes_score_one_and_flat_pictures_zero() -> None:
    near = {"distance": 0.0, "hash_bits": 0}
    scores = Scorer().score([evidence(identical=True, flat=True, **near), evidence(flat=True, **near)])
    assert scores.tolist() == [1.0, 0.0]


def test_no_evidence_no_scores() -> None:
    assert Scorer().score([]).shape == (0,)


@pytest.mark.parametrize(
    ("field", "low", "high"),
    [
        ("inliers", 5, 80),
        ("inlier_ratio", 0.1, 0.6),
        ("likeness", 0.1, 0.8),
        ("agreement", 0.1, 0.8),
        ("core", 0.1, 0.8),
        ("explained_left", 0.3, 0.9),
        ("explained_right", 0.2, 0.9),
    ],
)
def test_more_evidence_never_lowers_the_score(field: str, low: float, high: float) -> None:
    less, more = (dataclasses.replace(CAPTION, **{field: value}) for value in (low, high))
    a, b = Scorer().score([evidence(geometry=less), evidence(geometry=more)])
    assert a <= b


@pytest.mark.parametrize("geometry", [None, CAPTION])
def test_nearer_descriptors_and_hashes_never_lower_the_score(geometry: GeometricEvidence | None) -> None:
    steps = [(1.4, 128), (0.6, 120), (0.3, 60), (0.0, 0)]
    scores = Scorer().score([evidence(geometry=geometry, distance=d, hash_bits=h) for d, h in steps])
    assert (np.diff(scores) >= 0).all() and scores[-1] > scores[0]


def by_hand(weights: list[float], bias: float) -> dict[str, Any]:
    zero = [0.0] * (len(VERIFIED_FEATURES) - 3)
    return {
        "version": 1,
        "features": list(VERIFIED_FEATURES),
        "weights": zero + weights,
        "bias": bias,
        "prior": 0.5,
        "unverified": {"features": list(UNVERIFIED_FEATURES), "weights": weights, "bias": bias},
    }


def test_the_score_is_the_logistic_of_weighted_features() -> None:
    # cosine .6, hash 1 − 48/96 = .5: 2 · .6 + 4 · .5 − 3 = .2
    scores = Scorer(by_hand([2.0, 0.0, 4.0], -3.0)).score(
        [evidence(hash_bits=48), evidence(hash_bits=48, geometry=GeometricEvidence())]
    )
    np.testing.assert_allclose(scores, 1 / (1 + math.exp(-0.2)), rtol=1e-12)


def test_another_prior_multiplies_the_odds() -> None:
    scorer = Scorer(by_hand([2.0, 0.0, 4.0], -3.0))
    pairs = [evidence(hash_bits=bits) for bits in (0, 30, 90)]
    before, after = scorer.score(pairs), scorer.with_prior(0.1).score(pairs)
    np.testing.assert_allclose(after / (1 - after), before / (1 - before) / 9.0, rtol=1e-9)
    again = scorer.with_prior(0.1).with_prior(0.5).score(pairs)
    np.testing.assert_allclose(again, before, rtol=1e-12)
    assert scorer.with_prior(0.1).digest == scorer.digest


def test_features_follow_what_is_known() -> None:
    assert features(evidence()).shape == (len(UNVERIFIED_FEATURES),)
    full = features(evidence(geometry=STRONG, hash_bits=0))
    assert full.shape == (len(VERIFIED_FEATURES),)
    assert full[VERIFIED_FEATURES.index("inliers")] == pytest.approx(math.log(151))
    assert full[VERIFIED_FEATURES.index("hash")] == 1.0
    assert full[VERIFIED_FEATURES.index("cosine")] == pytest.approx(0.6)


@given(st.floats(0.0, 2.0), st.integers(0, 256), st.floats(-1.0, 1.0))
def test_features_all_at_once_are_those_of_each_pair_to_the_last_bit(
    distance: float, bits: int, hubness: float
) -> None:
    pairs = [PairEvidence(distance=distance, hash_bits=bits, hubness=hubness), PairEvidence(distance=0.3, hash_bits=9)]
    assert _unverified(pairs).tolist() == [features(pair).tolist() for pair in pairs]


def test_what_is_near_to_everything_stands_out_less() -> None:
    calibration = by_hand([0.0, 4.0, 0.0], -1.0)
    # cosine .6: 4 · (.6 − .25) − 1 = .4
    (plain, crowded) = Scorer(calibration).score([evidence(), evidence(hubness=0.25)])
    assert crowded == pytest.approx(1 / (1 + math.exp(-0.4)))
    assert plain == pytest.approx(1 / (1 + math.exp(-1.4)))


def test_a_ramp_rises_between_its_ends() -> None:
    table = by_hand([0.0, 0.0, 0.0], -1.0)
    table["unverified"] = {"features": ["cosine[0.4:0.8]", "hash"], "weights": [2.0, 1.0], "bias": -1.0}
    scores = Scorer(table).score([evidence(distance=d, hash_bits=96) for d in (0.9, 0.6, 0.4, 0.2, 0.1)])
    np.testing.assert_allclose(np.log(scores / (1 - scores)), [-1.0, -1.0, 0.0, 1.0, 1.0], atol=1e-9)


def test_a_pair_scores_alone_as_it_does_among_others() -> None:
    rng = np.random.default_rng(1)
    some = [
        evidence(distance=float(d), hash_bits=int(b), geometry=CAPTION if at % 2 else None)
        for at, (d, b) in enumerate(zip(rng.random(9), rng.integers(0, 128, 9), strict=True))
    ]
    alone = [float(Scorer().score([one])[0]) for one in some]
    assert Scorer().score(some).tolist() == alone


@pytest.mark.parametrize(
    "damage",
    [
        {"version": 2},
        {"prior": 0.0},
        {"prior": "half"},
        {"prior": None},
        {"weights": [1.0]},
        {"weights": ["a"] * len(VERIFIED_FEATURES)},
        {"bias": float("nan")},
        {"features": ["astrology"] * len(VERIFIED_FEATURES)},
        {"features": ["hash[0.5:0.5]"] * len(VERIFIED_FEATURES)},
        {"features": ["hash[0.5]"] * len(VERIFIED_FEATURES)},
        {"unverified": None},
        {"unverified": {"features": [], "weights": []}},
    ],
)
def test_a_damaged_calibration_is_refused(damage: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="calibration"):
        Scorer({**DEFAULT_CALIBRATION, **damage})


# --- the prior -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.02, 0.2, 0.6, 0.9])
@pytest.mark.parametrize("assumed", [0.5, 0.2])
def test_em_recovers_the_share_of_duplicates(share: float, assumed: float) -> None:
    # Logit-normal evidence with a known likelihood ratio: x ~ N(±2, 2²) gives log ratio x.
    rng = np.random.default_rng(7)
    truth = rng.random(20_000) < share
    x = rng.normal(np.where(truth, 2.0, -2.0), 2.0)
    scores = 1 / (1 + np.exp(-(x + math.log(assumed / (1 - assumed)))))
    assert estimate_prior(scores, prior=assumed) == pytest.approx(share, abs=0.02)


def test_without_candidates_the_prior_stays() -> None:
    assert estimate_prior([]) == 0.5
    assert estimate_prior([1.0, 1.0, 0.0], prior=0.3) == 0.3


@given(st.lists(st.floats(0.0, 1.0), max_size=5))
def test_few_candidates_give_a_sane_prior(scores: list[float]) -> None:
    assert 1e-4 <= estimate_prior(scores) <= 0.95


def test_one_sure_pair_does_not_make_everything_a_duplicate() -> None:
    assert 0.5 < estimate_prior([0.999]) < 0.8
    assert 0.2 < estimate_prior([0.001]) < 0.5


def test_more_than_enough_of_one_kind_is_clamped() -> None:
    assert estimate_prior([0.999] * 5000) == 0.95
    assert estimate_prior([0.0001] * 50_000) == pytest.approx(1e-4, abs=1e-4)


# --- the threshold ---------------------------------------------------------------------------------------------------

SCORES = st.lists(st.one_of(st.sampled_from([0.0, 0.5, 0.9, 0.95, 1.0]), st.floats(0.0, 1.0)), max_size=30)


@given(scores=SCORES, q=st.floats(0.01, 0.999))
def test_the_threshold_is_the_lowest_that_keeps_the_precision(scores: list[float], q: float) -> None:
    threshold = threshold_for_precision(scores, q)

    def good(t: float) -> bool:
        accepted = [s for s in scores if s >= t]
        return bool(accepted) and math.fsum(accepted) / len(accepted) >= q - 1e-12

    possible = [t for t in scores if good(t)]
    if possible:
        assert threshold == min(possible)
    else:
        assert not [s for s in scores if s >= threshold]


def test_ties_stand_or_fall_together() -> None:
    # 1, .9, .9 has mean .933; half of the tie (mean .95) must not be accepted at .94.
    assert threshold_for_precision([1.0, 0.9, 0.9], 0.94) == 1.0
    assert threshold_for_precision([1.0, 0.9, 0.9], 0.93) == 0.9
    assert threshold_for_precision([0.9, 1.0, 0.9, 0.1], 0.93) == 0.9


@pytest.mark.parametrize("scores", [[], [0.2], [0.989, 0.5]])
def test_no_candidate_good_enough_accepts_none(scores: list[float]) -> None:
    threshold = threshold_for_precision(scores, 0.99)
    assert threshold == 0.99
    assert not [s for s in scores if s >= threshold]


# --- the relation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pair", "relation"),
    [
        (evidence(identical=True), Relation.EXACT),
        (evidence(flat=True, hash_bits=0), None),
        (evidence(geometry=STRONG), Relation.REENCODED),
        (evidence(geometry=dataclasses.replace(STRONG, difference=0.2)), Relation.EDITED),
        (evidence(geometry=dataclasses.replace(STRONG, mirrored=True)), Relation.EDITED),
        (
            evidence(
                geometry=dataclasses.replace(STRONG, transform=((0.0, -1.0, 1.0), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)))
            ),
            Relation.EDITED,
        ),
        (evidence(geometry=dataclasses.replace(CAPTION, agreement=0.1, explained_right=0.1)), Relation.SCENE),
        (evidence(geometry=GeometricEvidence(matches=50)), None),
        (evidence(hash_bits=4, distance=0.02), Relation.REENCODED),
        (evidence(hash_bits=4, distance=0.02, upright=False), Relation.EDITED),
        (evidence(hash_bits=120, distance=1.0), None),
    ],
)
def test_relations(pair: PairEvidence, relation: Relation | None) -> None:
    assert relation_of(pair) is relation


@pytest.mark.parametrize(("q", "least"), [(0.9, 0.5), (0.97, 0.5), (0.99, 0.8), (0.999, 0.98), (1.0, 1.0)])
def test_no_pair_is_accepted_that_is_much_more_doubtful_than_wanted(q: float, least: float) -> None:
    assert least_score(q) == pytest.approx(max(0.5, least))
