"""A search on Ray that is told to stop in the middle: nothing stays behind, and the next run goes on."""

from __future__ import annotations

import json
import os
import random
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest

from ndd.config import FindConfig
from ndd.find import FindRequest, block_size, find
from ndd.local import LocalRunner
from tests.samples import photographs, small_album

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

MARK = "NDD_TEST_MARK"


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """115 pictures: the small album, and cuttings that resemble one another."""
    folder = small_album(tmp_path_factory.mktemp("albums") / "album")
    for name, pixels in photographs().items():
        for number in range(24):
            top, left = 3 * (number // 6), 12 * (number % 6)
            cutting = np.ascontiguousarray(pixels[top : top + 90, left : left + 120, ::-1])
            cv2.imwrite(str(folder / f"{name}-{number:02}.jpg"), cutting)
    return folder


@pytest.fixture(scope="module")
def expected(album: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("expected") / "out"
    find(FindRequest(paths=[album], out=out, model=model, config=FindConfig(neighbours=3)), LocalRunner())
    return out


class Search:
    """`python -m pipelines find` in a process of its own whose descendants can be told from all others."""

    def __init__(self, album: Path, out: Path, model: Path) -> None:
        self.out, self.mark = out, secrets.token_hex(8)
        command = [sys.executable, "-m", "pipelines", "find", str(album), "--out", str(out), "--model", str(model)]
        self.process = subprocess.Popen(
            [*command, "--workers", "2", "--neighbours", "3", "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, MARK: self.mark},
        )

    def embedded(self) -> int:
        """Pictures whose vectors are on disk."""
        chunks = (self.out / ".ndd").glob("embed-*/[0-9a-f]*.parquet")
        return sum(pq.read_metadata(chunk).num_rows for chunk in chunks)

    def verified(self) -> int:
        return len(list((self.out / ".ndd").glob("verify-*/[0-9a-f]*.parquet")))

    def stop_when(self, reached: Callable[[], bool]) -> tuple[int, str, str]:
        while not reached():
            assert self.process.poll() is None, self.process.communicate()[1]
            time.sleep(0.01)
        self.process.send_signal(signal.SIGTERM)
        printed, said = self.process.communicate(timeout=300)
        return self.process.returncode, printed, said

    def survivors(self) -> list[str]:
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(f"{process.pid} {process.name()}")
            except psutil.Error:
                continue
        return found


def assert_gone(search: Search) -> None:
    until = time.monotonic() + 30
    while search.survivors() and time.monotonic() < until:
        time.sleep(0.2)
    assert search.survivors() == []


@pytest.mark.parametrize("point", ["embedding", "later in embedding", "verifying"])
def test_stopped_and_run_again(album: Path, model: Path, expected: Path, tmp_path: Path, point: str) -> None:
    out, count = tmp_path / "out", sum(1 for file in album.rglob("*") if file.is_file())
    first = Search(album, out, model)
    wanted = {"embedding": 1, "later in embedding": random.Random(0).randrange(30, 90)}.get(point)
    code, printed, said = first.stop_when(
        (lambda: first.embedded() >= wanted) if wanted else (lambda: first.verified() >= 1)
    )
    assert (code, printed, said) == (143, "", "stopped; run again to go on\n")
    assert_gone(first)
    done = first.embedded()
    second = Search(album, out, model)
    printed, said = second.process.communicate(timeout=600)
    assert (second.process.returncode, said) == (0, "")
    run = json.loads(printed)
    assert run["reused"] == done
    assert run["embedded"] == run["readable"] - done
    assert done >= (wanted or run["readable"])
    # Each worker holds one unfinished chunk at most, so what was begun in vain is at most a block.
    sizes = [pq.read_metadata(chunk).num_rows for chunk in (out / ".ndd").glob("embed-*/*.parquet")]
    assert 2 * (max(sizes) - 1) < block_size(count)
    for name in ("pairs", "groups", "failures"):
        assert (out / f"{name}.parquet").read_bytes() == (expected / f"{name}.parquet").read_bytes()
    assert_gone(second)


def test_stopped_while_ray_is_starting(album: Path, model: Path, tmp_path: Path) -> None:
    """Ray has a handler of its own for a moment."""
    search = Search(album, tmp_path / "out", model)
    delay = random.Random(1).uniform(0.0, 3.0)
    code, printed, said = search.stop_when(lambda: len(search.survivors()) > 1 and time.sleep(delay) is None)
    assert (code, printed, said) == (143, "", "stopped; run again to go on\n")
    assert_gone(search)
