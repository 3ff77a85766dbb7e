"""The retraining as cron runs it: without an environment, twice at once, and when there is nothing to learn."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest

from ndd.data.decisions import DecisionStore
from ndd.model.directory import describe
from ndd.types import Decision, Draw, Verdict, image_id
from pipelines.album import Album, build_album
from pipelines.demo import photographs
from pipelines.loop import tiles

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

ROOT = Path(__file__).resolve().parents[2]
CRON = ROOT / "infra" / "cron" / "ndd-retrain.cron"
QUICK = ["--engine", "local", "--set", "epochs=1", "--set", "examples=32", "--photos", "20", "--least", "20"]


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Album:
    photos = tiles(photographs())
    place = tmp_path_factory.mktemp("library") / "album"
    return build_album(photos[:40], place, copies=1, seed=0, singles=photos[40:])


def start(home: Path, album: Album, *more: str) -> subprocess.Popen[bytes]:
    """The line of infra/cron with the paths of this test and `more` options, as cron runs it: `env -i /bin/sh -c LINE`."""
    (line,) = [text for text in CRON.read_text(encoding="utf-8").splitlines() if text and not text.startswith("#")]
    command = line.split(maxsplit=5)[5]
    for theirs, ours in (
        ("/srv/ndd/.venv/bin/python", sys.executable),
        ("/srv/ndd", str(ROOT)),
        ("/var/lib/ndd", str(home)),
        ("/srv/photos", shlex.join([str(album.root / "images"), *QUICK, *more])),
    ):
        assert theirs in command
        command = command.replace(theirs, ours)
    return subprocess.Popen(["env", "-i", "/bin/sh", "-c", command], stderr=subprocess.STDOUT, stdout=subprocess.PIPE)


def logged(home: Path, *jobs: subprocess.Popen[bytes]) -> str:
    """What the jobs have written to the log since the last call; cron would have nothing to mail."""
    for job in jobs:
        said, _ = job.communicate(timeout=1200)
        assert (job.returncode, said) == (0, b"")
    text = (home / "retrain.log").read_text(encoding="utf-8")
    (home / "retrain.log").unlink()
    return text


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
    assert logged(tmp_path, start(tmp_path, album)) == (
        "0 new decisions since the last retraining, 20 are wanted; the champion stays\n"
    )
    assert not (tmp_path / "champion").exists()


def test_two_at_once_and_then_nothing_new(album: Album, tmp_path: Path) -> None:
    decide(tmp_path, album, draw=Draw.UNCERTAIN)
    decide(tmp_path, album, draw=Draw.AUDIT, skip=20)
    told = logged(tmp_path, start(tmp_path, album), start(tmp_path, album))
    assert told.count("another retraining is at work; this one leaves it to that") == 1
    assert told.count("learnt from 10 duplicates and 10 distinct pairs, 20 of them new") == 1

    last = json.loads((tmp_path / "retrain" / "last.json").read_text(encoding="utf-8"))
    assert last["audits"]["challenger"]["pairs"] == 20
    report = Path(last["report"])
    assert report.parent == tmp_path / "retrain" / "0001"
    assert "## Groups of the library" in report.read_text(encoding="utf-8")
    if last["promoted"]:
        now = describe(tmp_path / "champion").embedding_digest
        assert now == describe(report.parent / last["challenger"]).embedding_digest
    else:
        assert last["reasons"]
        assert not (tmp_path / "champion").exists()

    assert "0 new decisions" in logged(tmp_path, start(tmp_path, album))
