"""The retraining as cron runs it: without an environment, twice at once, and when there is nothing to learn."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest

from ndd.data.decisions import DecisionStore
from ndd.model.directory import describe, shipped
from ndd.types import Decision, Draw, Verdict, image_id
from pipelines.album import Album, build_album
from pipelines.demo import photographs
from pipelines.loop import tiles

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

QUICK = ["--engine", "local", "--set", "epochs=1", "--set", "examples=32", "--photos", "20", "--least", "20"]


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Album:
    photos = tiles(photographs())
    place = tmp_path_factory.mktemp("library") / "album"
    return build_album(photos[:40], place, copies=1, seed=0, singles=photos[40:])


def start(home: Path, album: Album, *more: str) -> subprocess.Popen[str]:
    """`env -i NDD_HOME=… python -m pipelines retrain …`"""
    command = [sys.executable, "-m", "pipelines", "retrain", "--data", str(album.root / "images"), *QUICK, *more]
    return subprocess.Popen(
        command, env={"NDD_HOME": str(home)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def ended(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=1200)
    assert process.returncode == 0, err
    return out


def decide(home: Path, album: Album, *, draw: Draw, skip: int = 0) -> None:
    """Ten pairs of a photograph and its copy, and ten of different photographs."""
    groups = list(album.groups().values())[skip : skip + 11]
    pairs = [(g[0], g[1], Verdict.DUPLICATE) for g in groups[:10]]
    pairs += [(a[0], b[0], Verdict.DISTINCT) for a, b in pairwise(groups)]
    said = []
    for left, right, verdict in pairs:
        ids = sorted(image_id((album.root / name).read_bytes()) for name in (left, right))
        said.append(
            Decision(
                left_id=ids[0],
                right_id=ids[1],
                verdict=verdict,
                relation=None,
                reviewer="ann",
                time=datetime.now(UTC),
                embedding_digest="e",
                scorer_digest="s",
                draw=draw,
                p_draw=0.5 if draw is Draw.AUDIT else 1.0,
            )
        )
    DecisionStore(home / "decisions").extend(said)


def test_nothing_to_learn_is_said_and_no_error(album: Album, tmp_path: Path) -> None:
    assert ended(start(tmp_path, album)) == (
        "0 new decisions since the last retraining, 20 are wanted; the champion stays\n"
    )
    assert not (tmp_path / "champion").exists()


def test_two_at_once_and_then_nothing_new(album: Album, tmp_path: Path) -> None:
    decide(tmp_path, album, draw=Draw.UNCERTAIN)
    decide(tmp_path, album, draw=Draw.AUDIT, skip=20)
    told = [ended(process) for process in [start(tmp_path, album), start(tmp_path, album)]]
    waiting = [text for text in told if "another retraining is at work" in text]
    (worked,) = [text for text in told if text not in waiting]
    assert len(waiting) == 1
    assert "learnt from 10 duplicates and 10 distinct pairs, 20 of them new" in worked

    last = json.loads((tmp_path / "retrain" / "last.json").read_text(encoding="utf-8"))
    assert last["audits"]["challenger"]["pairs"] == 20
    report = Path(last["report"])
    assert report.parent == tmp_path / "retrain" / "0001"
    assert "## Groups of the library" in report.read_text(encoding="utf-8")
    if last["promoted"]:
        now = describe(tmp_path / "champion").embedding_digest
        assert now == describe(report.parent / "model").embedding_digest != describe(shipped()).embedding_digest
    else:
        assert last["reasons"]
        assert not (tmp_path / "champion").exists()

    assert "0 new decisions" in ended(start(tmp_path, album))
