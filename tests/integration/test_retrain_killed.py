"""A retraining killed outright after every step: the next call goes on, and what comes of it is one retraining."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ndd.model.directory import describe
from ndd.types import Draw
from pipelines.album import Album
from tests.integration.test_retrain import QUICK, album, decide  # noqa: F401  # a fixture

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

STEPS = (
    "retrain/attempt/decisions.csv",
    "retrain/attempt/attempt.json",
    "retrain/attempt/album/groups.csv",
    "retrain/attempt/run/state.pt",
    "retrain/attempt/run/model/config.json",
    "retrain/attempt/model/calibration.json",
    "retrain/attempt/audits.json",
    "retrain/attempt/gate",
    "retrain/attempt/verdict.json",
    "champion",
    "retrain/attempt/promoted.json",
    "retrain/attempt/report.json",
    "retrain/last.json",
)
"""What appears below the home as a retraining goes on, in this order."""


def start(home: Path, album: Album, out: int = subprocess.DEVNULL) -> subprocess.Popen[str]:  # noqa: F811
    # No loss can be sure, so whatever gains anything is promoted.
    command = [
        sys.executable,
        "-m",
        "pipelines",
        "retrain",
        "--data",
        str(album.root / "images"),
        *QUICK,
        "--sure",
        "1",
    ]
    return subprocess.Popen(
        command,
        env={**os.environ, "NDD_HOME": str(home)},
        stdout=out,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,  # so that the training dies with it, as it does when a machine does
    )


def finished(home: Path, album: Album) -> str:  # noqa: F811
    """What a retraining says that nobody kills."""
    job = start(home, album, subprocess.PIPE)
    said, _ = job.communicate(timeout=900)
    assert job.returncode == 0
    return said


def killed_when_there(step: Path, job: subprocess.Popen[str]) -> bool:
    """Was it killed as soon as `step` was there? False if it came to its end before."""
    while not os.path.lexists(step):
        if job.poll() is not None:
            return False
        time.sleep(0.002)
    if job.poll() is not None:
        return False
    os.killpg(job.pid, signal.SIGKILL)
    job.wait(timeout=60)
    return True


def test_killed_after_every_step_it_is_one_retraining(album: Album, tmp_path: Path) -> None:  # noqa: F811
    decide(tmp_path, album, draw=Draw.UNCERTAIN)
    for skip in (12, 24):
        decide(tmp_path, album, draw=Draw.AUDIT, skip=skip)
    seen = [step for step in STEPS if killed_when_there(tmp_path / step, start(tmp_path, album))]
    # The last two come in the last moments of a retraining, which may be over before it is killed.
    assert set(STEPS) - set(seen) <= set(STEPS[-2:])
    finished(tmp_path, album)
    last = json.loads((tmp_path / "retrain" / "last.json").read_text(encoding="utf-8"))
    assert len(last["decisions"]) == len(set(last["decisions"])) == 20
    assert last["promoted"] is True
    kept = tmp_path / "retrain" / "0001"
    assert sorted(place.name for place in (tmp_path / "retrain").glob("*[0-9t]") if place.is_dir()) == ["0001"]
    # Published once, and what was published is what was judged.
    (published,) = json.loads((tmp_path / "champions" / "history.json").read_text(encoding="utf-8"))
    assert published["version"] == last["version"]
    assert describe(tmp_path / "champion").scorer_digest == describe(kept / last["challenger"]).scorer_digest
    assert finished(tmp_path, album) == "0 new decisions since the last retraining, 20 are wanted; the champion stays\n"
