"""Thresholds from audits: by hand, and what the confidence is worth on simulated audits."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from ndd.candidates import read_candidates
from ndd.cli import main
from ndd.config import FindConfig
from ndd.data.decisions import DecisionStore
from ndd.errors import SchemaError
from ndd.find import FindRequest, find
from ndd.local import LocalRunner
from ndd.threshold import AuditLabel, choose, precision_at, sample_needed
from ndd.threshold_cli import of_run, of_table
from ndd.types import Decision, Draw, Verdict
from tests.samples import small_album, small_model


def label(score: float, duplicate: bool, p_draw: float = 1.0) -> AuditLabel:
    return AuditLabel(score=score, duplicate=duplicate, p_draw=p_draw)


def test_weights_by_hand() -> None:
    """Two of three answers are right, but the wrong one stands for nine pairs: 2 / (2 + 9)."""
    labels = [label(0.9, True), label(0.8, True), label(0.8, False, 1 / 9), label(0.1, False)]
    interval, effective = precision_at(labels, 0.5, confidence=0.95)
    assert interval.value == pytest.approx(2 / 11)
    assert effective <= 11**2 / (1 + 1 + 81) + 1e-9
    assert interval.low < 0.02
    assert interval.high > 0.9


def test_a_sample_without_an_error() -> None:
    """All of n right: the lower limit is tail^(1/n) (the rule behind the "rule of three")."""
    interval, effective = precision_at([label(0.99, True)] * 100, 0.5, confidence=0.95)
    assert effective == pytest.approx(100)
    assert interval.low == pytest.approx(0.025 ** (1 / 100))
    assert sample_needed(1.0, 0.99, confidence=0.9) == int(np.ceil(np.log(0.05) / np.log(0.99)))
    assert sample_needed(0.99, 0.99, confidence=0.9) is None


def test_the_lowest_threshold_that_is_proved() -> None:
    labels = [label(0.95, True)] * 600 + [label(0.8, True)] * 600 + [label(0.6, False)] * 30
    choice = choose(labels, precision=0.99, old=0.9)
    assert (choice.threshold, choice.changed, choice.reached, choice.missing) == (0.7, True, True, 0)
    assert choice.labels == 1200
    assert choice.precision.low >= 0.99


def test_without_proof_the_old_one_stays_and_the_gap_is_named() -> None:
    few = [label(0.95, True)] * 50
    choice = choose(few, precision=0.99, old=0.83)
    assert (choice.threshold, choice.changed, choice.reached) == (0.83, False, False)
    assert choice.missing is not None
    assert choose(few + [label(0.95, True)] * choice.missing, precision=0.99, old=0.83).reached
    assert not choose(few + [label(0.95, True)] * (choice.missing - 1), precision=0.99, old=0.83).reached


def test_more_answers_are_not_promised_where_they_would_not_help() -> None:
    labels = [label(0.99, at % 2 == 0) for at in range(400)]
    assert choose(labels, precision=0.9, old=0.5).missing is None


@pytest.mark.parametrize("errors_at", ["low scores", "anywhere"])
@pytest.mark.parametrize("sizes", [(40, 40, 40, 40), (5, 20, 60, 100)])
def test_the_interval_covers_the_truth_as_often_as_it_says(errors_at: str, sizes: tuple[int, ...]) -> None:
    """Stratified audits of a known population, drawn again and again: pairs of each quarter of the scores with a probability
    of their own. 90 % intervals have to hold the true precision in 90 % of the audits."""
    rng = np.random.default_rng(5)
    scores = rng.beta(6, 1, 20_000)
    wrong = 0.5 * (1 - scores) if errors_at == "low scores" else 0.03
    truth = rng.random(20_000) >= wrong
    stratum = np.digitize(scores, (0.7, 0.85, 0.95))
    chance = np.array([size / (stratum == at).sum() for at, size in enumerate(sizes)])[stratum]
    for threshold in (0.5, 0.8):
        held = 0
        for _ in range(200):
            drawn = rng.random(20_000) < chance
            columns = zip(scores[drawn], truth[drawn], chance[drawn], strict=True)
            interval, _ = precision_at(
                [label(float(s), bool(y), float(p)) for s, y, p in columns], threshold, confidence=0.9
            )
            held += interval.low <= truth[scores >= threshold].mean() <= interval.high
        assert held / 200 >= 0.9 - 3 * np.sqrt(0.9 * 0.1 / 200)


def test_a_claimed_precision_is_seldom_wrong() -> None:
    """Where no threshold reaches the target, the procedure may claim one in at most 5 % of the audits."""
    rng = np.random.default_rng(7)
    claimed = 0
    for _ in range(100):
        scores = rng.uniform(0.4, 1.0, 800)
        labels = [label(float(s), bool(y)) for s, y in zip(scores, rng.random(800) < 0.94, strict=True)]
        claimed += choose(labels, precision=0.95, old=0.8).reached
    assert claimed <= 100 * 0.05


def table(path: Path, rows: list[str], header: str = "score,verdict,draw,p_draw") -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = ["0.95,duplicate,audit,0.5"] * 700 + ["0.6,distinct,audit,1"] * 9 + ["0.9,distinct,uncertain,1"] * 50
    path = table(tmp_path / "labels.csv", rows)
    assert main(["threshold", str(path), "--precision", "0.99", "--old", "0.8", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["threshold"], said["reached"], said["audited"]) == (0.7, True, 709)
    assert said["left_out"] == {"not drawn for an audit": 50}
    assert main(["threshold", str(path), "--precision", "0.999"]) == 0
    out = capsys.readouterr().out
    assert "the old threshold 0.5 is kept" in out
    assert "more answers of an audit are missing" in out


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("1.5,duplicate,audit,1", "line 2.*score"),
        (",duplicate,audit,1", "line 2.*score"),
        ("0.5,duplicate,audit,0", "line 2.*inclusion"),
        ("0.5,maybe,audit,1", "line 2.*verdict 'maybe'"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: str, said: str) -> None:
    with pytest.raises(SchemaError, match=said):
        list(of_table(table(tmp_path / "labels.csv", [row]), Counter()))


def test_no_answer_that_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = table(tmp_path / "labels.csv", ["0.5,distinct,manual,1"])
    assert main(["threshold", str(path)]) == 1
    assert "1 not drawn for an audit" in capsys.readouterr().err
    assert main(["threshold", str(table(path, [], header="a,b"))]) == 1
    assert "no column 'score'" in capsys.readouterr().err


def test_answers_to_the_pairs_of_a_search(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Decisions as the store exports them, with the scores of a real search; what was drawn otherwise does not count."""
    folder = tmp_path / "album"
    small_album(folder)
    config = FindConfig(floor=0.0)
    find(
        FindRequest(paths=[folder], out=tmp_path / "out", config=config, model=small_model(tmp_path / "m")),
        LocalRunner(),
    )
    known = read_candidates(tmp_path / "out")
    store = DecisionStore(tmp_path / "decisions")
    for at, row in enumerate(known.rows):
        left, right = sorted(
            known.candidates.pictures[end[at]] for end in (known.candidates.left, known.candidates.right)
        )
        store.append(
            Decision(
                left_id=left,
                right_id=right,
                verdict=Verdict.DUPLICATE if row.score >= 0.5 else Verdict.DISTINCT,
                relation=None,
                reviewer="me",
                time=datetime(2026, 11, 22, tzinfo=UTC),
                embedding_digest="0" * 64 if at == 0 else known.embedding_digest,
                scorer_digest=known.scorer_digest,
                draw=Draw.MANUAL if at == 1 else Draw.AUDIT,
                p_draw=0.5,
            )
        )
    store.export(tmp_path / "answers.csv")
    left_out: Counter[str] = Counter()
    labels, threshold = of_run(tmp_path / "answers.csv", tmp_path / "out", left_out)
    assert left_out == {"drawn with another model": 1, "not drawn for an audit": 1}
    assert sorted(label.score for label in labels) == sorted(row.score for row in known.rows[2:])
    assert {label.p_draw for label in labels} == {0.5}
    assert main(["threshold", str(tmp_path / "answers.csv"), "--run", str(tmp_path / "out"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["threshold"] == pytest.approx(threshold), "so few answers prove nothing: the run's threshold stays"
    assert not said["reached"]
