"""Clients that send slowly: are they closed within 30 s, and what do the others feel of it?

Turns with and without them alternate; the p99 of the others is compared over all turns of each kind.
"""

from __future__ import annotations

import contextlib
import socket
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.bench_serve import Workload, served
from pipelines.bench_serve_load import Call, Seen, load

__all__ = ["PATIENCE", "measure", "table"]

PATIENCE = 30.0
"""Seconds within which a slow sender has to be gone."""
_SENDERS, _CLIENTS = 60, 4


def measure(work: Workload, *, model: Path, rounds: int = 2, settings: Sequence[str] = ()) -> dict[str, Any]:
    """60 slow senders beside 4 clients that ask as quickly as they can, and the 4 without them."""
    calls = [Call(method="GET", path="/v1/model", headers=work.headers), *work.compare("/v1/compare")[:1]]
    calls = [*calls[:1] * 15, calls[1]]
    alone, beside, ended = Seen(), Seen(), list[float]()
    with (
        tempfile.TemporaryDirectory(prefix="ndd-slow-") as home,
        served(work, Path(home), [f"model={model}", *settings]) as (port, _),
    ):
        load(port, calls, clients=1, seconds=2.0)
        for _ in range(rounds):
            alone.merge(load(port, calls, clients=_CLIENTS, seconds=PATIENCE))
            senders = [
                threading.Thread(target=_trickle, args=(port, work, kind % 3, ended)) for kind in range(_SENDERS)
            ]
            for sender in senders:
                sender.start()
            beside.merge(load(port, calls, clients=_CLIENTS, seconds=PATIENCE))
            for sender in senders:
                sender.join()
    return {
        "senders": _SENDERS * rounds,
        "closed": sum(seconds <= PATIENCE for seconds in ended),
        "slowest_s": round(max(ended), 1),
        "alone": alone.figures(),
        "beside": beside.figures(),
        "p99 of alone": round(beside.quantile(0.99) / alone.quantile(0.99), 2),
    }


def _trickle(port: int, work: Workload, kind: int, ended: list[float]) -> None:
    """Send a byte a second until the server closes. kind: 0 in the head, 1 nothing at all, 2 in the body."""
    head = "POST /v1/compare HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in work.headers.items())
    first = (b"POST /v1/compare HTT", b"", head.encode() + b"\r\n")[kind]
    start = time.monotonic()
    with contextlib.suppress(ConnectionError), socket.create_connection(("127.0.0.1", port)) as connection:
        connection.settimeout(1.0)
        connection.sendall(first)
        while time.monotonic() - start < 2 * PATIENCE:
            with contextlib.suppress(TimeoutError):
                if not connection.recv(4096):
                    break
            if first:
                connection.sendall(b" ")
    ended.append(time.monotonic() - start)


def table(figures: Mapping[str, Any]) -> str:
    """The figures for people."""
    alone, beside = figures["alone"], figures["beside"]
    return (
        f"{figures['closed']} of {figures['senders']} slow senders closed within {PATIENCE:.0f} s, the last after "
        f"{figures['slowest_s']} s; others: p50 {alone['p50']} → {beside['p50']} ms, p99 {alone['p99']} → {beside['p99']} ms "
        f"({figures['p99 of alone']}×), {alone['statuses']} → {beside['statuses']}"
    )
