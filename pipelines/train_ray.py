"""Training on Ray Train: the same loop and the same step, by several workers that survive one another's death.

Checkpoints are the run directory's own (state.pt, written by the first worker), not Ray's: both engines read the same file, so
a run may change engine, and it goes on between two steps instead of at the last epoch. On several machines the run
directory, and what `--data` names, must therefore be on storage that all of them see.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import threading
import time
import uuid
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ndd.errors import NddError, StoreError, UsageError
from ndd.training.config import TrainConfig
from ndd.training.plan import Batch, EpochPlan
from pipelines.session import ray_session, share_of_cpu
from pipelines.train_data import TrainData

__all__ = ["RayTask", "train_on_ray"]

_STOP = "stop"
_GRACE = 30.0
"""Seconds that workers have to end the step and save, once asked to stop."""
_MOST_TASKS = 8
"""Tasks of one worker's stream at a time."""


@dataclass(frozen=True, kw_only=True)
class Streaming:
    """What one worker's stream may take. cpus: logical CPUs of a task. tasks: how many at a time."""

    cpus: float
    tasks: int


@dataclass(frozen=True, kw_only=True, eq=False)
class RayTask:
    """Everything a worker needs, as plain data. threads: of torch, in each worker.

    streaming: None if a thread of the worker makes its views.
    """

    config: TrainConfig
    data: TrainData
    run: Path
    teacher: Path | None
    init: Path | None
    threads: int
    streaming: Streaming | None
    save_seconds: float


def train_on_ray(
    make_task: Callable[[Streaming], RayTask],
    *,
    workers: int,
    device: str,
    max_failures: int,
    stopped: threading.Event,
    progress: Callable[[dict[str, Any]], None],
) -> str:
    """Run until the end, or until `stopped` is set; the run's state.pt says how far it got. Returns the kind of device.

    make_task: gives the task, once it is known what the cluster leaves for streams. progress: called in this process with
    each epoch of the run's history, those of earlier calls included.
    Raises NddError with the workers' last words if they failed more than `max_failures` times.
    """
    with ray_session(workers=workers):
        import ray

        cpus = share_of_cpu(workers)
        total = float(ray.cluster_resources().get("CPU", 1.0))
        gpu = _wants_gpu(device, workers)
        # What the workers leave over, for their streams: see share_of_cpu on what happens when nothing is left.
        left = (total - cpus * workers) / workers
        tasks = max(1, min(_MOST_TASKS, int(left)))
        task = make_task(Streaming(cpus=round(0.99 * min(1.0, left / tasks), 3), tasks=tasks))
        (task.run / _STOP).unlink(missing_ok=True)
        _fit(task, workers, cpus, gpu, max_failures, stopped, progress)
        return "cuda" if gpu else "cpu"


def _wants_gpu(device: str, workers: int) -> bool:
    import ray

    there = ray.cluster_resources().get("GPU", 0)
    if device == "cuda" and there < workers:
        raise UsageError(
            f"--device cuda: {workers} workers want a GPU each and Ray has {there:g}; use --workers or cpu"
        )
    if device == "auto" and 0 < there < workers:
        raise UsageError(f"{workers} workers, but Ray has {there:g} GPU: give --workers {there:g}, or --device cpu")
    return device != "cpu" and there >= workers


def _fit(
    task: RayTask,
    workers: int,
    cpus: float,
    gpu: bool,
    max_failures: int,
    stopped: threading.Event,
    progress: Callable[[dict[str, Any]], None],
) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    logging.getLogger("ray.train").setLevel(logging.ERROR)
    # Its minute is short for a busy machine: every worker imports torch first.
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "300")
    resources = {"CPU": cpus} | ({"GPU": 1.0} if gpu else {})
    books = task.run / "ray"
    run_config: dict[str, Any] = {  # a type checker sees the class of Ray's older version
        "name": uuid.uuid4().hex,
        "storage_path": str(books),
        "failure_config": FailureConfig(max_failures=max_failures),
        "worker_runtime_env": {"env_vars": _worker_environment()},
    }
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"task": task},
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpu, resources_per_worker=resources),
        run_config=RunConfig(**run_config),
    )
    box: list[Any] = []

    def fit() -> None:
        try:
            box.append(trainer.fit())
        except BaseException as error:  # handed to the thread that waits
            box.append(error)

    # A thread of its own: `fit` would take the signal handlers of the main one.
    thread = threading.Thread(target=fit, name="ndd-fit", daemon=True)
    thread.start()
    _wait(thread, task.run, stopped, progress)
    shutil.rmtree(books, ignore_errors=True)
    if box and isinstance(box[0], BaseException):
        raise _reason(box[0])


def _worker_environment() -> dict[str, str]:
    """A private Ray listens on loopback, and so do its workers' talks; elsewhere gloo chooses by the host's name."""
    import ray

    node = ray.util.get_node_ip_address()
    return {"GLOO_SOCKET_IFNAME": "lo"} if node == "127.0.0.1" and sys.platform == "linux" else {}


def _wait(
    thread: threading.Thread, run: Path, stopped: threading.Event, progress: Callable[[dict[str, Any]], None]
) -> None:
    told, deadline = 0, None
    while thread.is_alive():
        thread.join(timeout=0.5)
        told = _tell(run, told, progress)
        if stopped.is_set() and deadline is None:
            (run / _STOP).touch()
            deadline = time.monotonic() + _GRACE
        if deadline is not None and time.monotonic() > deadline:
            return
    _tell(run, told, progress)


def _tell(run: Path, told: int, progress: Callable[[dict[str, Any]], None]) -> int:
    """Report the epochs that were added to the history; it is written whole or not at all."""
    path = run / "history.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    for line in lines[told:]:
        progress(json.loads(line))
    return len(lines)


def _reason(error: BaseException) -> BaseException:
    """The first worker's own error, in one line."""
    causes = getattr(error, "worker_failures", None)
    if not causes:
        return error
    first = next(iter(causes.values()))
    cause = getattr(first, "_base_exc", first)
    if isinstance(cause, NddError):
        return cause
    text = str(cause).strip().splitlines()
    return StoreError(
        f"the training workers failed too often ({type(cause).__name__}: {text[-1] if text else 'no message'}); "
        "the same command goes on from the last checkpoint"
    )


def train_worker(settings: dict[str, Any]) -> None:
    """What each worker runs: Ray Train has set up the process group."""
    import ray.train
    import torch
    from ray.data import DataContext
    from ray.train.torch import get_device

    from ndd.training.local import batches_of
    from ndd.training.loop import run_epochs, start_state
    from ndd.training.prototypes import load_prototypes
    from ndd.training.step import distribute
    from ndd.training.workers import Share
    from pipelines.streams import batches_from

    task: RayTask = settings["task"]
    context = ray.train.get_context()
    share = Share(rank=context.get_world_rank(), workers=context.get_world_size())
    torch.set_num_threads(task.threads)
    DataContext.get_current().enable_progress_bars = False
    if not task.run.is_dir():
        raise StoreError(f"{task.run}: a worker cannot see the run directory; put it on storage that all nodes share")
    device = str(get_device())
    prototypes = (
        None
        if task.teacher is None
        else load_prototypes(task.teacher, pictures=task.data.pictures, dim=task.config.model.dim)
    )
    state = start_state(task.config, task.run, device=device, prototypes=prototypes, init=task.init)
    if share.workers > 1:
        distribute(state)
    pictures = task.data.store.open()

    def batches(plan: EpochPlan, first: int) -> Generator[Batch, None, None]:
        if task.streaming is None:
            return batches_of(pictures, device=device, share=share)(plan, first)
        room = task.streaming
        return batches_from(
            plan, task.data.store, share=share, first=first, device=device, cpus=room.cpus, tasks=room.tasks
        )

    run_epochs(
        state,
        pictures,
        task.data.split,
        task.run,
        batches=batches,
        decided=task.data.decided,
        share=share,
        log=lambda summary: ray.train.report(dict(summary)),
        save_seconds=task.save_seconds,
        stop=(task.run / _STOP).exists if share.first else None,
    )
