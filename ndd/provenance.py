"""Which code made a result: a digest that changes when results may, and only then."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
from functools import lru_cache
from pathlib import Path

from ndd.errors import StoreError

__all__ = ["code_version", "source_digest"]

LIBRARIES = (
    "faiss-cpu",
    "numpy",
    "opencv-python-headless",
    "pillow",
    "pillow-heif",
    "torch",
    "torchvision",
)
"""Their release changes pixels, vectors or keypoints in the last digits, and the same key promises the same bytes."""

SUFFIXES = frozenset({".py", ".html", ".j2", ".jinja", ".css", ".js", ".json", ".npy"})
"""What counts as code, and tables that come with it (a vocabulary, a glance's weights); caches and notes determine nothing."""
MODELS = frozenset({"champion"})
"""Directories of models, whose weights and calibration have digests of their own."""


@lru_cache
def code_version(*packages: str) -> str:
    """sha256 (hex) of the sources of `packages` (default: `ndd`) and of the releases of the libraries that compute.

    Equal for an editable checkout, a plain checkout on the path and a wheel of the same code: it reads bytes of files,
    named by their place in the package, and no package metadata of our own (a checkout on the path has none, an
    editable install's may be old; the version number changes together with a source file). A changed comment changes it
    too: redoing work is safe, believing an old result is not. Some milliseconds once, then cached in the process.
    """
    digest = hashlib.sha256()
    for package in sorted(packages or ("ndd",)):
        digest.update(f"{package} {source_digest(_package_directory(package))}\n".encode())
    for name in LIBRARIES:
        digest.update(f"{name} {_release(name)}\n".encode())
    return digest.hexdigest()


def source_digest(directory: Path) -> str:
    """sha256 (hex) over the names and bytes of all source files below `directory`, in name order."""
    digest = hashlib.sha256()
    files = (
        p
        for p in directory.rglob("*")
        if p.suffix in SUFFIXES and p.is_file() and MODELS.isdisjoint(p.relative_to(directory).parts)
    )
    for name, path in sorted((p.relative_to(directory).as_posix(), p) for p in files):
        digest.update(f"{name}\n{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def _package_directory(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise StoreError(f"{package}: its source files cannot be found; install it as files, not as a zip")
    return Path(next(iter(spec.submodule_search_locations)))


def _release(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "-"  # another distribution of it, such as a GPU build
