"""What Ray costs in training: the same steps by a plain PyTorch loop and by Ray Train fed by Ray Data, block by block in turns.

A block is an epoch: the plain loop makes its views in a thread of its process; the Ray worker gets them from a stream of its
own, whose start is part of the block as it is part of every epoch. The processes live through all blocks, so what is
compared is the steady state; the time until the first step, once per run, is reported beside it. CPU seconds are those of
every process that works for a side (for Ray its daemons, tasks and this driver), which other work on the machine hardly
changes; wall time it does change, hence the turns and the medians.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from ndd.cores import cores
from ndd.data.pack import store_pack
from ndd.errors import StoreError
from ndd.training.config import TrainConfig
from ndd.training.plan import Batch, EpochPlan
from ndd.training.workers import Share
from ndd.types import ImageId, image_id
from pipelines.recipes import recipe
from pipelines.streams import PictureStore
from pipelines.train_data import stored_size

__all__ = ["CpuClock", "measure", "summary", "table"]

_PICTURES = 256
_PATIENCE = 900.0
"""Seconds that a side may take to start, or for a block."""

Batches = Callable[[EpochPlan], Generator[Batch, None, None]]


@dataclass(frozen=True, kw_only=True)
class Task:
    """What both sides do. work: directory by which they are told when; blocks: how many epochs of `config`."""

    config: TrainConfig
    store: PictureStore
    work: Path
    blocks: int
    threads: int


def measure(*, blocks: int = 10, steps: int = 12, size: int = 32, batch: int = 32) -> dict[str, Any]:
    """Time one Ray worker in turns with the plain loop, then two, for a third of the blocks.

    Blocks of `steps` steps of `batch` pairs of views. Small pictures and steps make much of what Ray costs.
    """
    # Of the recipe's run the part that lasts: the trunk at work, no teacher.
    stage = {"until": 1.0, "size": size, "batch": batch}
    network = {"loss.teacher": 0.0, "localization_epochs": 0, "model.image_size": size, "stages": [stage]}
    config = recipe("small").with_overrides({**network, "epochs": blocks, "examples": steps * batch, "holdout": 0.0})
    sides = {}
    with tempfile.TemporaryDirectory(prefix="ndd-bench-train-") as scratch:
        square = stored_size(config)
        store_pack(Path(scratch) / "pack", square, _blobs(_PICTURES, square), failures=[])
        store = PictureStore(path=Path(scratch) / "pack", size=square)
        for workers in (1, 2):
            work = Path(scratch) / f"{workers}"
            work.mkdir()
            # The plain loop may use what one worker may: a core for the network, another for the views.
            turns = blocks if workers == 1 else max(2, blocks // 3)
            task = Task(config=config, store=store, work=work, blocks=turns, threads=max(1, cores() // 2))
            sides[workers] = _in_turns(task, workers)
    facts = {
        "cores": cores(),
        "load": os.getloadavg()[0],
        "blocks": blocks,
        "steps": steps,
        "size": size,
        "batch": batch,
    }
    return {"setting": facts, **summary(sides, images=2 * steps * batch)}


def summary(sides: Mapping[int, Mapping[str, Any]], *, images: int) -> dict[str, Any]:
    """Medians over the blocks. sides: number of workers → plain, ray (a list of blocks each: wall, cpu, first), start_up.

    images: views per block. A ratio is that of one block to the block of the plain loop beside it; 1 is as good as plain.
    """
    found: dict[str, Any] = {}
    for workers, said in sides.items():
        plain, on_ray = said["plain"], said["ray"]
        ratios = {name: [p[name] / r[name] for p, r in zip(plain, on_ray, strict=True)] for name in ("wall", "cpu")}
        found[f"workers_{workers}"] = {
            "wall_ratio": statistics.median(ratios["wall"]),
            "wall_ratio_range": [min(ratios["wall"]), max(ratios["wall"])],
            "cpu_ratio": statistics.median(ratios["cpu"]),
            "cpu_ratio_range": [min(ratios["cpu"]), max(ratios["cpu"])],
            "images_per_second": images / statistics.median(b["wall"] for b in on_ray),
            "plain_images_per_second": images / statistics.median(b["wall"] for b in plain),
            "cpu_seconds_per_image": statistics.median(b["cpu"] for b in on_ray) / images,
            "plain_cpu_seconds_per_image": statistics.median(b["cpu"] for b in plain) / images,
            "first_batch_seconds": statistics.median(b["first"] for b in on_ray),
            "start_up_seconds": said["start_up"],
        }
    one, two = found["workers_1"], found["workers_2"]
    found["two_over_one"] = two["wall_ratio"] / one["wall_ratio"]
    found["met"] = {"cpu": one["cpu_ratio"] >= 0.95, "wall": one["wall_ratio"] >= 0.90}
    return found


def table(figures: Mapping[str, Any]) -> str:
    """The figures for people."""
    lines = ["workers  plain/Ray wall  plain/Ray CPU  images/s (plain)  first batch  start-up (plain)"]
    for workers in (1, 2):
        f = figures[f"workers_{workers}"]
        lines.append(
            f"{workers:7}  {f['wall_ratio']:14.3f}  {f['cpu_ratio']:13.3f}  {f['images_per_second']:8.1f} "
            f"({f['plain_images_per_second']:5.1f})  {f['first_batch_seconds']:9.2f} s  {f['start_up_seconds']['ray']:6.1f} s "
            f"({f['start_up_seconds']['plain']:.1f} s)"
        )
    lines.append(f"two workers over one, wall: {figures['two_over_one']:.2f}")
    return "\n".join(lines)


def _in_turns(task: Task, workers: int) -> dict[str, Any]:
    """Start both sides, let them do their blocks one after the other."""
    plain = multiprocessing.get_context("spawn").Process(target=_plain, args=(task,), daemon=True)
    begun = time.monotonic()
    plain.start()
    try:
        start_up = {"plain": _wait_for(task.work / "plain-ready", lambda: plain.is_alive()) - begun}
        with _ray_side(task, workers, without=plain.pid or 0) as (alive, ray_begun):
            start_up["ray"] = _wait_for(task.work / "ray-ready", alive) - ray_begun
            found: dict[str, list[Any]] = {"plain": [], "ray": []}
            for block in range(task.blocks):
                # Which side goes first changes from block to block: what drifts favours neither.
                for side in ("plain", "ray") if block % 2 else ("ray", "plain"):
                    (task.work / f"{side}-{block}.go").touch()
                    told = task.work / f"{side}-{block}.json"
                    _wait_for(told, alive if side == "ray" else plain.is_alive)
                    found[side].append(json.loads(told.read_text()))
    finally:
        plain.join(timeout=30)
        if plain.is_alive():
            plain.kill()
    return {**found, "start_up": start_up}


def _run_blocks(
    task: Task, side: str, batches: Batches, *, share: Share, clock: Callable[[], CpuClock], wrap: bool
) -> None:
    """What a side does: as the epochs of a run, each begun when it is told to."""
    import torch

    from ndd.training.plan import plan_epoch
    from ndd.training.step import distribute, make_state, train_step
    from ndd.training.workers import mean_over_workers

    torch.set_num_threads(max(1, task.threads // share.workers))
    state = make_state(task.config)
    if wrap:
        distribute(state)
    rows = np.arange(_PICTURES)
    for block in range(-1, task.blocks):  # the first is not counted: caches fill, workers start
        if block >= 0:
            _wait_for(task.work / f"{side}-{block}.go", lambda: True)
        plan = plan_epoch(task.config, rows, epoch=max(block, 0))
        count = plan.steps if block >= 0 else 4
        first = 0.0
        cpu = clock()
        wall = time.monotonic()
        with closing(batches(plan)) as source:
            for step in range(count):
                batch = next(source)
                first = first or time.monotonic() - wall
                figures = train_step(state, batch, progress=(block + step / count) / task.blocks, epoch=max(block, 0))
                mean_over_workers(figures)
        spent = {"wall": time.monotonic() - wall, "cpu": cpu.spent(), "first": first}
        if share.first:
            _put(task.work / (f"{side}-{block}.json" if block >= 0 else f"{side}-ready"), json.dumps(spent))


def _plain(task: Task) -> None:
    from ndd.training.local import batches_of

    batches = batches_of(task.store.open(), device="cpu")
    me = os.getpid()
    _run_blocks(task, "plain", lambda plan: batches(plan, 0), share=Share(), clock=lambda: CpuClock(me), wrap=False)


def _ray_worker(settings: dict[str, Any]) -> None:
    import ray.train
    from ray.data import DataContext

    from pipelines.streams import batches_from

    task: Task = settings["task"]
    context = ray.train.get_context()
    share = Share(rank=context.get_world_rank(), workers=context.get_world_size())
    DataContext.get_current().enable_progress_bars = False

    def batches(plan: EpochPlan) -> Generator[Batch, None, None]:
        return batches_from(plan, task.store, share=share, cpus=settings["cpus"])

    def clock() -> CpuClock:
        return CpuClock(settings["driver"], without=settings["without"])

    _run_blocks(task, "ray", batches, share=share, clock=clock, wrap=share.workers > 1)


@contextmanager
def _ray_side(task: Task, workers: int, *, without: int) -> Iterator[tuple[Callable[[], bool], float]]:
    """Ray Train at work: a function that says whether it still is, and when its start began (Ray itself is up by then)."""
    from pipelines.session import ray_session, share_of_cpu

    begun = time.monotonic()
    with ray_session(workers=workers):
        import ray
        from ray.train import RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "300")
        cpus = share_of_cpu(workers)
        left = float(ray.cluster_resources().get("CPU", 1.0)) / workers - cpus
        settings = {"task": task, "cpus": round(0.99 * min(1.0, left), 3), "driver": os.getpid(), "without": without}
        trainer = TorchTrainer(
            _ray_worker,
            train_loop_config=settings,
            torch_config=TorchConfig(backend="gloo"),
            scaling_config=ScalingConfig(num_workers=workers, resources_per_worker={"CPU": cpus}),
            run_config=RunConfig(name="bench", storage_path=str(task.work / "ray")),
        )
        thread = threading.Thread(target=trainer.fit, name="ndd-bench-fit", daemon=True)
        thread.start()
        yield thread.is_alive, begun
        thread.join(timeout=60)


class CpuClock:
    """CPU seconds of a process and its descendants since a moment ago, less the tree of `without`.

    A process that began in between counts from its beginning; what one used that ended in between is lost (Ray ends idle
    workers), so a difference of sums over whoever is alive could even be negative.
    """

    def __init__(self, root: int, *, without: int = 0) -> None:
        self._root, self._without = root, without
        self._before = self._used()

    def spent(self) -> float:
        """Since the clock was made."""
        return sum(used - self._before.get(process, 0.0) for process, used in self._used().items())

    def _used(self) -> dict[tuple[int, float], float]:
        apart = {process.pid for process in _tree(self._without)} if self._without else set()
        found = {}
        for process in _tree(self._root):
            with suppress(psutil.Error):
                times = process.cpu_times()
                if process.pid not in apart:
                    found[process.pid, process.create_time()] = float(times.user + times.system)
        return found


def _tree(root: int) -> list[psutil.Process]:
    with suppress(psutil.Error):
        return [psutil.Process(root), *psutil.Process(root).children(recursive=True)]
    return []


def _wait_for(path: Path, alive: Callable[[], bool]) -> float:
    """When the file appeared. StoreError if whoever writes it is gone, or takes too long."""
    end = time.monotonic() + _PATIENCE
    while not path.exists():
        if time.monotonic() > end or not (alive() or path.exists()):
            raise StoreError(
                f"{path.name} did not come: that side of the comparison ended or hangs; see its error above"
            )
        time.sleep(0.02)
    return time.monotonic()


def _put(path: Path, text: str) -> None:
    temporary = path.with_suffix(".part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _blobs(count: int, size: int) -> Iterator[tuple[ImageId, str, NDArray[np.uint8]]]:
    """Smooth random pictures: what is in them costs the same."""
    import cv2

    rng = np.random.default_rng(0)
    for number in range(count):
        rough = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        picture = np.asarray(cv2.resize(rough, (size, size), interpolation=cv2.INTER_CUBIC), np.uint8)
        yield image_id(picture.tobytes()), f"{number:04}", picture
