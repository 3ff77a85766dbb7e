"""A Ray of one's own on this machine with Serve on it, for as long as the process lives."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["serve_here"]

_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Switched off, Ray still reports once that it is off: to the discard port.
    "RAY_USAGE_STATS_REPORT_URL": "http://127.0.0.1:9/",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_worker_niceness": "0",
    # Ray replaces 127.0.0.1 by the machine's outward address unless told that this is no cluster of machines.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serve.proxy:prepare",
    # A proxy that is slow because everything is gets replaced otherwise, and its connections with it.
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "30",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",
    "RAY_AUTH_MODE": "token",
    # Each of a process's dozens of threads would get a heap of its own, that grows to the largest picture it ever met.
    "MALLOC_ARENA_MAX": "2",
    "MALLOC_TRIM_THRESHOLD_": str(64 * 2**20),
    # Naming one threshold freezes the other at 128 KiB: every picture's arrays would be mapped anew, page by page, and
    # looking at one took twice as long (docs/LOG.md).
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
}
_OBJECT_STORE = 256 * 2**20
_ATTEMPTS = 3


@contextlib.contextmanager
def serve_here(args: Mapping[str, Any], *, host: str, port: int, logs: bool) -> Iterator[None]:
    """Serve `serve.app:build` with these arguments on host:port for the length of the block."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    if not os.environ.keys() & {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}:
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    from serve.app import build

    application = build(args)  # a wrong setting is told before anything is started
    parent = tempfile.gettempdir()
    directory = tempfile.mkdtemp(prefix="ndd-serve-", dir=parent if len(parent) < 24 else "/tmp")
    import ray
    from ray import serve

    try:
        _start(
            num_cpus=64,  # logical: Serve's own actors and replicas of one small machine have to fit
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE,
            logging_level=logging.ERROR,
            log_to_driver=logs,
            _node_ip_address="127.0.0.1",
            _temp_dir=directory,
        )
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        serve.start(proxy_location="HeadOnly", http_options={"host": host, "port": port})
        serve.run(application, name="ndd", route_prefix="/")
        yield
    finally:
        with contextlib.suppress(Exception):
            serve.shutdown()
        ray.shutdown()
        shutil.rmtree(directory, ignore_errors=True)


def _start(**settings: Any) -> None:
    import ray

    for attempt in range(_ATTEMPTS):
        try:
            ray.init(**settings)
            return
        except Exception as error:
            # A machine that is busy with other things may not have it up within Ray's fixed half minute.
            if "timed out during startup" not in str(error) or attempt + 1 == _ATTEMPTS:
                raise
            ray.shutdown()


def wait_for_end() -> None:
    """Until Ctrl-C or SIGTERM."""
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    while not ended.wait(1.0):
        pass
