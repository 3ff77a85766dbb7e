"""Mixed work against the server for a long time: does its memory stay flat, does anything go wrong?"""

from __future__ import annotations

import contextlib
import re
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from pipelines.bench_serve import Workload, served
from pipelines.bench_serve_load import Call, load

__all__ = ["Sample", "slope", "soak", "table", "verdict"]

Sample = tuple[float, Mapping[str, float]]
"""Seconds since the start, and MiB by name: of each process, and `files` of all."""

_EVERY = 2.0
_WARM = 0.3
"""Share of the time at the beginning that does not count: caches fill, allocators find their size."""
_SURE = 4.0
"""Widest interval, in MiB per minute, from which anything follows."""
_UNKNOWN = 1e6


def soak(
    work: Workload, *, model: Path, seconds: float, rate: float, settings: Sequence[str] = (), clients: int = 16
) -> dict[str, Any]:
    """Compare, query, add, read and remove at `rate` requests per second; memory of all the server's processes."""
    with (
        tempfile.TemporaryDirectory(prefix="ndd-soak-") as home,
        served(work, Path(home), [f"model={model}", *settings]) as (port, process),
    ):
        watch = _Watch(psutil.Process(process.pid))
        with watch.running():
            seen = load(port, _mix(work), clients=clients, seconds=seconds, rate=rate)
        numbers = _events(port)
    samples = [sample for sample in watch.samples if sample[0] >= _WARM * seconds]
    held = [(at, sum(parts.values()) - parts["files"]) for at, parts in samples]
    names = sorted({name for _, parts in samples for name in parts})
    series = {name: [(at, parts[name]) for at, parts in samples if name in parts] for name in names}
    grown = slope(held)
    return {
        "requests": seen.figures(),
        "asked_rate": rate,
        "reached_rate": round(len(seen.latencies) / seen.seconds, 2),
        "failed": sum(n for status, n in seen.statuses.items() if status == 0 or status >= 500),
        "memory_mib": {name: round(v, 1) for name, v in zip(("first", "last", "most"), _ends(held), strict=True)},
        "slope": grown,
        "verdict": verdict(grown),
        "by_process": {name: {"last": round(of[-1][1], 1), **slope(of)} for name, of in series.items()},
        "samples": [
            [round(at, 1), {name: round(mib, 2) for name, mib in parts.items()}] for at, parts in watch.samples
        ],
        "server_says": numbers,
    }


def verdict(grown: Mapping[str, float]) -> str:
    """`flat`: no growth that could be told from noise. `grows`: the whole interval is above zero. `unsure`: the interval
    is so wide that a leak would not show either; soak longer, or on a quieter machine."""
    if grown["low"] > 0:
        return "grows"
    return "flat" if grown["high"] - grown["low"] <= _SURE else "unsure"


def slope(samples: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Growth in MiB per minute by Theil and Sen (median of the slopes of all pairs) with a 95 % bootstrap interval over
    blocks of the series, because neighbouring samples are alike. Of fewer than 32 samples nothing is known."""
    if len(samples) < 32:
        return {"mib_per_minute": 0.0, "low": -_UNKNOWN, "high": _UNKNOWN}
    chance = np.random.default_rng(0)
    blocks = np.array_split(np.array(samples), min(16, len(samples) // 4))
    medians = np.array([(np.median(block[:, 0]), np.median(block[:, 1])) for block in blocks])
    drawn = [medians[chance.integers(0, len(medians), len(medians))] for _ in range(500)]
    found = [_theil_sen(points) for points in drawn if len(np.unique(points[:, 0])) > 2]
    low, high = np.quantile(found, [0.025, 0.975]) if found else (0.0, 0.0)
    return {
        "mib_per_minute": round(60 * _theil_sen(medians), 3),
        "low": round(60 * float(low), 3),
        "high": round(60 * float(high), 3),
    }


def _theil_sen(points: Any) -> float:
    first, second = np.triu_indices(len(points), 1)
    run = points[second, 0] - points[first, 0]
    rise = points[second, 1] - points[first, 1]
    return float(np.median(rise[run != 0] / run[run != 0]))


def _mix(work: Workload) -> list[Call]:
    """Mostly comparisons and queries; pictures come and go, so that the index turns over and does not grow."""
    adds = work.add(prefix="s")[:60]
    ids = [f"/v1/images/s{i}" for i in range(len(adds))]
    reads = [Call(method="GET", path=path, headers=work.headers) for path in ids]
    drops = [Call(method="DELETE", path=path, headers=work.headers) for path in ids]
    bad = Call(
        method="POST", path="/v1/compare", body=b"{", headers={**work.headers, "Content-Type": "application/json"}
    )
    mixed: list[Call] = []
    for i, (compare, query) in enumerate(zip(work.compare("/v1/compare"), work.query("/v1/query"), strict=True)):
        at = i % len(adds)
        mixed += [compare, query, adds[at], compare, query, reads[at], drops[(at + 30) % len(adds)], bad]
    return mixed


class _Watch:
    """Samples the memory of a process and all below it: proportional set size, so that shared pages count once. What is
    mapped from files (`files`) is the system's to take back, and stands apart."""

    def __init__(self, root: psutil.Process) -> None:
        self._root = root
        self._ended = threading.Event()
        self.samples: list[Sample] = []

    @contextlib.contextmanager
    def running(self) -> Any:
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()

    def _run(self) -> None:
        start = time.monotonic()
        while not self._ended.wait(_EVERY):
            parts = {"files": 0.0}
            for name, pid in self._servers():
                with contextlib.suppress(OSError):
                    held, files = _memory(pid)
                    parts[name] = parts.get(name, 0.0) + held
                    parts["files"] += files
            self.samples.append((time.monotonic() - start, parts))

    def _servers(self) -> list[tuple[str, int]]:
        """What answers requests: the replicas and the proxy, not Ray's bookkeeping, whose logs and tables are its own."""
        found = []
        for process in self._root.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                kind = re.match(r"ray::(\w+)", (process.cmdline() or [""])[0])
                if kind:
                    found.append((kind[1], process.pid))
        return found


def _memory(pid: int) -> tuple[float, float]:
    """MiB that a process holds by itself, and MiB of files that it has mapped; each its share of what others hold too."""
    said = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    kib = {name: float(value) for name, value in re.findall(r"^(Pss\w*): +(\d+) kB$", said, re.MULTILINE)}
    return (kib["Pss"] - kib["Pss_File"]) / 2**10, kib["Pss_File"] / 2**10


def _ends(samples: Sequence[tuple[float, float]]) -> tuple[float, float, float]:
    values = [value for _, value in samples] or [0.0]
    return values[0], values[-1], max(values)


def _events(port: int) -> dict[str, float]:
    """What the server counted: a request that ended in 5xx, an event that should not be."""
    texts: list[bytes] = []
    load(
        port,
        [Call(method="GET", path="/metrics")],
        clients=1,
        seconds=0.01,
        check=lambda _, __, body: texts.append(body),
    )
    lines = (texts[0] if texts else b"").decode().splitlines()
    wanted = [line for line in lines if line.startswith("ndd_events_total{") or 'status="5' in line]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in wanted)}


def table(figures: Mapping[str, Any]) -> str:
    """The figures for people."""
    grown, memory = figures["slope"], figures["memory_mib"]
    return "\n".join(
        [
            f"{figures['requests']['requests']} requests at {figures['reached_rate']} per second, "
            f"{figures['failed']} failed; p50 {figures['requests']['p50']} ms, p99 {figures['requests']['p99']} ms",
            f"memory {memory['first']} MiB after warming up, {memory['last']} at last, {memory['most']} at most; "
            f"slope {grown['mib_per_minute']} MiB per minute ({grown['low']} … {grown['high']}): {figures['verdict']}",
            *(
                f"  {name:<16} {of['last']:8.1f} MiB at last, slope {of['mib_per_minute']} ({of['low']} … {of['high']})"
                for name, of in figures["by_process"].items()
            ),
            *(f"{name} {value:g}" for name, value in figures["server_says"].items()),
        ]
    )
