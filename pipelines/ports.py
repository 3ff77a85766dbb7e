"""Ports of loopback for servers that take a while to start."""

from __future__ import annotations

import contextlib
import random
import socket

from ndd.errors import NddError

__all__ = ["free_port", "free_ports"]


def free_port() -> int:
    """One of `free_ports`."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on, below those that the system hands out by itself: a server that takes a
    minute to start would find one of those taken. NddError where there are not so many."""
    ports: list[int] = []
    for port in random.SystemRandom().sample(range(20_000, 32_000), 500):
        if len(ports) == count:
            break
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            ports.append(port)
    if len(ports) < count:
        raise NddError(f"{count} free ports wanted between 20000 and 32000, found {len(ports)}; end what listens there")
    return ports
