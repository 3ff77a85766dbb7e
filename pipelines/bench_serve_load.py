"""Load for `bench serve`: closed-loop clients over HTTP, and what they saw."""

from __future__ import annotations

import http.client
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Call", "Seen", "form", "load", "once", "table", "together"]


@dataclass(frozen=True, kw_only=True)
class Call:
    """One request, ready to be sent."""

    method: str
    path: str
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(kw_only=True)
class Seen:
    """Latencies in seconds, statuses (0: no answer), and how long all of it took."""

    latencies: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Answers 2xx per second."""
        return sum(n for status, n in self.statuses.items() if 200 <= status < 300) / max(self.seconds, 1e-9)

    def quantile(self, q: float) -> float:
        """Seconds; the nearest-rank quantile."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else float("nan")

    def merge(self, other: Seen) -> None:
        """Take in another round."""
        self.latencies += other.latencies
        self.seconds += other.seconds
        for status, n in other.statuses.items():
            self.statuses[status] = self.statuses.get(status, 0) + n

    def figures(self) -> dict[str, Any]:
        """As JSON values; milliseconds."""
        said = {name: round(1e3 * self.quantile(q), 1) for name, q in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))}
        return {"rate": round(self.rate, 2), **said, "requests": len(self.latencies), "statuses": dict(self.statuses)}


def form(files: Mapping[str, bytes], fields: Mapping[str, str] | None = None) -> tuple[bytes, str]:
    """A multipart body and its content type."""
    boundary = secrets.token_hex(16)
    parts = []
    for name, text in (fields or {}).items():
        parts.append(f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n'.encode())
    for name, content in files.items():
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{name}"\r\n'
        parts += [head.encode(), b"Content-Type: application/octet-stream\r\n\r\n", content, b"\r\n"]
    return b"".join([*parts, f"--{boundary}--\r\n".encode()]), f"multipart/form-data; boundary={boundary}"


def once(connection: http.client.HTTPConnection, call: Call) -> tuple[int, bytes]:
    """Send one request and read the answer; (0, b"") if there is none."""
    try:
        connection.request(call.method, call.path, body=call.body, headers=dict(call.headers))
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        connection.close()
        return 0, b""


def load(
    port: int,
    calls: Sequence[Call],
    *,
    clients: int,
    seconds: float,
    rate: float | None = None,
    requests: int | None = None,
    check: Callable[[Call, int, bytes], None] | None = None,
) -> Seen:
    """Each client sends the next of `calls` as soon as it has its answer, for a time. rate: requests per second at most.
    requests: how many at most in all."""
    seen, mutex, state = Seen(), threading.Lock(), {"next": 0}
    start = time.perf_counter()
    until = start + seconds

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        while time.perf_counter() < until:
            with mutex:
                at = state["next"]
                state["next"] += 1
            if requests is not None and at >= requests:
                break
            if rate is not None:
                time.sleep(max(0.0, start + at / rate - time.perf_counter()))
            call = calls[at % len(calls)]
            began = time.perf_counter()
            status, body = once(connection, call)
            took = time.perf_counter() - began
            with mutex:
                seen.latencies.append(took)
                seen.statuses[status] = seen.statuses.get(status, 0) + 1
            if check is not None:
                check(call, status, body)
        connection.close()

    together(client, clients)
    seen.seconds = time.perf_counter() - start
    return seen


def together(client: Callable[[], None], clients: int) -> None:
    """Run so many of them at once, to the end of the last."""
    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def table(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """For people: what stands in front of the replicas → what was asked → figures, as `Seen.figures` gives them."""
    name, what = (2 + max(map(len, words)) for words in (figures, {w for of in figures.values() for w in of}))
    lines = [f"{'':<{name}}{'':<{what}}{'per s':>9}{'p50 ms':>9}{'p99 ms':>9}  statuses"]
    for way, measured in figures.items():
        for asked, of in measured.items():
            numbers = f"{of['rate']:>9.1f}{of['p50']:>9.1f}{of['p99']:>9.1f}"
            lines.append(f"{way:<{name}}{asked:<{what}}{numbers}  {of['statuses']}")
    return "\n".join(lines)
