"""Which model answers: found by reference, watched, and changed without a dropped request.

A request holds the engine it began with. A newly promoted model is loaded beside the old one, which is closed when its
last request has ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from ndd.detector import Detector
from ndd.errors import ModelError, NddError
from ndd.files import make_directory
from ndd.home import home
from ndd.model.directory import CALIBRATION, CONFIG, WEIGHTS, resolve
from serve.engine import Engine
from serve.metrics import Numbers
from serve.settings import Settings

__all__ = ["Models", "directory_of"]

Adopt = Callable[[Engine], AbstractAsyncContextManager[str | None]]
"""Entered before an engine comes into use: gives why it must not, or None; in the block the engine is exchanged."""

_log = logging.getLogger("ndd.serve")
_SCHEME = "models:/"


class Models:
    """The engine in use, the challenger beside it, and what became of the last change."""

    def __init__(self, settings: Settings, numbers: Numbers) -> None:
        self._settings = settings
        self._numbers = numbers
        self._reference = settings.model
        self._stamp = _stamp(settings.model)
        self._changing = asyncio.Lock()
        self._watching: asyncio.Task[None] | None = None
        self._adopt: Adopt | None = None
        self.engine = self._load(settings.model)
        self.challenger = self._load(settings.challenger) if settings.challenger else None
        self.refused: str | None = None

    async def start(self, adopt: Adopt) -> None:
        """Begin to watch; `adopt` is asked before each change."""
        self._adopt = adopt
        if self._settings.watch_seconds:
            self._watching = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """End the watch and the engines."""
        if self._watching is not None:
            self._watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watching
        for engine in (self.engine, self.challenger):
            if engine is not None:
                engine.retire()

    @contextlib.contextmanager
    def lease(self) -> Iterator[Engine]:
        """The engine in use, for as long as a request takes, whatever is promoted meanwhile."""
        with self.engine.held() as engine:
            yield engine

    async def use(self, reference: str | None) -> None:
        """Change to another reference; nothing happens if it is the one in use."""
        if reference != self._reference:
            self._reference = reference
            await self._look_again()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._settings.watch_seconds)
            try:
                await self._look_again()
            except Exception:  # the watch outlives whatever a half-copied model can do
                _log.exception("watch")

    async def _look_again(self) -> None:
        async with self._changing:
            try:
                stamp = await asyncio.to_thread(_stamp, self._reference)
                if stamp == self._stamp:
                    return
                self._stamp = stamp  # also of one that cannot be loaded: it is tried once, not for ever
                fresh = await asyncio.to_thread(self._load, self._reference)
            except NddError as error:
                self._said_no(f"{type(error).__name__}: it cannot be loaded")
                return
            await self._change_to(fresh)

    async def _change_to(self, fresh: Engine) -> None:
        before, after = self.engine.detector.model, fresh.detector.model
        if (before.embedding_digest, before.scorer_digest) == (after.embedding_digest, after.scorer_digest):
            fresh.retire()
            return
        assert self._adopt is not None
        async with self._adopt(fresh) as why:
            gone = fresh
            if why is None:
                gone, self.engine = self.engine, fresh
        gone.retire()
        if why is not None:
            self._said_no(why)
            return
        self.refused = None
        self._numbers.event("reload")
        digests = {"embedding": after.embedding_digest, "scorer": after.scorer_digest}
        _log.info("reload", extra={"fields": {"digests": digests}})

    def _said_no(self, why: str) -> None:
        if why != self.refused:
            _log.warning("model refused", extra={"fields": {"reason": why}})
            self._numbers.event("model_refused")
        self.refused = why

    def _load(self, reference: str | None) -> Engine:
        find = dataclasses.replace(self._settings.find, limits=self._settings.limits.decoding())
        return Engine(Detector(directory_of(reference), config=find), threads=self._settings.worker_threads)


def directory_of(reference: str | None) -> Path:
    """The model directory that a reference means: a directory, `models:/ndd@champion`, `models:/ndd/3`, or None for the
    default. A registered model is downloaded once below $NDD_HOME. Raises ModelError."""
    if reference is None or not reference.startswith(_SCHEME):
        return resolve(reference)
    version = _version(reference)
    key = hashlib.sha256(f"{_registry()}\n{version.name}\n{version.version}\n{version.run_id}".encode()).hexdigest()
    held = home() / "models" / f"serve-{key[:32]}"
    if not held.is_dir():
        make_directory(held.parent)
        with tempfile.TemporaryDirectory(dir=held.parent, prefix=".fetch-") as scratch:
            files = _client().download_artifacts(version.run_id, "model", scratch)
            with contextlib.suppress(OSError):  # another process was quicker, with the same files
                os.rename(files, held)
    return resolve(held)


def _version(reference: str) -> Any:
    from mlflow.exceptions import MlflowException

    name, at, alias = reference.removeprefix(_SCHEME).partition("@")
    number = "" if at else name.partition("/")[2]
    try:
        if at:
            return _client().get_model_version_by_alias(name, alias)
        return _client().get_model_version(name.partition("/")[0], number)
    except MlflowException as error:
        raise ModelError(f"{reference}: not in the registry at {_registry()} ({error.error_code})") from None


def _registry() -> str:
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home().mlflow_db}"


def _client() -> Any:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=_registry(), registry_uri=_registry())


def _stamp(reference: str | None) -> tuple[Any, ...]:
    """What changes when the model behind a reference does, without reading it."""
    if reference is not None and reference.startswith(_SCHEME):
        version = _version(reference)
        return (version.version, version.run_id)
    directory = Path(os.path.realpath(resolve(reference)))
    return (str(directory), *(_file_stamp(directory / name) for name in (CONFIG, WEIGHTS, CALIBRATION)))


def _file_stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
