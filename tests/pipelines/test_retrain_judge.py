"""Which challenger a retraining puts forward: the trained network, or the champion's with its score moved by audits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from ndd.data.manifest import ManifestRow
from ndd.model.directory import describe
from ndd.types import Decision, Draw, Verdict, image_id
from pipelines.retrain_judge import MODEL, SCORE, Judged, judge
from tests.samples import small_model

NOT = {"promoted": False, "reasons": ["crop: it is worse"], "figures": {}}
YES = {"promoted": True, "reasons": [], "figures": {}}


@pytest.fixture
def attempt(tmp_path: Path) -> Path:
    """One whose training is over; the verdicts are there already, so that no gate is asked."""
    small_model(tmp_path / "champion")
    small_model(tmp_path / "run" / "model", seed=1)
    return tmp_path


def judged(attempt: Path, pictures: Path, *, audits: int, **verdicts: dict[str, Any]) -> Judged:
    for name, verdict in verdicts.items():
        (attempt / {"trained": "verdict.json", "moved": "score-verdict.json"}[name]).write_text(json.dumps(verdict))
    rows = [
        ManifestRow(id=image_id(p.read_bytes()), uri=str(p), path=p.name, size=1, width=1, height=1, format="PNG")
        for p in sorted(pictures.glob("*.*"))
        if p.name not in ("cut.jpg", "blank.png")
    ]
    said = list(answers(rows))
    assert len(said) >= audits
    return judge(attempt, attempt / "champion", rows, said[:audits], albums=[], sure=0.8)


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
    assert not (attempt / SCORE).exists()
