"""`ndd embed` or `ndd find` against fastdup over the same folder, in turns, so that they meet the same load.

Start-up and decoding are included.

Pictures of about 500×375, JPEG: reserve pictures enlarged, since those of the data folder are small. Both run as a user
runs them, in a process of their own. Wall time and processor time of the whole process tree are reported; on a machine with
other work the ratio of processor time is the one to trust.
"""

from __future__ import annotations

import io
import itertools
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ndd.cores import cores
from ndd.errors import NddError, UsageError
from ndd.model.directory import describe, resolve
from pipelines import bench_peers
from pipelines.album import read_tar

__all__ = ["EMBED", "FIND", "IMAGES", "measure", "photographs", "table", "timed"]

IMAGES, WIDTH, HEIGHT = 3000, 500, 375
EMBED = {"ndd embed": ("embed", "--out", "v.parquet")}
FIND = {"ndd find": ("find", "--out", "run"), "without keypoints": ("find", "--out", "run", "--verify", "none")}
"""Name → arguments of `ndd`, run in a folder of its own, to which the pictures and the model are added."""

_NDD = "import sys; from ndd.cli import main; sys.exit(main(sys.argv[1:]))"


def photographs(tar: Path, out: Path, *, images: int = IMAGES) -> Path:
    """`images` JPEG files of about 500×375 in the folder `out`, written once; their aspect ratios are kept."""
    if out.is_dir() and len(list(out.iterdir())) == images:
        return out
    shutil.rmtree(out, ignore_errors=True)
    part = out.with_name(f".{out.name}.{os.getpid()}")
    part.mkdir(parents=True)
    written = 0
    for photo in itertools.islice(read_tar(tar), images):
        with Image.open(io.BytesIO(photo.content)) as image:
            factor = (WIDTH * HEIGHT / (image.width * image.height)) ** 0.5
            size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
            larger = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
        larger.save(part / f"{photo.name}.jpg", "JPEG", quality=88)
        written += 1
    if written != images:
        shutil.rmtree(part)
        raise UsageError(f"{tar}: holds {written} pictures, {images} were asked for; say --images {written}")
    part.rename(out)
    return out


def measure(
    folder: Path,
    *,
    model: Path | None,
    rounds: int = 3,
    peer: bool = True,
    commands: Mapping[str, Sequence[str]] = EMBED,
) -> dict[str, Any]:
    """Seconds of each tool over the pictures of `folder`, `rounds` times in turns. Raises PeerMissing, UsageError."""
    if rounds < 1:
        raise UsageError(f"--rounds must be at least 1, got {rounds}")
    pictures = sorted(folder.iterdir())
    said = describe(resolve(model))
    tools: dict[str, Callable[[], None]] = {
        name: partial(_ndd, arguments, folder, said.directory) for name, arguments in commands.items()
    }
    if peer:
        bench_peers.interpreter(wanted="fastdup")
        tools["fastdup"] = lambda: _discard(bench_peers.fastdup(pictures))
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in tools}
    for _ in range(rounds):
        for name, run in tools.items():
            spent[name].append(timed(run))
    runtime = "torch, fp32" if said.runtime is None else f"{said.runtime.engine}, {said.runtime.precision}"
    figures: dict[str, Any] = {
        "images": len(pictures),
        "cores": cores(),
        "model": {"image_size": said.config.image_size, "backbone": said.config.backbone, "runtime": runtime},
        "tools": {},
    }
    for name, rows in spent.items():
        wall, cpu = (float(np.median(column)) for column in zip(*rows, strict=True))
        figures["tools"][name] = {"wall": wall, "cpu": cpu, "rate": len(pictures) / wall, "rounds": rows}
    if peer:
        theirs = figures["tools"]["fastdup"]
        figures["times_as_fast"] = {
            name: {of: theirs[of] / figures["tools"][name][of] for of in ("wall", "cpu")} for name in commands
        }
    return figures


def _ndd(arguments: Sequence[str], folder: Path, model: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="ndd-bench-") as scratch:
        command = [sys.executable, "-c", _NDD, *arguments, str(folder.resolve()), "--model", str(model.resolve())]
        done = subprocess.run(command, capture_output=True, text=True, cwd=scratch)
    if done.returncode != 0:
        raise NddError(f"ndd {arguments[0]} {folder}: exit code {done.returncode}: {done.stderr.strip()[-300:]}")


def _discard(found: bench_peers.Neighbours) -> None:
    if not len(found.score):
        raise NddError("peer failed: fastdup reported no pair at all; look at its own log")


def timed(run: Callable[[], None]) -> tuple[float, float]:
    """(wall, processor) seconds, the processes that `run` has started and waited for included."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    run()
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def table(figures: Mapping[str, Any]) -> str:
    """The figures for people."""
    return "\n".join(_lines(figures))


def _lines(figures: Mapping[str, Any]) -> Iterator[str]:
    model = figures["model"]
    yield (
        f"{figures['images']} pictures, {figures['cores']} cores; ndd: {model['backbone']} at {model['image_size']} pixels, "
        f"{model['runtime']}"
    )
    yield f"{'':<18}{'wall s':>9}{'cpu s':>9}{'images/s':>10}"
    for name, of in figures["tools"].items():
        yield f"{name:<18}{of['wall']:>9.1f}{of['cpu']:>9.1f}{of['rate']:>10.1f}"
    for name, times in figures.get("times_as_fast", {}).items():
        yield f"{name}: {times['wall']:.2f} times as fast in wall time, {times['cpu']:.2f} times in processor time"
