"""Figures of the review, against figures worked out by hand."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from feedback.desk import Desk
from feedback.status import pairs_per_hour, precision, status, to_html, to_json, to_text, wilson
from ndd.home import home
from ndd.types import Draw, Verdict
from pipelines.retrain_report import gain
from tests.ndd.data.builders import EPOCH, decision, queued


def test_an_empty_home_has_a_status() -> None:
    found = status(Desk())
    assert (found.waiting, found.precision, found.agreement, found.pairs_per_hour) == (0, None, None, None)
    assert "not known yet" in to_text(found)
    assert not home().root.exists()  # looking creates nothing


def test_pace_leaves_pauses_out() -> None:
    times = [0, 30, 60, 4000, 4030]  # three gaps of half a minute, and one of more than an hour
    assert pairs_per_hour([decision(f"a{at}", at=at) for at in times]) == pytest.approx(120)
    assert pairs_per_hour([decision()]) is None


def test_precision_weighs_audit_draws_by_their_probability() -> None:
    # Two strata of accepted pairs: of 10 sure ones two are drawn (both right), of 4 doubtful ones two (one right).
    drawn = [("a", 0.2, Verdict.DUPLICATE), ("b", 0.2, Verdict.DUPLICATE), ("c", 0.5, Verdict.DUPLICATE)]
    drawn += [("d", 0.5, Verdict.DISTINCT), ("e", 0.5, Verdict.UNSURE)]
    said = [decision(name, "z", verdict, draw=Draw.AUDIT, p_draw=p) for name, p, verdict in drawn]
    asked = [queued(name, "z", draw=Draw.AUDIT, p_draw=p, evidence={"duplicate": True}) for name, p, _ in drawn]
    # Neither a pair that was not accepted, nor one that was chosen for being uncertain, says anything about precision.
    said += [
        decision("f", "z", Verdict.DISTINCT, draw=Draw.AUDIT),
        decision("g", "z", Verdict.DISTINCT, draw=Draw.UNCERTAIN),
    ]
    asked += [queued("f", "z", evidence={"duplicate": False}), queued("g", "z", evidence={"duplicate": True})]
    found = precision({d.pair_id: d for d in said}, {q.pair_id: q for q in asked})
    assert found is not None
    assert found.estimate == pytest.approx((5 + 5 + 2) / (5 + 5 + 2 + 2))
    assert (found.draws, found.unsure) == (4, 1)
    assert found.low < found.estimate < found.high


def test_precision_is_that_of_the_newest_model_asked_about() -> None:
    verdicts = {"a": Verdict.DISTINCT, "b": Verdict.DUPLICATE}
    said = [decision(name, "z", verdict, draw=Draw.AUDIT) for name, verdict in verdicts.items()]
    asked = [
        queued(
            name,
            "z",
            draw=Draw.AUDIT,
            evidence={"duplicate": True},
            scorer_digest=digest * 64,
            enqueued=EPOCH + timedelta(days=day),
        )
        for name, digest, day in (("a", "1", 0), ("b", "2", 1))
    ]
    found = precision({d.pair_id: d for d in said}, {q.pair_id: q for q in asked})
    assert found is not None
    assert (found.draws, found.estimate) == (1, 1.0)


def test_the_interval_covers_what_it_promises() -> None:
    random = np.random.default_rng(0)
    for share, draws in ((0.95, 60), (0.7, 25)):
        seen = random.binomial(draws, share, size=3000) / draws
        covered = [low <= share <= high for low, high in (wilson(float(s), draws) for s in seen)]
        assert 0.92 < np.mean(covered) < 0.995
    assert wilson(1.0, 10)[1] == pytest.approx(1.0)


def test_what_a_retraining_gained_is_told_as_its_report_has_it() -> None:
    place = home() / "retrain" / "last.json"
    place.parent.mkdir(parents=True)
    whole = {"difference": 0.01234, "low": -0.002, "high": 0.03, "champion": 0.9, "challenger": 0.912, "copies": 80}
    told = gain(
        {"champion": {"pairs": 40, "roc_auc": 0.91}, "challenger": {"pairs": 40, "roc_auc": 0.93}},
        {"refined": True, "pairs": 60, "log_loss": {"before": 0.5, "after": 0.25}},
        {"map": {"all families": whole}},
    )
    place.write_text(json.dumps({"time": "2026-01-01", "promoted": True, "gain": told}))
    text = to_text(status(Desk()))
    for part in (
        "average precision +0.012 (-0.002 to +0.030, 95 %)",
        "log loss on 60 labels held out of the refit 0.500 → 0.250",
        "ROC-AUC on 40 audited pairs +0.020",
    ):
        assert part in text


def test_the_last_retraining_is_told(tmp_path: Path) -> None:
    place = home() / "retrain" / "last.json"
    place.parent.mkdir(parents=True)
    place.write_text(json.dumps({"time": "2026-01-01", "promoted": True, "gain": {"f1": 0.01}}))
    found = status(Desk())
    assert "promoted" in to_text(found)
    assert json.loads(to_json(found))["last_retraining"]["gain"] == {"f1": 0.01}
    place.write_text("{")
    assert status(Desk()).last_retraining is None
    place.write_text(json.dumps({"time": "<b>now</b>"}))
    to_html(status(Desk()), tmp_path / "status.html")
    page = (tmp_path / "status.html").read_text()
    assert "&lt;b&gt;now" in page and "<b>now" not in page
