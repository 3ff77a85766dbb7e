"""`$NDD_HOME/champion`: the model that everything uses, replaced as a whole, with the way back kept.

    $NDD_HOME/champion -> champions/0003-5f2a…      a symbolic link; renaming a new one over it is one step
    $NDD_HOME/champions/0003-5f2a…/                 a model directory, never changed once it is there
    $NDD_HOME/champions/history.json                which were published, oldest first, and where the way back has led to

Whoever resolves the link once reads one model, however often it is replaced meanwhile.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from ndd.errors import StoreError
from ndd.files import atomic_path, fsync_directory, make_directory
from ndd.home import home
from ndd.model.directory import describe, shipped
from pipelines.tracking import content_digest

__all__ = ["KEPT", "Published", "publish", "published", "rollback", "taken_back"]

KEPT = 5
"""Champions kept, the current one among them."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """One champion. name: of its directory below champions/. version: in the registry, if it is known there."""

    name: str
    version: str | None


def publish(model: Path, *, version: str | None) -> Path:
    """Make a copy of the model directory the champion; durable and whole when this returns.

    Publishing what is champion already changes nothing but the version's number. Returns the copy. Raises ModelError,
    StoreError.
    """
    describe(model)  # refuses what could not be read later
    with _history() as past:
        digest = content_digest(model)
        if past and past[-1].name.endswith(digest[:12]) and _link().is_symlink():
            past[-1] = Published(name=past[-1].name, version=version or past[-1].version)
            return _store() / past[-1].name
        number = 1 + max((int(of.name[:4]) for of in past), default=0)
        name = f"{number:04d}-{digest[:12]}"
        _copy(model, _store() / name)
        _set_aside_old_layout()
        _point_at(name)
        past.append(Published(name=name, version=version))
        del past[:-KEPT]
        _remove_oldest(keep={of.name for of in past})
        return _store() / name


def rollback() -> Path:
    """Go back to the champion before the current one; before the first, the shipped model. Returns its directory.

    Raises StoreError where there is nothing to go back to.
    """
    with _history() as past:
        if not past:
            raise StoreError(f"{_link()}: nothing was published, so there is nothing to go back to")
        past.pop()  # its directory stays for a while: somebody may be reading it
        if past:
            _point_at(past[-1].name)
        else:
            _link().unlink(missing_ok=True)
            fsync_directory(home().root)
        return _store() / past[-1].name if past else shipped()


def taken_back(model: Path) -> bool:
    """Was it published, and is another one champion now? Known as long as its copy is kept."""
    name = content_digest(model)[:12]
    now = published()
    return any(_store().glob(f"[0-9][0-9][0-9][0-9]-{name}")) and (now is None or not now.name.endswith(name))


def published() -> Published | None:
    """The current champion; None where the shipped model is."""
    past = _read()
    return past[-1] if past else None


def _store() -> Path:
    return home() / "champions"


def _link() -> Path:
    return home().champion


def _copy(model: Path, target: Path) -> None:
    """The files of a model directory at `target`, durable, whole or not at all. What is there has the same content."""
    if target.is_dir():
        return
    with tempfile.TemporaryDirectory(dir=_store(), prefix=".publish-") as scratch:
        part = Path(shutil.copytree(model, Path(scratch) / "model"))
        for path in [*part.rglob("*"), part]:
            fsync_directory(path)  # a file's content the same way
        os.rename(part, target)
    fsync_directory(_store())


def _set_aside_old_layout() -> None:
    """A plain directory that somebody put there is kept beside the others; a link cannot replace it in one step."""
    if _link().is_dir() and not _link().is_symlink():
        os.rename(_link(), Path(tempfile.mkdtemp(dir=_store(), prefix="put-there-by-hand-")) / "model")


def _point_at(name: str) -> None:
    temporary = _link().with_name(f".ndd-champion-{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    os.symlink(Path("champions") / name, temporary)
    os.replace(temporary, _link())
    fsync_directory(home().root)


def _remove_oldest(*, keep: set[str]) -> None:
    """Of the directories that no way leads back to, all but the newest KEPT."""
    held = sorted(path.name for path in _store().glob("[0-9][0-9][0-9][0-9]-*"))
    for name in held[:-KEPT]:
        if name not in keep:
            shutil.rmtree(_store() / name, ignore_errors=True)


@contextmanager
def _history() -> Iterator[list[Published]]:
    """The published ones, to be changed; one process at a time. Written when the block ends well."""
    make_directory(_store())
    descriptor = os.open(_store() / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        past = _read()
        yield past
        with atomic_path(_store() / "history.json") as temporary:
            temporary.write_text(json.dumps([asdict(of) for of in past], indent=2) + "\n", encoding="utf-8")
    finally:
        os.close(descriptor)


def _read() -> list[Published]:
    """The history as far as it led: killed between the link and the file, the link is right."""
    path = _store() / "history.json"
    try:
        past = [Published(**of) for of in json.loads(path.read_text(encoding="utf-8"))] if path.is_file() else []
    except (OSError, ValueError, TypeError) as error:
        raise StoreError(f"{path}: damaged ({error}); remove it, the champion stays") from error
    if not _link().is_symlink():
        return []
    name = Path(os.readlink(_link())).name
    for at, of in enumerate(past):
        if of.name == name:
            return past[: at + 1]
    return [*past, Published(name=name, version=None)]
