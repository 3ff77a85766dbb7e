"""Reading ahead changes nothing about what is read, and leaves no thread behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from ndd.training.ahead import read_ahead


def threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "ndd-read-ahead"]


def test_order_is_kept() -> None:
    assert list(read_ahead(iter(range(100)))) == list(range(100))
    assert list(read_ahead(iter([]))) == []
    assert list(read_ahead(iter([None, None]))) == [None, None]


def test_an_error_comes_where_it_happened() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise KeyError("third")

    ahead = read_ahead(items())
    assert [next(ahead), next(ahead)] == [1, 2]
    with pytest.raises(KeyError, match="third"):
        next(ahead)
    assert not threads()


def test_closing_ends_the_thread_of_an_endless_source() -> None:
    def endless() -> Iterator[int]:
        number = 0
        while True:
            yield (number := number + 1)

    ahead = read_ahead(endless())
    assert next(ahead) == 1
    ahead.close()
    assert not threads()


def test_no_more_than_asked_for_is_made_in_advance() -> None:
    made: list[int] = []
    enough = threading.Event()

    def items() -> Iterator[int]:
        for number in range(50):
            made.append(number)
            if number == 3:
                enough.set()
            yield number

    ahead = read_ahead(items(), ahead=2)
    assert next(ahead) == 0
    assert enough.wait(timeout=30)  # item 0 was taken, 1 and 2 wait, 3 is in the making
    assert made == [0, 1, 2, 3]
    ahead.close()


def test_a_source_that_hangs_is_told() -> None:
    release = threading.Event()

    def stuck() -> Iterator[int]:
        yield 1
        release.wait()

    ahead = read_ahead(stuck(), patience=0.05)
    assert next(ahead) == 1
    with pytest.raises(TimeoutError, match=r"0\.05 seconds"):
        next(ahead)
    release.set()
    for thread in threads():
        thread.join()
