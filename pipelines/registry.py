"""Models by name: what a reference such as `models:/ndd@champion` stands for, and who is called champion.

A reference is a model directory, `models:/ndd/3` (a version) or `models:/ndd@champion` (whichever version has the alias
now). Versions are downloaded once into `$NDD_HOME/models/<content digest>`, whole or not at all.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from ndd.errors import ModelError, StoreError
from ndd.files import atomic_path, make_directory
from ndd.home import home
from ndd.model.directory import resolve
from pipelines.tracking import CONTENT, REGISTERED_MODEL, Registry, content_digest

__all__ = ["CHALLENGER", "CHAMPION", "alias", "fetch", "register", "set_alias"]

CHAMPION, CHALLENGER = "champion", "challenger"

_SCHEME = "models:/"
_REFERENCE = re.compile(rf"{_SCHEME}(?P<name>[^/@]+)(?:@(?P<alias>.+)|/(?P<version>\d+))")


def fetch(reference: str | os.PathLike[str] | None) -> Path:
    """The model directory that `reference` stands for; None is the model that everything uses by default.

    Raises ModelError for a reference that leads nowhere, StoreError for a registry that does not answer.
    """
    if reference is None or not os.fspath(reference).startswith(_SCHEME):
        return resolve(reference)
    text = os.fspath(reference)
    registry = Registry()
    version = _version(registry, text)
    key = hashlib.sha256(f"{registry.uri}\n{version.name}\n{version.version}\n{version.run_id}".encode()).hexdigest()
    known = _cache() / f"{key[:32]}.version"
    if known.is_file():
        held = _cache() / known.read_text(encoding="ascii").strip()
        if held.is_dir():
            return resolve(held)
    return _download(registry, version, known)


def alias(name: str) -> str | None:
    """The version that the alias `name` of the registered model points to; None if there is no such alias."""
    version = Registry().by_alias(name)
    return None if version is None else str(version.version)


def set_alias(name: str, version: str) -> None:
    """Point the alias at the version. Raises StoreError if there is no such version."""
    registry = Registry()
    if registry.by_number(version) is None:
        raise StoreError(f"{registry.uri}: {REGISTERED_MODEL} has no version {version}; register it first")
    registry.set_alias(name, version)


def register(model: Path, *, origin: str) -> str:
    """The version whose files are those of the model directory, made now if there is none. origin: a tag, for people."""
    registry = Registry()
    known = registry.by_tag(CONTENT, content_digest(model))
    return str(known.version) if known is not None else registry.add(model, tags={"origin": origin}, name=origin)


def _version(registry: Registry, text: str) -> Any:
    parts = _REFERENCE.fullmatch(text)
    if parts is None or parts["name"] != REGISTERED_MODEL:
        raise ModelError(f"{text}: expected {_SCHEME}{REGISTERED_MODEL}@ALIAS or {_SCHEME}{REGISTERED_MODEL}/VERSION")
    named, number = parts["alias"], parts["version"]
    version = registry.by_alias(named) if named else registry.by_number(number)
    if version is None:
        what = f"no alias {named!r}" if named else f"no version {number}"
        raise ModelError(f"{text}: {what} in the registry at {registry.uri}; MLFLOW_TRACKING_URI names another")
    return version


def _download(registry: Registry, version: Any, known: Path) -> Path:
    make_directory(_cache())
    with tempfile.TemporaryDirectory(dir=_cache(), prefix=".fetch-") as scratch:
        try:
            files = registry.download(version, Path(scratch))
        except OSError as error:
            raise StoreError(f"{registry.uri}: version {version.version} cannot be read ({error})") from error
        digest = content_digest(files)
        tagged = version.tags.get(CONTENT)
        if tagged is not None and tagged != digest:
            raise StoreError(
                f"{registry.uri}: the files of version {version.version} are not those that were registered; "
                "register the model again"
            )
        held = _cache() / digest
        if not held.is_dir():
            try:
                os.rename(files, held)
            except OSError:
                if not held.is_dir():  # else another process was quicker, with the same files
                    raise
    with atomic_path(known) as temporary:
        temporary.write_text(digest + "\n", encoding="ascii")
    return resolve(held)


def _cache() -> Path:
    return home() / "models"
