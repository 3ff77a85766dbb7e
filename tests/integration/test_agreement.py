"""The same album gives the same pairs and groups, byte for byte: file order, batches, workers and engine do not matter."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ndd.find import FindRequest, Runner, find
from ndd.local import LocalRunner, _Hand
from ndd.processes import HelperLost
from ndd.stages.work import GlanceWork, VerifyWork
from ndd.tables import read_groups, read_pairs
from tests.samples import small_album

Search = Callable[..., tuple[bytes, bytes]]


@pytest.fixture(scope="module")
def search(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Search:
    """Searches an album with a runner; gives the bytes of pairs.parquet and groups.parquet."""

    def run(album: Path, runner: Runner, *, block: int | None = None) -> tuple[bytes, bytes]:
        out = tmp_path_factory.mktemp("found") / "out"
        find(FindRequest(paths=[album], out=out, model=model, block=block), runner)
        return (out / "pairs.parquet").read_bytes(), (out / "groups.parquet").read_bytes()

    return run


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_album(tmp_path_factory.mktemp("albums") / "album")


@pytest.fixture(scope="module")
def expected(search: Search, album: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    tables = search(album, LocalRunner(workers=1))
    folder = tmp_path_factory.mktemp("expected")
    for name, content in zip(("pairs", "groups"), tables, strict=True):
        (folder / name).write_bytes(content)
    assert len(read_pairs(folder / "pairs")) > 10
    assert len({row.group for row in read_groups(folder / "groups")}) == 4
    return tables


@pytest.mark.parametrize(("workers", "block"), [(2, None), (2, 2), (3, 7), (1, 100)])
def test_in_one_process(
    search: Search, album: Path, expected: tuple[bytes, bytes], workers: int, block: int | None
) -> None:
    assert search(album, LocalRunner(workers=workers), block=block) == expected


def test_with_processes_beside_it(
    search: Search,
    album: Path,
    model: Path,
    expected: tuple[bytes, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So few pairs are not worth a process; here they are, and the thread of this one is told to do nothing."""
    monkeypatch.setattr("ndd.local._WORTH", 1e-6)
    monkeypatch.setattr("ndd.local._Hand", only_processes)
    runner = LocalRunner(workers=3)
    run = find(FindRequest(paths=[album], out=tmp_path / "out", model=model, block=3), runner)
    took_part = set(run["workers"]["verify"])
    assert took_part
    assert took_part <= {"process_1", "process_2"}
    assert (
        (tmp_path / "out" / "pairs.parquet").read_bytes(),
        (tmp_path / "out" / "groups.parquet").read_bytes(),
    ) == expected


def only_processes(name: str, do: Callable[..., dict[str, int]]) -> _Hand:
    """A hand of this process that does verification and glances is never free."""
    if isinstance(do, VerifyWork | GlanceWork):

        def lost(batch: object) -> dict[str, int]:
            raise HelperLost("told to do nothing")

        return _Hand(name, lost)
    return _Hand(name, do)


def test_in_any_file_order(search: Search, album: Path, expected: tuple[bytes, bytes], tmp_path: Path) -> None:
    """Directories list their entries in the order of a hash or of creation: make them anew, the other way round."""
    turned = tmp_path / "turned"
    for file in sorted((file for file in album.rglob("*") if file.is_file()), reverse=True):
        copy = turned / file.relative_to(album)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
        os.utime(copy, ns=(1, len(list(turned.rglob("*")))))
    assert search(turned, LocalRunner(workers=2)) == expected


ON_RAY = """
import sys
import pyarrow as pa
from ndd.errors import InputError
from ndd.find import FindRequest, find
from pipelines.session import ray_session
from pipelines.stages import RayRunner

album, model, out = sys.argv[1:]
with ray_session(workers=2):
    for workers, block in ((2, None), (1, 5)):
        find(FindRequest(paths=[album], out=f"{out}/{workers}", model=model, block=block), RayRunner(workers=workers))

    def refuse(task):
        raise InputError(f"{task}: refused; ask otherwise")

    def refuse_later(task):
        return lambda batch: refuse(task)

    ray, items = RayRunner(workers=2), pa.table({"row": [1, 2, 3]})
    runs = (
        lambda: ray.call(refuse, "a call"),
        lambda: ray.map(refuse, "a start", items, block=1),
        lambda: ray.map(refuse_later, "a chunk", items, block=1),
    )
    for run in runs:
        try:
            run()
        except InputError as error:
            print(error)
"""


def test_on_ray_with_one_or_two_workers_and_any_batch(
    album: Path, model: Path, expected: tuple[bytes, bytes], tmp_path: Path
) -> None:
    """In a process of its own: what Ray leaves behind in a process would meet the tests that follow."""
    command = [sys.executable, "-c", ON_RAY, str(album), str(model), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=290)
    assert (done.returncode, done.stderr) == (0, "")
    refused = [f"{where}: refused; ask otherwise" for where in ("a call", "a start", "a chunk")]
    assert done.stdout.splitlines() == refused, "an error of ours arrives as it was raised"
    for workers in ("1", "2"):
        found = tuple((tmp_path / workers / f"{name}.parquet").read_bytes() for name in ("pairs", "groups"))
        assert found == expected
