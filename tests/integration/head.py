"""A Ray head of a test's own: started by the script behind `make cluster`, ended by it, whatever happens in between."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from pipelines.ports import free_ports

__all__ = ["ROOT", "Head", "marked_processes", "start_head"]

ROOT = Path(__file__).resolve().parents[2]
_SCRIPT = ROOT / "infra" / "ray" / "cluster"
_RAY = Path(sys.executable).parent / "ray"
_ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


@dataclass(frozen=True, kw_only=True)
class Head:
    """A running head, and `ray job …` against it."""

    address: str
    state: Path
    mark: str
    token: str
    env: Mapping[str, str]

    def ray(self, *arguments: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        """Run `ray ARGUMENTS` with this head's address and token; never raises on a non-zero exit."""
        command = [str(_RAY), *arguments]
        return subprocess.run(command, env=self.env, cwd=ROOT, text=True, capture_output=True, timeout=timeout)

    def submit(self, *entrypoint: str, wait: bool = True, job: str, timeout: float = 500) -> str:
        """Submit a command from the checkout as job `job`; what `ray job submit` printed (with its logs if `wait`)."""
        options = ["--submission-id", job, "--working-dir", ".", *(() if wait else ("--no-wait",))]
        done = self.ray("job", "submit", *options, "--", *entrypoint, timeout=timeout)
        return done.stdout + done.stderr

    def get(self, path: str, *, token: str | None = None) -> Any:
        """The JSON answer of the job server (quicker than another `ray job`); with the head's token unless given."""
        request = urllib.request.Request(f"{self.address}/api/jobs/{path}")
        request.add_header("Authorization", f"Bearer {self.token if token is None else token}")
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def status(self, job: str) -> str:
        """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
        return str(self.get(job)["status"])

    def logs(self, job: str) -> str:
        """Everything the job printed so far."""
        return str(self.get(f"{job}/logs")["logs"])

    def wait_for(self, job: str, text: str, *, seconds: float = 400) -> str:
        """The job's logs once they hold `text`; fails if the job ends without it."""
        until = time.monotonic() + seconds
        while text not in (logs := self.logs(job)):
            status = self.status(job)
            assert status not in _ENDED, f"job {job} {status} without {text!r}:\n{logs}"
            assert time.monotonic() < until, f"job {job} never printed {text!r}:\n{logs}"
            time.sleep(0.2)
        return logs

    def processes(self) -> list[psutil.Process]:
        """Every process of this cluster, drivers of jobs included."""
        return marked_processes(self.mark)


def marked_processes(mark: str) -> list[psutil.Process]:
    """Every process that carries a cluster's mark in its environment."""
    return [process for process in psutil.process_iter() if _carries(process, mark)]


def _carries(process: psutil.Process, mark: str) -> bool:
    try:
        return bool(process.environ().get("NDD_CLUSTER_MARK") == mark)
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return False


@contextmanager
def start_head(*, cpus: int = 4) -> Iterator[Head]:
    """A head with `cpus` logical CPUs on free loopback ports; every process of it is gone afterwards."""
    state = Path(tempfile.mkdtemp(prefix="ndd-head-", dir="/tmp"))
    gcs, dashboard, client = free_ports(3)
    env = {
        **os.environ,
        "NDD_HOME": str(state / "home"),  # of the jobs: they inherit the head's environment
        "NDD_CLUSTER_STATE": str(state),
        "NDD_CLUSTER_CPUS": str(cpus),
        "NDD_CLUSTER_PORT": str(gcs),
        "NDD_CLUSTER_DASHBOARD_PORT": str(dashboard),
        "NDD_CLUSTER_CLIENT_PORT": str(client),
        "NDD_CLUSTER_OBJECT_STORE_BYTES": str(128 * 2**20),
    }
    # If this process is killed outright, nobody else would end the head.
    watch = f"while kill -0 {os.getpid()} 2>/dev/null; do sleep 1; done; exec {_SCRIPT} stop"
    watchman = subprocess.Popen(["bash", "-c", watch], env=env, start_new_session=True)
    try:
        started = subprocess.run([_SCRIPT, "start"], env=env, text=True, capture_output=True, timeout=280)
        assert started.returncode == 0, started.stdout + started.stderr
        address = f"http://127.0.0.1:{dashboard}"
        env |= {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(state / "token"),
            "RAY_API_SERVER_ADDRESS": address,
        }
        mark, token = (state / "mark").read_text(), (state / "token").read_text()
        yield Head(address=address, state=state, mark=mark, token=token, env=env)
    finally:
        watchman.kill()
        watchman.wait()
        stopped = subprocess.run([_SCRIPT, "stop"], env=env, text=True, capture_output=True, timeout=120)
        shutil.rmtree(state, ignore_errors=True)
        assert stopped.returncode == 0, stopped.stderr
