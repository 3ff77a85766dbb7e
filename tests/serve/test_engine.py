"""One picture against several, shared between threads: the same matches in the same order, and no error is lost."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from ndd.detector import Detector
from ndd.known import KnownPicture
from ndd.types import Match
from serve.engine import Engine


@pytest.fixture(scope="module")
def engine(model: Path) -> Iterator[Engine]:
    engine = Engine(Detector(model), threads=3)
    yield engine
    engine.retire()


@pytest.fixture(scope="module")
def known(engine: Engine, pictures: Mapping[str, bytes]) -> list[KnownPicture]:
    return [engine.detector.look(content) for content in pictures.values()]


def test_matches_are_those_of_one_after_the_other(engine: Engine, known: list[KnownPicture]) -> None:
    others = [*known, *reversed(known)] * 3
    assert engine.compare(known[0], others) == [engine.detector.match(known[0], other) for other in others]
    assert engine.compare(known[0], []) == []


def test_idle_threads_help(engine: Engine, known: list[KnownPicture], monkeypatch: pytest.MonkeyPatch) -> None:
    match, met, seen = engine.detector.match, threading.Barrier(3, timeout=30), set()

    def slow(a: KnownPicture, b: KnownPicture) -> Match:
        seen.add(threading.get_ident())
        if len(seen) > 1 or b is not known[0]:
            met.wait()  # passed only by three at a time
        return match(a, b)

    monkeypatch.setattr(Detector, "match", lambda self, a, b: slow(a, b))
    assert len(engine.compare(known[1], [known[0], known[1], known[1], known[1]])) == 4
    assert len(seen) == 3


def test_an_error_of_a_helper_is_raised(
    engine: Engine, known: list[KnownPicture], monkeypatch: pytest.MonkeyPatch
) -> None:
    main = threading.get_ident()

    def broken(self: Detector, a: KnownPicture, b: KnownPicture) -> Match:
        if threading.get_ident() != main:
            raise IndexError("broken")
        helped.wait(timeout=0.2)
        return match(a, b)

    match, helped = engine.detector.match, threading.Event()
    monkeypatch.setattr(Detector, "match", broken)
    with pytest.raises(IndexError, match="broken"):
        engine.compare(known[0], [known[1]] * 8)
