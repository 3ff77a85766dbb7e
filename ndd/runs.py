"""Output directories that know what made them: stage keys, resumption, and `run.json`.

A key says what determines a result: the settings, the input, the models and the code. A directory whose `run.json`
carries the key holds exactly that result and is used again; a directory with another key is never mixed with.

    DIR/run.json            written last: its presence means complete
    DIR/.ndd/output.json    written first: the key, and the names of the files that are ours
    DIR/.ndd/lock           held while a process works in DIR
    DIR/.ndd/partial/       results of single blocks, for an interrupted run to go on from

Nothing that is not ours is ever deleted or replaced: only names announced through `Output.path` are.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from enum import StrEnum
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Self

from ndd.config import json_digest
from ndd.errors import StaleOutput, StoreError
from ndd.files import TEMPORARY, atomic_path, fsync_directory, make_directory, try_lock
from ndd.provenance import code_version

__all__ = ["PRIVATE", "Output", "State", "atomic_path", "code_version", "open_output", "read_run", "stage_key"]

PRIVATE = ".ndd"
"""Where an output directory keeps its books."""
IGNORED = frozenset({PRIVATE, ".DS_Store", "Thumbs.db", "desktop.ini"})
"""Names that a directory may hold and still count as empty: file managers leave them behind."""


def stage_key(
    config: Mapping[str, Any], *, manifest_digest: str, model_digests: Mapping[str, str], code_version: str
) -> str:
    """sha256 (hex) over everything that determines a stage's result.

    config: plain JSON values (`Config.to_dict()`); two stages with the same settings tell themselves apart in it, e.g.
    {"stage": "embed", …}. model_digests: name → digest, e.g. {"embedding": …, "scorer": …}. code_version: see there.
    """
    return json_digest(
        {"config": config, "manifest": manifest_digest, "models": dict(model_digests), "code": code_version}
    )


class State(StrEnum):
    """What `open_output` found.

    `fresh`: nothing yet. `resume`: an interrupted run with the same key; what lies in `Output.partial` can be used.
    `reuse`: complete, with the same key; there is nothing to do.
    """

    FRESH = "fresh"
    RESUME = "resume"
    REUSE = "reuse"


class Output:
    """One run's hold on an output directory; made by `open_output`, ends with the `with` block."""

    def __init__(self, directory: Path, *, key: str, state: State, files: frozenset[str], lock: int) -> None:
        self.directory = directory
        self.key = key
        self.state = state
        self._files = files
        self._lock: int | None = lock

    @property
    def partial(self) -> Path:
        """Directory for the results of single blocks; emptied by `finish`. Write into it with `atomic_path`."""
        return self.directory / PRIVATE / "partial"

    def path(self, name: str) -> Path:
        """Announce an output file, e.g. "pairs.parquet" or "report/page-2.html", and give its path to write to.

        The name is on disk as ours before the path is handed out, so that `--overwrite` can clear it whatever happens.
        Raises StoreError for a name outside the directory and for a file that is there but was not written by ndd.
        """
        return self.paths(name)[0]

    def paths(self, *names: str) -> list[Path]:
        """`path` for many names with one write."""
        for name in names:
            if not _is_ours(name):
                raise StoreError(
                    f"{name!r}: not a name for an output file; use a relative path inside {self.directory}"
                )
            if name not in self._files and (self.directory / name).exists():
                raise StoreError(
                    f"{self.directory / name}: is there, but not written by ndd; move it or name another DIR"
                )
        if not self._files.issuperset(names):
            if self.state is State.REUSE:  # held together with other readers
                raise StoreError(f"{self.directory}: is complete; nothing is added to it but by --overwrite")
            self._files = self._files.union(names)
            _write_json(self._marker, {"key": self.key, "files": sorted(self._files)})
        for name in names:
            make_directory((self.directory / name).parent)
        return [self.directory / name for name in names]

    def finish(self, run: Mapping[str, Any]) -> dict[str, Any]:
        """Write `run` with the key and the names of the files as `run.json`, which makes the output complete.

        Returns what was written. Raises StoreError if a file that was announced is missing, or if `run` is not JSON.
        """
        for name in sorted(self._files):
            if not (self.directory / name).is_file():
                raise StoreError(f"{self.directory / name}: was announced but not written; the run is not complete")
        complete = {**run, "key": self.key, "files": sorted(self._files)}
        _write_json(self.directory / "run.json", complete)
        _remove_tree(self.partial)
        self.partial.mkdir()
        return complete

    def close(self) -> None:
        """Let other runs have the directory."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _marker(self) -> Path:
        return self.directory / PRIVATE / "output.json"


def open_output(directory: str | os.PathLike[str], *, key: str, overwrite: bool = False) -> Output:
    """Take hold of `directory` for the run with this `key`, creating it if need be; use in a `with` block.

    An absent or empty directory is `fresh`. The same key: `reuse` if complete (all its files still there), else
    `resume`. Another key: StaleOutput, or with `overwrite` our files are removed (nobody else's) and it is `fresh`;
    `overwrite` of a complete output with the same key makes it anew.
    Raises StoreError if another process works there, or if the directory holds things but no output of ndd.
    """
    target = Path(os.path.abspath(directory))
    _inspect(target)  # refuses what is not ours before anything is put there
    make_directory(target / PRIVATE / "partial")
    lock, alone = _lock(target)
    try:
        found = _inspect(target)
        state = _state(target, found, key=key, overwrite=overwrite)
        if state is State.REUSE:
            try_lock(lock, exclusive=False)
        elif not alone:
            raise _busy(target)
        else:
            found = _prepare(target, found, key=key, state=state)
        return Output(target, key=key, state=state, files=found.files, lock=lock)
    except BaseException:
        os.close(lock)
        raise


def read_run(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """The `run.json` of a complete output. Raises StoreError if there is none."""
    run = _read_json(Path(directory) / "run.json")
    if run is None:
        raise StoreError(f"{directory}: holds no complete output (no run.json); run `ndd find … --out` there first")
    return run


class _Found:
    """What lies in a directory: the key it was made with (None: nothing), our files, whether it is complete."""

    def __init__(self, key: str | None, files: frozenset[str], complete: bool) -> None:
        self.key = key
        self.files = files
        self.complete = complete


def _inspect(target: Path) -> _Found:
    """Raises StoreError if the directory holds things that are no output of ndd."""
    marker = _read_json(target / PRIVATE / "output.json")
    run = _read_json(target / "run.json")
    said = run or marker  # a copy made without the hidden directory has a run.json alone
    if said is None:
        _refuse_foreign(target)
        return _Found(None, frozenset(), False)
    for record in (run, marker):
        names = record.get("files") if record else []
        if not isinstance(names, list) or not all(isinstance(name, str) and _is_ours(name) for name in names):
            raise StoreError(f"{target}: its run.json was not written by ndd; name another directory")
    key = said.get("key")
    if not isinstance(key, str):
        raise StoreError(f"{target}: its run.json was not written by ndd; name another directory")
    files = frozenset([*(marker or said)["files"], *said["files"]])
    complete = run is not None and all((target / name).is_file() for name in run["files"])
    return _Found(key, files, complete)


def _is_ours(name: str) -> bool:
    """False for a name that points outside the directory or at what keeps the books."""
    parts = PurePosixPath(name).parts
    return bool(parts) and parts[0] not in ("/", PRIVATE, "run.json") and ".." not in parts


def _refuse_foreign(target: Path) -> None:
    if target.exists() and not target.is_dir():
        raise StoreError(f"{target}: is a file; name a directory")
    others = sorted(set(os.listdir(target)) - IGNORED) if target.exists() else []
    if others:
        raise StoreError(
            f"{target}: holds {others[0]!r} and no output of ndd; name a new or an empty directory for --out"
        )


def _state(target: Path, found: _Found, *, key: str, overwrite: bool) -> State:
    if found.key is None:
        return State.FRESH
    if found.key != key:
        if overwrite:
            return State.FRESH
        kind = "a complete" if found.complete else "an unfinished"
        raise StaleOutput(
            f"{target}: holds {kind} output with key {found.key[:12]}, this run's is {key[:12]} "
            "(other settings, pictures, model or code); pass --overwrite or name another directory"
        )
    if not found.complete:
        return State.RESUME
    return State.FRESH if overwrite else State.REUSE


def _prepare(target: Path, found: _Found, *, key: str, state: State) -> _Found:
    """Make the directory ready for work.

    Cut short at any point, the next call finds the same state again or a safe one: `run.json` goes first, and the names
    of our files are kept until the files are gone.
    """
    marker = target / PRIVATE / "output.json"
    if found.key is not None:
        _write_json(marker, {"key": found.key, "files": sorted(found.files)})
        _unlink(target / "run.json")
        fsync_directory(target)
    _sweep(target, found.files)
    if state is State.RESUME:
        return found
    for name in sorted(found.files, reverse=True):
        _unlink(target / name)
        for parent in PurePosixPath(name).parents[:-1]:
            with suppress(OSError):  # another file is in it
                (target / parent).rmdir()
    _remove_tree(target / PRIVATE / "partial")
    make_directory(target / PRIVATE / "partial")
    _write_json(marker, {"key": key, "files": []})
    return _Found(key, frozenset(), False)


def _lock(target: Path) -> tuple[int, bool]:
    """An open lock file and whether we are alone; shared with runs that only read a complete output."""
    path = target / PRIVATE / "lock"
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be opened ({error.strerror}); check its rights or name another DIR"
        ) from error
    if try_lock(lock, exclusive=True):
        return lock, True
    if try_lock(lock, exclusive=False):
        return lock, False
    os.close(lock)
    raise _busy(target)


def _busy(target: Path) -> StoreError:
    return StoreError(f"{target}: another run is working there; wait for it to end or name another directory")


def _sweep(target: Path, files: frozenset[str]) -> None:
    """Remove what an interrupted atomic write left behind."""
    places = {target, target / PRIVATE, target / PRIVATE / "partial", *((target / name).parent for name in files)}
    for place in places:
        for leftover in place.glob(TEMPORARY):
            _unlink(leftover)


def _unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"{path}: cannot be removed ({error.strerror}); remove it by hand") from error


def _remove_tree(directory: Path) -> None:
    try:
        shutil.rmtree(directory)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError(f"{directory}: cannot be removed ({error.strerror}); remove it by hand") from error


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    try:
        text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"
    except (TypeError, ValueError) as error:
        raise StoreError(f"{path}: not plain JSON ({error}); use numbers, text, lists and tables") from error
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: cannot be read ({error}); remove it or name another directory") from error
    if not isinstance(value, dict):
        raise StoreError(f"{path}: not written by ndd; remove it or name another directory")
    return value
