"""`review`: Label Studio on this machine, its answers fetched until somebody stops it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from feedback.desk import Desk
from feedback.labelstudio import LabelStudioError, Server
from feedback.pull import pull

__all__ = ["collect", "stopped_by_signals"]


def collect(desk: Desk, server: Server, *, every: float, say: Callable[[str], None]) -> None:
    """Fetch the answers every `every` seconds, and once more when stopped. A server that is away is waited for."""
    pause = threading.Event()
    try:
        while not pause.wait(every):
            _fetch(desk, server, say)
    except KeyboardInterrupt:
        say("stopping")
        _fetch(desk, server, say)


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """SIGTERM stops as Ctrl-C does, so that what was started within the block ends with it."""
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _fetch(desk: Desk, server: Server, say: Callable[[str], None]) -> None:
    try:
        pulled = pull(desk, server)
    except LabelStudioError as error:
        say(f"{error}; trying again")
        return
    if pulled.answers or pulled.withdrawn:
        say(f"{pulled.answers} answers, {pulled.withdrawn} withdrawn")


def _interrupt(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt
