"""`python -m pipelines`: lazy commands, and a search on a private Ray from the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ndd.find import FindRequest, block_size, chunk_size
from ndd.find import find as search
from ndd.local import LocalRunner
from pipelines.cli import COMMANDS, main
from tests.samples import small_album, small_model


def test_help_needs_no_engine_and_lists_every_command() -> None:
    script = (
        "import sys\nfrom pipelines.cli import main\n"
        "for argv in (['--help'], ['find', '--help']):\n"
        "    try: main(argv)\n"
        "    except SystemExit: pass\n"
        "print(sorted({'torch', 'ray', 'mlflow', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]"
    for command in COMMANDS:
        assert f"\n    {command}" in done.stdout


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    assert f"python -m pipelines {command}" in capsys.readouterr().out


def test_an_unknown_command_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["no-such-command"])
    assert stopped.value.code == 2
    assert "no-such-command" in capsys.readouterr().err


_WAITING = """
import argparse, signal, sys, threading, time
import pipelines.demo
from pipelines.cli import main
from pipelines.session import ray_session

def run(arguments: argparse.Namespace) -> int:
    import ray
    with ray_session(workers=1):
        task = ray.remote(lambda: time.sleep(60)).remote()
        threading.Timer(1.0, signal.raise_signal, [signal.SIGTERM]).start()
        {wait}
    return 0

pipelines.demo.run = run
sys.exit(main(["demo"]))
"""


@pytest.mark.parametrize("wait", ["ray.get(task)", "ray.wait([task])"])
def test_a_stop_while_ray_waits_is_a_stop(wait: str) -> None:
    """Ray's core turns the exception of our handler into SystemExit(1)."""
    code = _WAITING.format(wait=wait)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (143, "", "stopped; run again to go on\n")


@pytest.mark.parametrize(
    ("items", "workers"), [(1, 2), (8, 2), (100, 2), (100, 3), (255, 2), (256, 2), (5000, 4), (10**6, 7)]
)
def test_blocks_are_many_enough_and_small_enough(items: int, workers: int) -> None:
    block = block_size(items)
    assert block <= 256
    assert -(-items // block) >= min(8, items)
    # What all workers hold at once is at most a block, give or take what does not divide.
    assert workers * (chunk_size(block, workers) - 1) < block


def test_a_search_from_the_command_line_says_what_ndd_find_says(tmp_path: Path) -> None:
    album, model = small_album(tmp_path / "album"), small_model(tmp_path / "model")
    arguments = [str(album), "--model", str(model), "--workers", "2", "--json"]
    command = [sys.executable, "-m", "pipelines", "find", *arguments, "--out", str(tmp_path / "ray")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert (done.returncode, done.stderr) == (0, "")
    run = json.loads(done.stdout)
    search(FindRequest(paths=[album], out=tmp_path / "local", model=model), LocalRunner(workers=1))
    for name in ("pairs", "groups", "failures"):
        assert (tmp_path / "ray" / f"{name}.parquet").read_bytes() == (
            tmp_path / "local" / f"{name}.parquet"
        ).read_bytes()
    assert run["engine"] == "ray"
    assert run["blocks"]["embed"] >= 8
    assert len(run["workers"]["embed"]) == 2
    assert sum(run["workers"]["embed"].values()) == run["images"]
    assert run["memory"]["growth_mib"] < 64, "the process that leads holds counts, not rows"
