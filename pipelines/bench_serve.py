"""How fast the server is beside the bare detector and beside plain FastAPI, all in one run, in turns.

Servers are processes of their own and are talked to by HTTP, as by a stranger.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import random
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ndd.cores import cores
from ndd.errors import NddError
from pipelines.album import Album
from pipelines.bench_serve_load import Call, Seen, form, load
from pipelines.ports import free_port

__all__ = ["Workload", "measure", "served", "table", "workload"]

_PAIRS, _KEPT = 64, 300
_CLIENTS = 32
_START_SECONDS = 180.0


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Pictures of an album as requests: half of the pairs are edited copies of one another."""

    pairs: Sequence[tuple[bytes, bytes]]
    pictures: Sequence[bytes]
    key: str

    @property
    def headers(self) -> dict[str, str]:
        """What every request carries."""
        return {"Authorization": f"Bearer {self.key}"}

    def compare(self, path: str) -> list[Call]:
        """A form for each pair."""
        return [self._form(path, {"a": a, "b": b}) for a, b in self.pairs]

    def query(self, path: str) -> list[Call]:
        """A form for each first picture."""
        return [self._form(path, {"image": a}) for a, _ in self.pairs]

    def add(self, *, prefix: str) -> list[Call]:
        """Each picture put into the index."""
        return [
            self._form("/v1/images", {"image": content}, {"id": f"{prefix}{i}"})
            for i, content in enumerate(self.pictures)
        ]

    def batch(self) -> Call:
        """All pairs in one request."""
        lines = [json.dumps({"a": _inline(a), "b": _inline(b)}).encode() for a, b in self.pairs]
        headers = {**self.headers, "Content-Type": "application/x-ndjson"}
        return Call(method="POST", path="/v1/batch", body=b"\n".join(lines), headers=headers)

    def _form(self, path: str, files: Mapping[str, bytes], fields: Mapping[str, str] | None = None) -> Call:
        body, kind = form(files, fields)
        return Call(method="POST", path=path, body=body, headers={**self.headers, "Content-Type": kind})


def workload(album: Album, *, seed: int) -> Workload:
    """Pairs and pictures of an album with known truth."""
    groups: dict[str, list[Path]] = {}
    for row in album.images:
        groups.setdefault(row.group, []).append(album.root / row.image)
    chance = random.Random(seed)
    several = [members for members in groups.values() if len(members) > 1]
    chosen = [chance.sample(chance.choice(several), 2) for _ in range(_PAIRS // 2)]
    everything = [path for members in groups.values() for path in members]
    chosen += [chance.sample(everything, 2) for _ in range(_PAIRS // 2)]
    chance.shuffle(chosen)
    pairs = [(a.read_bytes(), b.read_bytes()) for a, b in chosen]
    kept = [path.read_bytes() for path in chance.sample(everything, min(_KEPT, len(everything)))]
    return Workload(pairs=pairs, pictures=kept, key=secrets.token_hex(16))


@contextlib.contextmanager
def served(
    work: Workload, home: Path, settings: Sequence[str] = (), *, environment: Mapping[str, str] | None = None
) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """The server as a process with $NDD_HOME in `home`; its port and its process."""
    port = free_port()
    env = {**os.environ, "NDD_HOME": str(home), "NDD_KEY": work.key, **(environment or {})}
    command = [sys.executable, "-m", "serve", "run", "--port", str(port), *settings]
    with _process(command, env, port, "/readyz") as process:
        yield port, process


@contextlib.contextmanager
def _process(
    command: Sequence[str], env: Mapping[str, str], port: int, ready: str
) -> Iterator[subprocess.Popen[bytes]]:
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, env=env, stdout=said, stderr=said, start_new_session=True)
        try:
            until = time.monotonic() + _START_SECONDS
            while 200 not in load(port, [Call(method="GET", path=ready)], clients=1, seconds=0.01).statuses:
                if process.poll() is not None or time.monotonic() > until:
                    said.seek(0)
                    raise NddError(
                        f"{' '.join(command[1:4])}: did not start: {said.read()[-500:].decode(errors='replace')}"
                    )
                time.sleep(0.25)
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def measure(
    work: Workload, *, model: Path, seconds: float, rounds: int, settings: Sequence[str] = ()
) -> dict[str, Any]:
    """The figures of `python -m pipelines bench serve`. seconds: of each measurement in each round."""
    with contextlib.ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ndd-bench-")))
        ours, _ = stack.enter_context(served(work, home, [f"model={model}", *settings]))
        filled = load(ours, work.add(prefix="p"), clients=8, seconds=0.0 + _fill_seconds(work))
        plain = free_port()
        command = [
            sys.executable,
            "-m",
            "pipelines.bench_serve_plain",
            str(plain),
            str(model),
            str(home / "index" / "serve"),
        ]
        stack.enter_context(_process(command, os.environ, plain, "/openapi.json"))
        bare = _Bare(work, model)
        seen: dict[str, Seen] = {}
        for _ in range(rounds):
            for name, port, calls, clients in _turns(work, ours, plain):
                seen.setdefault(name, Seen()).merge(load(port, calls, clients=clients, seconds=seconds))
            seen.setdefault("batch", Seen()).merge(_batch(ours, work))
            seen.setdefault("bare", Seen()).merge(bare.run(seconds))
    figures = {name: of.figures() for name, of in seen.items()}
    return {"cores": cores(), "kept": filled.figures(), "measured": figures, "held": _held(seen)}


def _fill_seconds(work: Workload) -> float:
    return 0.05 * len(work.pictures)


def _turns(work: Workload, ours: int, plain: int) -> Iterator[tuple[str, int, list[Call], int]]:
    for clients, word in ((_CLIENTS, "many"), (1, "one")):
        yield f"plain compare {word}", plain, work.compare("/compare"), clients
        yield f"ours compare {word}", ours, work.compare("/v1/compare"), clients
        yield f"plain query {word}", plain, work.query("/query"), clients
        yield f"ours query {word}", ours, work.query("/v1/query"), clients


def _batch(port: int, work: Workload) -> Seen:
    """One batch of all pairs; counted by pairs."""
    lines: list[int] = []

    def count(call: Call, status: int, body: bytes) -> None:
        lines.extend(json.loads(line)["status"] for line in body.splitlines() if status == 200)

    whole = load(port, [work.batch()], clients=1, seconds=0.01, check=count)
    return Seen(latencies=whole.latencies, statuses={200: lines.count(200)}, seconds=whole.seconds)


class _Bare:
    """The detector in a loop, in this process."""

    def __init__(self, work: Workload, model: Path) -> None:
        from ndd.detector import Detector

        self._detector = Detector(model)
        self._pairs = work.pairs

    def run(self, seconds: float) -> Seen:
        """Compare pairs for a time."""
        seen, start = Seen(statuses={200: 0}), time.perf_counter()
        while time.perf_counter() - start < seconds:
            began = time.perf_counter()
            self._detector.compare(*self._pairs[seen.statuses[200] % len(self._pairs)])
            seen.latencies.append(time.perf_counter() - began)
            seen.statuses[200] += 1
        seen.seconds = time.perf_counter() - start
        return seen


def _held(seen: Mapping[str, Seen]) -> dict[str, Any]:
    """What has to hold, each with its figure."""
    said: dict[str, Any] = {"batch of bare": round(seen["batch"].rate / seen["bare"].rate, 2)}
    for call in ("compare", "query"):
        many, one = seen[f"ours {call} many"], seen[f"ours {call} one"]
        said[f"{call} of plain"] = round(many.rate / seen[f"plain {call} many"].rate, 2)
        said[f"{call} p99 of p50"] = round(many.quantile(0.99) / many.quantile(0.5), 2)
        beyond = one.quantile(0.5) - seen[f"plain {call} one"].quantile(0.5)
        said[f"{call} ms beyond plain"] = round(1e3 * beyond, 1)
    failed = sum(n for of in seen.values() for status, n in of.statuses.items() if not 200 <= status < 300)
    return {**said, "failed": failed}


def table(figures: Mapping[str, Any]) -> str:
    """The figures for people."""
    lines = [f"{figures['cores']} cores", f"{'':<22}{'per s':>9}{'p50 ms':>9}{'p99 ms':>9}{'requests':>10}"]
    for name, of in figures["measured"].items():
        lines.append(f"{name:<22}{of['rate']:>9.1f}{of['p50']:>9.1f}{of['p99']:>9.1f}{of['requests']:>10}")
    lines += [f"{name:<26}{value}" for name, value in figures["held"].items()]
    return "\n".join(lines)


def _inline(content: bytes) -> dict[str, str]:
    return {"base64": base64.b64encode(content).decode()}
