"""Slope and shift that audits ask for: against a plain minimiser, and on made-up reviewers."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize

from ndd.model import checkpoint
from ndd.model.directory import CALIBRATION, shipped
from ndd.types import Decision, Draw, ImageId, Verdict, pair_id
from ndd.verify.score import PairEvidence, Scorer
from pipelines.demo import photographs
from pipelines.recalibrate import LEAST, Audit, audited, platt, recalibrate, sure_of_loss


def made(count: int, *, slope: float, shift: float, seed: int = 0, prior: float = 0.5) -> Audit:
    """Answers of which the log-odds are really `slope` × logit + `shift` + those of the prior, unequally often drawn."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, count)
    truth = rng.random(count) < 1 / (1 + np.exp(-(slope * logits + shift + np.log(prior / (1 - prior)))))
    weight = rng.choice([0.5, 1.0, 2.0], count)
    return Audit(logits=logits, prior=np.full(count, prior), truth=truth, weight=weight / weight.mean(), lost=0)


def test_it_is_the_minimum_of_the_weighted_log_loss_and_the_pull() -> None:
    audit = made(80, slope=0.6, shift=-1.0, prior=0.2)
    base = np.log(0.2 / 0.8)

    def loss(at: np.ndarray) -> float:
        signed = np.where(audit.truth, 1, -1) * (at[0] * audit.logits + at[1] + base)
        return float((audit.weight * np.logaddexp(0, -signed)).sum() + 4.0 * ((at[0] - 1) ** 2 + at[1] ** 2))

    np.testing.assert_allclose(platt(audit), minimize(loss, np.array([1.0, 0.0]), tol=1e-10).x, atol=1e-5)


def test_many_answers_show_the_true_slope_and_shift() -> None:
    slope, shift = platt(made(20_000, slope=0.5, shift=1.5))
    assert slope == pytest.approx(0.5, abs=0.03)
    assert shift == pytest.approx(1.5, abs=0.06)


def test_the_share_of_duplicates_is_left_to_each_search() -> None:
    """A score that is right needs no move, however rare duplicates are among the candidates."""
    audit = made(20_000, slope=1.0, shift=0.0, prior=0.01)
    assert audit.truth.mean() < 0.1
    slope, shift = platt(audit)
    assert slope == pytest.approx(1.0, abs=0.06)
    assert shift == pytest.approx(0.0, abs=0.15)
    assert audit.figures()["accuracy"] > 0.9


def test_figures_weigh_each_pair_by_how_unlikely_it_was_drawn() -> None:
    """Two strangers of which one stands for three: the duplicate is above the one that stands for one."""
    audit = Audit(
        logits=np.array([1.0, 2.0, -2.0]),
        prior=np.full(3, 0.5),
        truth=np.array([True, False, False]),
        weight=np.array([1.0, 1.5, 0.5]),
        lost=0,
    )
    assert audit.figures()["roc_auc"] == pytest.approx(0.25)
    assert audit.figures()["accuracy"] == pytest.approx(0.5)


def test_how_sure_it_is_that_a_model_tells_audited_pairs_apart_worse() -> None:
    before = made(200, slope=1.0, shift=0.0)
    noise = np.random.default_rng(1).normal(0, 6, 200)
    worse = replace(before, logits=before.logits + noise)
    assert (sure_of_loss(before, before), sure_of_loss(before, replace(before, logits=2 * before.logits))) == (0, 0)
    sure = sure_of_loss(before, worse)
    assert sure is not None and sure > 0.95
    assert (sure_of_loss(worse, before) or 0) < 0.05
    assert sure_of_loss(made(10, slope=1, shift=0), made(10, slope=1, shift=0)) is None


def test_few_answers_hardly_move_it() -> None:
    slope, shift = platt(made(4, slope=0.5, shift=1.5))
    assert abs(slope - 1.0) < 0.5
    assert abs(shift) < 0.5


def test_a_scorer_moved_by_audits_gives_the_moved_odds(tmp_path: Path) -> None:
    model = tmp_path / "model"
    old = checkpoint.load(shipped())
    checkpoint.save(model, old.model, card={}, calibration=old.calibration)
    audit = made(400, slope=0.7, shift=-0.8)
    told = recalibrate(model, audit)
    assert told["moved"]
    assert (told["slope"], told["shift"]) == platt(audit)
    moved = json.loads((model / CALIBRATION).read_text(encoding="utf-8"))
    # At a distance that settles nothing: near 0 and 1 a score has too few digits left to tell its odds.
    pairs = [PairEvidence(distance=d, hash_bits=b) for d, b in ((0.5, 60), (0.6, 90), (0.55, 50))]
    before, after = (Scorer(table).score(pairs) for table in (old.calibration, moved))
    assert (np.minimum(before, 1 - before) > 1e-6).all()
    logit = np.log(before / (1 - before))
    np.testing.assert_allclose(np.log(after / (1 - after)), told["slope"] * logit + told["shift"], rtol=1e-6)


@pytest.mark.parametrize("audit", [made(LEAST - 1, slope=1, shift=0), made(60, slope=0.1, shift=-8)])
def test_too_few_answers_leave_the_calibration_alone(audit: Audit, tmp_path: Path) -> None:
    (tmp_path / CALIBRATION).write_text("not to be touched")
    told = recalibrate(tmp_path, audit)
    assert (told["moved"], told["wanted"]) == (False, LEAST)
    assert (tmp_path / CALIBRATION).read_text() == "not to be touched"


def test_audited_pairs_are_scored_from_the_files_and_a_lost_one_is_counted(tmp_path: Path) -> None:
    first, second = photographs()[:2]
    place: dict[ImageId, str] = {}
    ids = []
    for name, content in (("a", first.content), ("b", first.content + b"\0"), ("c", second.content)):
        (tmp_path / name).write_bytes(content)
        ids.append(ImageId(name * 64))
        place[ids[-1]] = str(tmp_path / name)
    gone = ImageId("f" * 64)
    place[gone] = str(tmp_path / "gone")

    def asked(left: ImageId, right: ImageId, verdict: Verdict) -> Decision:
        return Decision(
            left_id=left, right_id=right, verdict=verdict, relation=None, reviewer="ann", time=datetime.now(UTC),
            embedding_digest="e", scorer_digest="s", draw=Draw.AUDIT, p_draw=0.25 if verdict is Verdict.DUPLICATE else 1.0,
        )  # fmt: skip

    found = audited(
        shipped(),
        [
            asked(ids[0], ids[1], Verdict.DUPLICATE),
            asked(ids[0], ids[2], Verdict.DISTINCT),
            asked(ids[0], gone, Verdict.DUPLICATE),
        ],
        place,
        prior_of={pair_id(ids[0], ids[1]): 0.125},
    )
    assert found.lost == 1
    # Not known of the other: no duplicate among one such pair, between two imaginary ones.
    np.testing.assert_allclose(found.prior, [0.125, 1 / (0.4 + 2)])
    assert found.truth.tolist() == [True, False]
    assert found.logits[0] > 2 > -2 > found.logits[1]
    np.testing.assert_allclose(found.weight, [1.6, 0.4])
    assert found.figures()["roc_auc"] == 1.0
