"""Ports of loopback for servers that take a while to start."""

from __future__ import annotations

import contextlib
import random
import socket

from ndd.errors import NddError

__all__ = ["free_port"]


def free_port() -> int:
    """A port of loopback that nobody listens on, below those that the system hands out by itself: a server that takes a
    minute to start would find one of those taken."""
    for port in random.SystemRandom().sample(range(20_000, 32_000), 200):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise NddError("no free port between 20000 and 32000; end what listens there")
