"""Stage keys, and output directories through every way a run can end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import ndd
from ndd.config import FindConfig
from ndd.errors import StaleOutput, StoreError
from ndd.runs import Output, State, open_output, read_run, stage_key

ONE, TWO = "1" * 64, "2" * 64
ROOT = Path(ndd.__file__).parents[1]


def complete(directory: Path, *, key: str = ONE, overwrite: bool = False, pages: int = 2) -> None:
    """A whole run with a table and some pages."""
    with open_output(directory, key=key, overwrite=overwrite) as output:
        output.path("pairs.parquet").write_text(key)
        for i in range(pages):
            output.path(f"report/page-{i}.html").write_text(key)
        output.finish({"images": 3})


def interrupted(directory: Path, *, key: str = ONE) -> None:
    """A run that stopped with one file and one block done."""
    with open_output(directory, key=key) as output:
        output.path("pairs.parquet").write_text("half")
        (output.partial / "block-0").write_text("done")


def visible(directory: Path) -> set[str]:
    names = (p.relative_to(directory).as_posix() for p in directory.rglob("*") if p.is_file())
    return {name for name in names if not name.startswith(".ndd/")}


# --- keys ---------------------------------------------------------------------------------------------------------


def test_a_key_is_the_same_in_another_process_and_for_another_order_of_settings() -> None:
    """Pinned: a change of how keys are made would silently redo, or worse reuse, everybody's outputs."""
    key = stage_key({"b": [1, 2], "a": 0.5}, manifest_digest="m", model_digests={"y": "2", "x": "1"}, code_version="c")
    assert key == stage_key(
        {"a": 0.5, "b": (1, 2)}, manifest_digest="m", model_digests={"x": "1", "y": "2"}, code_version="c"
    )
    canonical = '{"code":"c","config":{"a":0.5,"b":[1,2]},"manifest":"m","models":{"x":"1","y":"2"}}'
    sum_of = subprocess.run(["sha256sum"], input=canonical.encode(), capture_output=True, check=True).stdout
    assert key == sum_of.split()[0].decode()


def test_everything_that_decides_a_result_changes_the_key() -> None:
    base = {"manifest_digest": "m", "code_version": "c"}
    config = FindConfig()
    keys = [
        stage_key(config.to_dict(), model_digests={"embedding": "e"}, **base),
        stage_key(config.with_overrides({"floor": 0.02}).to_dict(), model_digests={"embedding": "e"}, **base),
        stage_key(config.with_overrides({"limits.max_side": 9}).to_dict(), model_digests={"embedding": "e"}, **base),
        stage_key(config.to_dict(), model_digests={"embedding": "f"}, **base),
        stage_key(config.to_dict(), model_digests={"scorer": "e"}, **base),
        stage_key(config.to_dict(), model_digests={"embedding": "e"}, manifest_digest="n", code_version="c"),
        stage_key(config.to_dict(), model_digests={"embedding": "e"}, manifest_digest="m", code_version="d"),
    ]
    assert len(set(keys)) == len(keys)


# --- output directories -------------------------------------------------------------------------------------------


def test_fresh_then_complete_then_reused(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with open_output(out, key=ONE) as output:
        assert output.state is State.FRESH
        output.path("pairs.parquet").write_text("rows")
        assert not (out / "run.json").exists()
        said = output.finish({"images": 3, "seconds": 0.5})
    assert said == read_run(out) == {"images": 3, "seconds": 0.5, "key": ONE, "files": ["pairs.parquet"]}
    with open_output(out, key=ONE) as output:
        assert output.state == "reuse"
        assert output.path("pairs.parquet") == out / "pairs.parquet"
        with pytest.raises(StoreError, match="is complete"):
            output.path("more.parquet")
    assert (out / "pairs.parquet").read_text() == "rows"


def test_an_interrupted_run_goes_on_with_its_blocks(tmp_path: Path) -> None:
    interrupted(tmp_path)
    for overwrite in (False, True):  # a script that always passes --overwrite must not start from nothing each time
        with open_output(tmp_path, key=ONE, overwrite=overwrite) as output:
            assert output.state is State.RESUME
            assert (output.partial / "block-0").read_text() == "done"
    with open_output(tmp_path, key=ONE) as output:
        output.path("pairs.parquet").write_text("whole")
        output.finish({})
        assert list(output.partial.iterdir()) == []
    assert (tmp_path / "pairs.parquet").read_text() == "whole"


@pytest.mark.parametrize("leave", [complete, interrupted])
def test_another_key_is_an_error_that_names_both_and_changes_nothing(tmp_path: Path, leave: object) -> None:
    leave(tmp_path)  # type: ignore[operator]
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(StaleOutput, match=f"{ONE[:12]}.*{TWO[:12]}.*--overwrite"):
        open_output(tmp_path, key=TWO)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    with open_output(tmp_path, key=ONE) as output:
        assert output.state is not State.FRESH


def test_overwrite_removes_our_files_and_nobody_elses(tmp_path: Path) -> None:
    complete(tmp_path, pages=5)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "report" / "notes.txt").write_text("mine")
    (tmp_path / "own").mkdir()
    complete(tmp_path, key=TWO, overwrite=True, pages=1)
    assert visible(tmp_path) == {
        "notes.txt",
        "report/notes.txt",
        "pairs.parquet",
        "report/page-0.html",
        "run.json",
    }
    assert (tmp_path / "own").is_dir()
    assert (tmp_path / "pairs.parquet").read_text() == TWO


def test_overwrite_clears_the_files_and_blocks_of_an_interrupted_run(tmp_path: Path) -> None:
    interrupted(tmp_path)
    with open_output(tmp_path, key=TWO, overwrite=True) as output:
        assert output.state is State.FRESH
        assert visible(tmp_path) == set()
        assert list(output.partial.iterdir()) == []


def test_overwrite_of_a_complete_output_with_the_same_key_makes_it_anew(tmp_path: Path) -> None:
    complete(tmp_path)
    with open_output(tmp_path, key=ONE, overwrite=True) as output:
        assert output.state is State.FRESH
        assert visible(tmp_path) == set()


def test_a_missing_file_means_not_complete(tmp_path: Path) -> None:
    complete(tmp_path)
    (tmp_path / "pairs.parquet").unlink()
    with open_output(tmp_path, key=ONE) as output:
        assert output.state is State.RESUME
    with pytest.raises(StoreError, match="no complete output"):
        read_run(tmp_path)


def test_a_copy_without_the_hidden_directory_is_still_ours(tmp_path: Path) -> None:
    complete(tmp_path / "out")
    shutil.copytree(tmp_path / "out", tmp_path / "copy", ignore=shutil.ignore_patterns(".ndd"))
    with open_output(tmp_path / "copy", key=ONE) as output:
        assert output.state is State.REUSE
    complete(tmp_path / "copy", key=TWO, overwrite=True, pages=0)
    assert visible(tmp_path / "copy") == {"pairs.parquet", "run.json"}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("holiday.jpg", b"\xff\xd8"),
        ("run.json", b'{"name": "of another program"}'),
        ("run.json", b"[1, 2]"),
        ("run.json", b"not json"),
        ("run.json", b'{"key": "x", "files": ["../precious"]}'),
        ("run.json", b'{"key": "x", "files": ["/etc/hostname"]}'),
    ],
)
def test_a_directory_that_is_not_ours_is_left_alone(tmp_path: Path, name: str, content: bytes, overwrite: bool) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_bytes(content)
    (tmp_path / "precious").write_text("mine")
    with pytest.raises(StoreError, match="name a"):
        open_output(out, key=ONE, overwrite=overwrite)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == {name: content}
    assert (tmp_path / "precious").read_text() == "mine"


def test_what_file_managers_leave_does_not_make_a_directory_full(tmp_path: Path) -> None:
    (tmp_path / ".DS_Store").touch()
    with open_output(tmp_path, key=ONE) as output:
        assert output.state is State.FRESH


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StoreError, match="is a file"):
        open_output(tmp_path / "file", key=ONE)
    with pytest.raises(StoreError, match="cannot be used as a directory"):
        open_output(tmp_path / "file" / "below", key=ONE)


def test_a_file_of_somebody_else_is_never_replaced(tmp_path: Path) -> None:
    with open_output(tmp_path, key=ONE) as output:
        (tmp_path / "report.html").write_text("mine")
        with pytest.raises(StoreError, match="not written by ndd"):
            output.path("report.html")
    assert (tmp_path / "report.html").read_text() == "mine"


@pytest.mark.parametrize("name", ["", "../x", "a/../../x", "/x", "run.json", ".ndd/output.json"])
def test_names_stay_inside(tmp_path: Path, name: str) -> None:
    with open_output(tmp_path / "out", key=ONE) as output, pytest.raises(StoreError, match="not a name"):
        output.path(name)


def test_a_file_announced_but_not_written_is_not_complete(tmp_path: Path) -> None:
    with open_output(tmp_path, key=ONE) as output:
        output.path("pairs.parquet")
        with pytest.raises(StoreError, match="announced but not written"):
            output.finish({})
    assert not (tmp_path / "run.json").exists()


def test_a_run_that_is_no_json_is_not_complete(tmp_path: Path) -> None:
    with open_output(tmp_path, key=ONE) as output, pytest.raises(StoreError, match="not plain JSON"):
        output.finish({"prior": float("nan")})
    assert not (tmp_path / "run.json").exists()


def test_two_runs_never_work_in_one_directory(tmp_path: Path) -> None:
    with open_output(tmp_path, key=ONE):
        for key in (ONE, TWO):
            with pytest.raises(StoreError, match="another run is working there"):
                open_output(tmp_path, key=key, overwrite=True)
    with open_output(tmp_path, key=ONE) as output:
        output.finish({})
        with pytest.raises(StoreError, match="another run is working there"):
            open_output(tmp_path, key=ONE)  # complete, but its maker has not let go
    complete(tmp_path, overwrite=True)
    with open_output(tmp_path, key=ONE) as first, open_output(tmp_path, key=ONE) as second:
        assert (first.state, second.state) == (State.REUSE, State.REUSE)  # readers do not mind one another
        with pytest.raises(StoreError, match="another run is working there"):
            open_output(tmp_path, key=TWO, overwrite=True)
    assert read_run(tmp_path)["key"] == ONE


CHILD = """
import sys
from ndd.runs import atomic_path, open_output
output = open_output(sys.argv[1], key="1" * 64)
print(output.state, flush=True)
block = 0
while True:
    with atomic_path(output.partial / f"block-{block}") as temporary:
        temporary.write_text("x" * 1000)
    output.path(f"page-{block}.html").write_text("page")
    print(block, flush=True)
    block += 1
"""


def test_killed_at_any_moment_a_run_keeps_its_blocks_and_frees_the_lock(tmp_path: Path) -> None:
    out = tmp_path / "out"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    for i in range(4):
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(out)], stdout=subprocess.PIPE, env=environment)
        assert child.stdout is not None
        state = child.stdout.readline().decode().strip()
        assert state == ("fresh" if i == 0 else "resume")
        seen = [int(child.stdout.readline()) for _ in range(3 + 7 * i)]
        with pytest.raises(StoreError, match="another run"):
            open_output(out, key=ONE)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        with open_output(out, key=ONE) as output:
            assert output.state is State.RESUME
            blocks = {p.name: p.read_text() for p in output.partial.iterdir()}  # leftovers are swept away
            assert {f"block-{n}" for n in seen} <= blocks.keys()
            assert set(blocks.values()) == {"x" * 1000}
            assert all(name.startswith("block-") for name in blocks)
    with open_output(out, key=TWO, overwrite=True):
        assert visible(out) == set()


def test_an_overwrite_cut_short_can_be_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped after each file system call in turn, a second --overwrite always ends with our files gone."""
    unlink = Path.unlink
    for stop in range(4):
        out = tmp_path / str(stop)
        complete(out)
        (out / "notes.txt").write_text("mine")
        calls = 0

        def stopping(self: Path, missing_ok: bool = False, stop: int = stop) -> None:
            nonlocal calls
            if not self.name.startswith(".ndd-"):
                if calls == stop:
                    raise KeyboardInterrupt
                calls += 1
            unlink(self, missing_ok=missing_ok)

        monkeypatch.setattr(Path, "unlink", stopping)
        with pytest.raises(KeyboardInterrupt):
            open_output(out, key=TWO, overwrite=True)
        monkeypatch.undo()
        with open_output(out, key=TWO, overwrite=True) as output:
            assert output.state is State.FRESH
            assert visible(out) == {"notes.txt"}


def test_the_marker_holds_the_key_and_the_names(tmp_path: Path) -> None:
    with open_output(tmp_path, key=ONE) as output:
        assert isinstance(output, Output)
        output.paths("b", "a/c")
        assert json.loads((tmp_path / ".ndd" / "output.json").read_text()) == {"key": ONE, "files": ["a/c", "b"]}
