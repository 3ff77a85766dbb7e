"""A Ray to work on: the cluster this process belongs to, or a private one on this machine that ends with it."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any

from ndd.cores import cores

__all__ = ["default_workers", "ray_session", "share_of_cpu"]

_OBJECT_STORE = 128 * 2**20
"""Bytes. Nothing large passes through it: workers read and write files."""

_ATTEMPTS = 4

_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Switched off, Ray still reports once that it is off: to the discard port.
    "RAY_USAGE_STATS_REPORT_URL": "http://127.0.0.1:9/",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    # The C++ core warns of things that are no concern of whoever searches pictures.
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    # Ray gives its workers the lowest priority but four: beside anything else that computes, a search would stand still.
    "RAY_worker_niceness": "0",
}


@contextlib.contextmanager
def ray_session(*, workers: int) -> Iterator[None]:
    """Ray for the length of the block.

    With RAY_ADDRESS set (as `ray job submit` does) the cluster there; else a new one: on the loopback interface, with a
    token of its own, in a directory of its own that is removed at the end. Already connected: nothing is done.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    outside = bool(os.environ.get("RAY_ADDRESS"))
    if not outside and "ray" not in sys.modules:
        # Ray reads these when it is imported, and once; the processes it starts inherit them.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        if not os.environ.keys() & {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}:
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        # Ray replaces 127.0.0.1 by the machine's outward address unless told that this is no cluster of machines.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        # Nobody takes this one node away with notice, and every process of Ray's costs .8 % of a core by waiting
        # (docs/LOG.md, "what Ray costs").
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    import ray

    if ray.is_initialized():
        _quiet()
        yield
    elif outside:
        with _connected():
            yield
    else:
        with _private(workers):
            yield


def default_workers() -> int:
    """One per core that this process may use, at least two: fewer would not be distributed."""
    return max(2, cores())


def share_of_cpu(workers: int) -> float:
    """Logical CPUs per worker: at most one, and less where that would leave none for Ray Data's own tasks.

    Workers that hold every CPU while the tasks that feed them wait for one are a deadlock without a message.
    """
    import ray

    total = float(ray.cluster_resources().get("CPU", 1.0))
    return min(1.0, round(0.8 * total / workers, 2))


@contextlib.contextmanager
def _private(workers: int) -> Iterator[None]:
    # The paths of Ray's sockets may have 107 bytes, of which it needs 64.
    parent = tempfile.gettempdir()
    directory = tempfile.mkdtemp(prefix="ndd-ray-", dir=parent if len(parent) < 24 else "/tmp")
    try:
        with _connected(
            num_cpus=max(workers + 1, cores()),
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE,
            _node_ip_address="127.0.0.1",
            _temp_dir=directory,
        ):
            yield
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def _connected(**settings: Any) -> Iterator[None]:
    """`ray.init`; whatever happens from then on, also while it starts, Ray is shut down."""
    import ray

    try:
        with _signals_later():
            _start(settings)
        _quiet()
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _signals_later() -> Iterator[None]:
    """SIGTERM waits until the block has ended.

    Ray puts a handler of its own in place while it starts, which raises SystemExit wherever it is: raised in a finaliser
    within `logging` it was lost, and left a lock that later stopped everything for ever.
    """
    from ray._private import utils

    handler, plain = signal.getsignal(signal.SIGTERM), getattr(utils, "set_sigterm_handler", None)
    came: list[FrameType | None] = []
    signal.signal(signal.SIGTERM, lambda number, frame: came.append(frame))
    if plain is not None:
        vars(utils)["set_sigterm_handler"] = lambda handler: None
    try:
        yield
    finally:
        if plain is not None:
            vars(utils)["set_sigterm_handler"] = plain
        signal.signal(signal.SIGTERM, handler)
    if came and callable(handler):
        handler(signal.SIGTERM, came[0])
    elif came:
        signal.raise_signal(signal.SIGTERM)


def _start(settings: Mapping[str, Any]) -> None:
    import ray

    for attempt in range(_ATTEMPTS):
        try:
            # The C++ core tells on stderr that it has been told to be quiet. What goes wrong is raised as well.
            with _silent_stderr():
                ray.init(logging_level=logging.ERROR, log_to_driver=False, **settings)
            return
        except Exception as error:
            # A machine that is busy with other things may not have it up within Ray's fixed half minute.
            if "timed out during startup" not in str(error) or attempt + 1 == _ATTEMPTS:
                raise
            ray.shutdown()


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(nowhere)
        os.close(kept)


def _quiet() -> None:
    from ray._private import worker
    from ray.data import DataContext

    # Ray prints what befell its workers on the standard output of this process, which belongs to results (`--json`).
    # `log_to_driver` leaves this on, and there is no public switch. What cannot be mended by a retry is raised as well.
    worker._worker_logs_enabled = False
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # Work begins when every worker is ready: else the first one up takes it all. Not in time: an error, not silence.
    context.wait_for_min_actors_s = 300
    logging.getLogger("ray.data").setLevel(logging.ERROR)
