"""Free ports of loopback for servers that a test starts."""

from __future__ import annotations

import random
import socket

__all__ = ["free_ports"]


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on, below the range from which the system hands out ports by itself."""
    ports: list[int] = []
    for port in random.SystemRandom().sample(range(20_000, 32_000), 500):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        ports.append(port)
        if len(ports) == count:
            return ports
    raise AssertionError("no free ports")
