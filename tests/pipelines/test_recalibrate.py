"""Slope and shift that audits ask for: against a plain minimiser, and on made-up reviewers."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize

from ndd.model import checkpoint
from ndd.model.directory import CALIBRATION, shipped
from ndd.types import Decision, Draw, ImageId, Verdict
from ndd.verify.score import PairEvidence, Scorer
from pipelines.demo import photographs
from pipelines.recalibrate import LEAST, Audit, audited, platt, recalibrate


def made(count: int, *, slope: float, shift: float, seed: int = 0) -> Audit:
    """Answers of which the log-odds are really `slope` × logit + `shift`, drawn with unequal probabilities."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, count)
    truth = rng.random(count) < 1 / (1 + np.exp(-(slope * logits + shift)))
    weight = rng.choice([0.5, 1.0, 2.0], count)
    return Audit(logits=logits, truth=truth, weight=weight / weight.mean(), lost=0)


def test_it_is_the_minimum_of_the_weighted_log_loss_and_the_pull() -> None:
    audit = made(80, slope=0.6, shift=-1.0)

    def loss(at: np.ndarray) -> float:
        signed = np.where(audit.truth, 1, -1) * (at[0] * audit.logits + at[1])
        return float((audit.weight * np.logaddexp(0, -signed)).sum() + 4.0 * ((at[0] - 1) ** 2 + at[1] ** 2))

    np.testing.assert_allclose(platt(audit), minimize(loss, np.array([1.0, 0.0]), tol=1e-10).x, atol=1e-4)


def test_many_answers_show_the_true_slope_and_shift() -> None:
    slope, shift = platt(made(20_000, slope=0.5, shift=1.5))
    assert slope == pytest.approx(0.5, abs=0.03)
    assert shift == pytest.approx(1.5, abs=0.06)


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
    pairs = [PairEvidence(distance=d, hash_bits=b) for d, b in ((0.2, 20), (0.5, 90), (0.02, 4))]
    before, after = (Scorer(table).score(pairs) for table in (old.calibration, moved))
    logit = np.log(before / (1 - before))
    np.testing.assert_allclose(np.log(after / (1 - after)), told["slope"] * logit + told["shift"], rtol=1e-4)


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
    )
    assert found.lost == 1
    assert found.truth.tolist() == [True, False]
    assert found.logits[0] > 2 > -2 > found.logits[1]
    np.testing.assert_allclose(found.weight, [1.6, 0.4])
    assert found.figures()["roc_auc"] == 1.0
