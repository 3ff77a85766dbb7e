"""Folders of pictures into an index: read, look, add, in blocks; what cannot be read is told and costs nothing else."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from ndd.cores import cores
from ndd.data.scan import Source, scan
from ndd.detector import Decoded, Detector
from ndd.errors import ConflictError, DecodeError, NothingReadable, SchemaError
from ndd.index.store import Entry, IndexStore
from ndd.types import Failure, image_id

__all__ = ["Filled", "fill"]

_BLOCK = 64
"""Pictures that are added with one write."""


@dataclass(kw_only=True)
class Filled:
    """What became of the pictures: counts of `added`, `replaced` and `unchanged`, and those that failed."""

    paths: Sequence[str | os.PathLike[str]]
    failures: list[Failure]
    counts: dict[str, int] = field(default_factory=lambda: {"added": 0, "replaced": 0, "unchanged": 0})

    def raise_if_nothing(self) -> None:
        """Raise NothingReadable if there was no picture or none could be read."""
        if any(self.counts.values()) or any(failure.stage == "index" for failure in self.failures):
            return
        where = ", ".join(os.fspath(path) for path in self.paths)
        first = f", e.g. {self.failures[0].path}: {self.failures[0].reason}" if self.failures else ""
        raise NothingReadable(f"{where}: no picture there that can be read{first}; name a folder with pictures")


def fill(
    store: IndexStore,
    detector: Detector,
    paths: Sequence[str | os.PathLike[str]],
    *,
    prefix: str = "",
    replace: bool = False,
    workers: int | None = None,
) -> Filled:
    """Add every picture below `paths`; its id is `prefix` and its path as in `ndd.data.scan`.

    A picture that is there already is not looked at again, so a call that was stopped goes on. Another picture under an id
    that is taken fails (stage `index`) unless replace. Raises UsageError, StoreFull, StoreError.
    """
    sources, failures = scan(paths)
    filled = Filled(paths=paths, failures=failures)
    with ThreadPoolExecutor(workers or cores()) as pool:
        for start in range(0, len(sources), _BLOCK):
            block = sources[start : start + _BLOCK]
            read = pool.map(lambda source: _read(store, detector, source, prefix + source.path), block)
            fresh: list[tuple[Source, Decoded]] = []
            for source, found in zip(block, read, strict=True):
                if isinstance(found, DecodeError):
                    filled.failures.append(Failure(path=source.path, stage=found.stage, reason=found.reason))
                elif found is None:
                    filled.counts["unchanged"] += 1
                else:
                    fresh.append((source, found))
            known = detector.finish([decoded for _, decoded in fresh])
            packed = pool.map(lambda picture: picture.pack(), known)
            _put(store, filled, [s for s, _ in fresh], list(packed), prefix=prefix, replace=replace)
    return filled


def _read(store: IndexStore, detector: Detector, source: Source, id: str) -> Decoded | DecodeError | None:
    """The picture; its error; None if it is in the store."""
    try:
        content = detector.decoder.file(source.uri)
        return None if id in store.with_image(image_id(content)) else detector.decode(content)
    except DecodeError as error:
        return error


def _put(
    store: IndexStore, filled: Filled, sources: Sequence[Source], packed: Sequence[bytes], *, prefix: str, replace: bool
) -> None:
    entries = [Entry(id=prefix + s.path, picture=data) for s, data in zip(sources, packed, strict=True)]
    try:
        results = store.add(entries, replace=replace)
    except (ConflictError, SchemaError) as error:
        if len(entries) > 1:  # find out which, one by one
            for source, data in zip(sources, packed, strict=True):
                _put(store, filled, [source], [data], prefix=prefix, replace=replace)
            return
        filled.failures.append(Failure(path=sources[0].path, stage="index", reason=str(error)))
        return
    for result in results:
        filled.counts[result.outcome] += 1
