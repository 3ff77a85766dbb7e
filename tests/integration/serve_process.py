"""`python -m serve` as a process of its own: Ray, the proxy and replicas on loopback, ended whatever happens."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from pipelines.ports import free_ports
from serve.client import Client

__all__ = ["KEY", "ROOT", "Served", "served"]

ROOT = Path(__file__).resolve().parents[2]
KEY = "a-key-of-the-tests-0123456789"


@dataclass(frozen=True, kw_only=True)
class Served:
    """A running server."""

    port: int
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def client(self) -> Client:
        """With the key."""
        return Client(self.url, key=KEY, attempts=8)

    def replicas(self) -> list[psutil.Process]:
        """The processes that work on requests."""
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if process.cmdline()[:1] and process.cmdline()[0].startswith("ray::ServeReplica:ndd:ndd"):
                    found.append(process)
        return found


@contextlib.contextmanager
def served(
    home: Path, settings: Sequence[str] = (), *, program: Sequence[str] = ("-m", "serve", "run")
) -> Iterator[Served]:
    """Serve with $NDD_HOME in `home` until the end of the block. program: what takes the settings."""
    (port,) = free_ports(1)
    log = Path(tempfile.mkstemp(prefix="ndd-served-", suffix=".log")[1])
    env = {**os.environ, "NDD_HOME": str(home), "NDD_KEY": KEY}
    command = [sys.executable, *program, "--port", str(port), *settings]
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, env=env, cwd=ROOT, stdin=subprocess.PIPE, stdout=file, stderr=file, start_new_session=True
        )
    running = Served(port=port, process=process, log=log)
    try:
        until = time.monotonic() + 240
        with Client(running.url) as client:
            while not client.ready():
                assert process.poll() is None and time.monotonic() < until, log.read_text()
                time.sleep(0.2)
        yield running
    finally:
        assert process.stdin is not None
        process.stdin.close()
        left = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=90)
        alive = psutil.wait_procs(left, timeout=20)[1]
        for each in [*alive, *([psutil.Process(process.pid)] if process.poll() is None else [])]:
            with contextlib.suppress(psutil.Error):
                each.kill()
        process.wait(timeout=30)
        log.unlink()
