"""Which challenger a retraining puts forward: the trained network, or the champion's with a score that people's word made."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ndd.data.manifest import ManifestRow
from ndd.model.directory import CALIBRATION, describe
from ndd.types import Decision, Draw, Verdict, image_id
from ndd.verify.score import DEFAULT_CALIBRATION, VERIFIED_FEATURES
from pipelines.refine import restore
from pipelines.retrain_judge import MODEL, SCORE, Judged, _without_gain, judge
from pipelines.score_fit import Taught, refit
from tests.samples import small_model

NOT = {"promoted": False, "reasons": ["crop: it is worse"], "figures": {}}
YES = {"promoted": True, "reasons": [], "figures": {}}


@pytest.fixture
def attempt(tmp_path: Path) -> Path:
    """One whose training is over; the verdicts are there already, so that no gate is asked."""
    small_model(tmp_path / "champion")
    small_model(tmp_path / "run" / "model", seed=1)
    return tmp_path


def judged(attempt: Path, pictures: Path, *, audits: int = 0, labels: int = 0, **verdicts: dict[str, Any]) -> Judged:
    for name, verdict in verdicts.items():
        (attempt / {"trained": "verdict.json", "moved": "score-verdict.json"}[name]).write_text(json.dumps(verdict))
    rows = [
        ManifestRow(id=image_id(p.read_bytes()), uri=str(p), path=p.name, size=1, width=1, height=1, format="PNG")
        for p in sorted(pictures.glob("*.*"))
        if p.name not in ("cut.jpg", "blank.png")
    ]
    said = list(answers(rows))
    assert len(said) >= max(audits, labels)
    # Nothing that the album taught: these reviewers use the words the other way round.
    other = {Verdict.DUPLICATE: Verdict.DISTINCT, Verdict.DISTINCT: Verdict.DUPLICATE}
    taught = [replace(d, verdict=other[d.verdict], draw=Draw.UNCERTAIN, p_draw=1.0) for d in said[:labels]]
    return judge(attempt, attempt / "champion", rows, taught, said[:audits], albums=[], sure=0.8)


def answers(rows: list[ManifestRow]) -> Iterator[Decision]:
    """Every pair, duplicates first: pictures of one photograph share the beginning of their names."""

    def same(two: tuple[ManifestRow, ManifestRow]) -> bool:
        return two[0].path[:3] == two[1].path[:3]

    for a, b in sorted(combinations(rows, 2), key=lambda two: not same(two)):
        left, right = sorted((a.id, b.id))
        yield Decision(
            left_id=left,
            right_id=right,
            verdict=Verdict.DUPLICATE if same((a, b)) else Verdict.DISTINCT,
            relation=None,
            reviewer="ann",
            time=datetime.now(UTC),
            embedding_digest="e",
            scorer_digest="s",
            draw=Draw.AUDIT,
            p_draw=0.5,
        )


def test_a_better_network_is_put_forward(attempt: Path, pictures: Path) -> None:
    found = judged(attempt, pictures, audits=40, trained=YES)
    assert (found.challenger, found.verdict, found.refused) == (MODEL, YES, ())
    assert not (attempt / SCORE).exists()
    trained = describe(attempt / "run" / "model")
    assert describe(attempt / MODEL).embedding_digest == trained.embedding_digest


def test_where_the_network_is_refused_the_score_may_be_moved_alone(attempt: Path, pictures: Path) -> None:
    found = judged(attempt, pictures, audits=40, trained=NOT, moved=YES)
    assert (found.challenger, found.verdict, found.refused) == (SCORE, YES, ("crop: it is worse",))
    now, before = describe(attempt / SCORE), describe(attempt / "champion")
    assert now.embedding_digest == before.embedding_digest
    assert now.scorer_digest != before.scorer_digest
    assert found.audits["challenger"]["moved"] is True
    # Interrupted, it goes on with what it finds.
    assert judged(attempt, pictures, audits=40, trained=NOT, moved=YES) == found


def test_a_moved_score_that_is_refused_too_changes_nothing(attempt: Path, pictures: Path) -> None:
    found = judged(attempt, pictures, audits=40, trained=NOT, moved=NOT)
    assert (found.challenger, found.verdict, found.refused) == (MODEL, NOT, ())


def test_few_audits_move_no_score(attempt: Path, pictures: Path) -> None:
    found = judged(attempt, pictures, audits=20, trained=NOT)
    assert (found.challenger, found.audits["challenger"]["moved"]) == (MODEL, False)
    assert not (attempt / "score-verdict.json").exists()


def test_labels_alone_make_a_new_score(attempt: Path, pictures: Path) -> None:
    random = np.random.default_rng(0)
    truth = random.random(300) < 0.5
    values = random.random((300, len(VERIFIED_FEATURES)))
    values[:, VERIFIED_FEATURES.index("hash")] = np.clip(random.normal(0.3 + 0.2 * truth, 0.15), 0, 1)
    taught = Taught(values=values, truth=truth)
    taught.save(attempt / "champion")
    nothing = np.zeros(0)
    alone = refit(taught, values[:0], truth[:0], nothing)
    table = {**DEFAULT_CALIBRATION, **alone, "source": "fitted"}
    (attempt / "champion" / CALIBRATION).write_text(json.dumps(table))
    found = judged(attempt, pictures, labels=60, trained=NOT, moved=YES)
    assert (found.challenger, found.labels["refined"], found.audits["challenger"]["moved"]) == (SCORE, True, False)
    assert found.labels["log_loss"]["after"] < found.labels["log_loss"]["before"]
    now = describe(attempt / SCORE)
    assert now.calibration is not None and now.calibration["source"] == "fitted, then refined by labels"
    assert now.embedding_digest == describe(attempt / "champion").embedding_digest
    # The next retraining starts from what the album alone taught.
    restore(attempt / SCORE)
    assert describe(attempt / SCORE).calibration == table


@pytest.mark.parametrize(
    ("average_precision", "recall", "gained"),
    [(0.01, 0.0, True), (-0.001, 0.002, True), (-0.0001, 0.0, True), (0.0, -0.001, False)],
)
def test_a_network_that_is_better_nowhere_is_no_challenger(
    average_precision: float, recall: float, gained: bool
) -> None:
    figures = {
        name: {"all families": {"difference": value}}
        for name, value in (("map", average_precision), ("recall", recall))
    }
    assert (list(_without_gain(figures)) == []) is gained
