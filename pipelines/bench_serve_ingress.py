"""What may stand in front of the replicas, side by side: Ray's Python proxy as it comes, the same on one event loop per
process, and HAProxy. Each serves the same model; they are asked in turns, so that what else the machine does hits all."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.bench_serve import Workload, served
from pipelines.bench_serve_load import Call, Seen, load

__all__ = ["INGRESSES", "measure"]

INGRESSES: Mapping[str, Mapping[str, str]] = {
    "proxy": {"RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "1", "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "1"},
    "one loop": {"RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0", "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0"},
    "haproxy": {"RAY_SERVE_ENABLE_HA_PROXY": "1"},
}
"""Name → environment of the server."""
_MANY = 32


def measure(
    work: Workload, *, model: Path, seconds: float, rounds: int, settings: Sequence[str] = ()
) -> dict[str, dict[str, Any]]:
    """Name → figures of an empty request (`hop`) from one and from 32 clients, and of comparisons from one. seconds: of
    each measurement in each round."""
    hop, compare = [Call(method="GET", path="/healthz")], work.compare("/v1/compare")
    seen: dict[tuple[str, str], Seen] = {}
    with contextlib.ExitStack() as stack:
        ports = {}
        for name, environment in INGRESSES.items():
            home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ndd-ingress-")))
            running = served(work, home, [f"model={model}", *settings], environment=environment)
            ports[name], _ = stack.enter_context(running)
            load(ports[name], compare, clients=1, seconds=1.0)  # the first ones wait for the model
        for _ in range(rounds):
            for what, calls, clients in (("hop", hop, 1), ("hop, 32 clients", hop, _MANY), ("compare", compare, 1)):
                for name, port in ports.items():
                    of = seen.setdefault((name, what), Seen())
                    of.merge(load(port, calls, clients=clients, seconds=seconds))
    return {name: {what: seen[n, what].figures() for n, what in seen if n == name} for name in ports}
