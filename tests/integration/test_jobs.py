"""`ray job submit` against a head of one's own, as `make cluster` starts it: logs, status, stop."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import urllib.error
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import psutil
import pytest
from PIL import Image

from ndd.tables import read_groups, read_pairs
from tests.integration.head import ROOT, Head, marked_processes, start_head

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with start_head() as running:
        yield running


def test_every_port_of_the_head_is_on_loopback(head: Head) -> None:
    sockets = [s for process in head.processes() for s in process.net_connections("inet")]
    listening = {s.laddr.ip for s in sockets if s.status == psutil.CONN_LISTEN}
    assert listening, "the head listens nowhere"
    assert all(ip_address(ip.removeprefix("::ffff:")).is_loopback for ip in listening), listening


@pytest.mark.parametrize("token", ["", "0" * 64])
def test_a_request_without_the_token_is_refused(head: Head, token: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        head.get("", token=token)
    refused.value.close()
    assert refused.value.code in (401, 403)
    assert head.get("") == []


def test_a_job_gets_the_code_and_not_the_environment_or_the_history(head: Head) -> None:
    script = "import os; [print('HOLDS', os.path.relpath(f)) for d, _, files in os.walk('.') for f in [d, *files]]"
    printed = head.submit("python", "-c", script, job="listing")
    assert head.status("listing") == "SUCCEEDED", printed
    holds = {line.split(" ", 1)[1] for line in head.logs("listing").splitlines() if line.startswith("HOLDS")}
    assert {"ndd", "pipelines", "pyproject.toml"} <= holds
    assert not {".git", ".venv", "runs/cluster", ".mypy_cache"} & holds


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Two photographs that ship in scikit-learn, and a smaller copy of one."""
    spec = importlib.util.find_spec("sklearn")
    assert spec is not None
    assert spec.origin is not None
    photographs = Path(spec.origin).parent / "datasets" / "images"
    folder = tmp_path / "album"
    folder.mkdir()
    for name in ("china.jpg", "flower.jpg"):
        shutil.copy(photographs / name, folder)
    with Image.open(folder / "china.jpg") as china:
        china.resize((480, 320)).save(folder / "smaller.png")
    return folder


def test_a_submitted_search_finds_what_the_command_line_finds(head: Head, album: Path, tmp_path: Path) -> None:
    printed = head.submit(
        *("python", "-m", "pipelines", "find", str(album), "--out", str(tmp_path / "job"), "--workers", "2"), job="find"
    )
    assert head.status("find") == "SUCCEEDED", printed
    assert str(tmp_path / "job") in head.logs("find")
    here = [sys.executable, "-m", "ndd.cli", "find", str(album), "--out", str(tmp_path / "here")]
    subprocess.run(here, cwd=ROOT, check=True, capture_output=True, timeout=500)
    rows = read_groups(tmp_path / "job" / "groups.parquet")
    assert rows == read_groups(tmp_path / "here" / "groups.parquet")
    assert sorted(row.path for row in rows) == ["china.jpg", "smaller.png"]
    assert read_pairs(tmp_path / "job" / "pairs.parquet") == read_pairs(tmp_path / "here" / "pairs.parquet")


def test_a_failing_job_says_so_and_why(head: Head) -> None:
    printed = head.submit("python", "-m", "pipelines", "no-such-command", job="failing")
    assert head.status("failing") == "FAILED", printed
    assert "no-such-command" in head.logs("failing")
    told = head.ray("job", "status", "failing")
    assert "'failing' failed" in told.stdout + told.stderr
    assert "no-such-command" in head.ray("job", "logs", "failing").stdout


def test_a_head_ends_with_the_process_that_started_it_even_if_that_is_killed(head: Head) -> None:
    """And the other head on this machine lives on."""
    script = """
import time
from tests.integration.head import start_head
with start_head(cpus=2) as head:
    print(head.mark, flush=True)
    time.sleep(600)
"""
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        mark = starter.stdout.readline().strip()
        mine = marked_processes(mark)
        assert len(mine) >= 4
        starter.kill()
    _, alive = psutil.wait_procs(mine, timeout=60)
    assert alive == []
    assert marked_processes(mark) == []
    assert head.get("") is not None
    assert all(process.is_running() for process in head.processes())
