"""Making the next items of an iterator while the current one is worked on."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from contextlib import suppress
from queue import Empty, Queue
from typing import TypeVar

__all__ = ["read_ahead"]

T = TypeVar("T")


def read_ahead(items: Iterator[T], *, ahead: int = 2, patience: float | None = None) -> Generator[T, None, None]:
    """The same items in order, made by a thread up to `ahead` of them in advance.

    Raises what `items` raises, and TimeoutError if nothing comes for `patience` seconds. Closing it ends the thread.
    """
    queue: Queue[tuple[T] | BaseException | None] = Queue(maxsize=ahead)
    stop = threading.Event()

    def produce() -> None:
        try:
            for item in items:
                queue.put((item,))
                if stop.is_set():
                    return
            queue.put(None)
        except BaseException as error:  # handed to the consumer, who raises it
            queue.put(error)

    thread = threading.Thread(target=produce, name="ndd-read-ahead", daemon=True)
    thread.start()
    hung = False
    try:
        while (item := queue.get(timeout=patience)) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item[0]
    except Empty:
        hung = True
        raise TimeoutError(f"no batch came for {patience:g} seconds") from None
    finally:
        stop.set()
        while thread.is_alive() and not hung:  # a full queue would hold the producer back for ever
            with suppress(Empty):
                queue.get_nowait()
            thread.join(timeout=0.05)
