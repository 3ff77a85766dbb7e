"""What the training benchmark makes of its blocks: ratios of neighbours, medians, and a verdict that can be no."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from pipelines.bench_train import CpuClock, summary, table


def block(wall: float, cpu: float, first: float = 0.5) -> dict[str, float]:
    return {"wall": wall, "cpu": cpu, "first": first}


def sides(one: list[tuple[float, float]], two: list[tuple[float, float]]) -> dict[int, Any]:
    plain = [block(10.0, 16.0), block(20.0, 16.0), block(10.0, 16.0)]
    return {
        workers: {"plain": plain, "ray": [block(*b) for b in blocks], "start_up": {"plain": 3.0, "ray": 20.0}}
        for workers, blocks in ((1, one), (2, two))
    }


def test_ratios_are_of_neighbours_and_medians_of_them() -> None:
    found = summary(sides([(10, 16), (25, 20), (12.5, 32)], [(5, 16), (10, 16), (5, 16)]), images=480)
    one, two = found["workers_1"], found["workers_2"]
    assert one["wall_ratio"] == pytest.approx(0.8)
    assert one["wall_ratio_range"] == pytest.approx([0.8, 1.0])
    assert one["cpu_ratio"] == pytest.approx(0.8)
    assert two["wall_ratio"] == pytest.approx(2.0)
    assert found["two_over_one"] == pytest.approx(2.5)
    assert one["images_per_second"] == pytest.approx(480 / 12.5)
    assert one["cpu_seconds_per_image"] == pytest.approx(20 / 480)
    assert found["met"] == {"cpu": False, "wall": False}
    assert summary(sides([(11, 16.5)] * 3, [(10, 16)] * 3), images=1)["met"] == {"cpu": True, "wall": True}
    assert "0.800" in table(found)


def test_cpu_of_a_tree_is_that_of_its_descendants_less_one() -> None:
    burn = "import time\nwhile time.process_time() < 0.7: pass\nprint(1, flush=True)\ninput()"
    clock = CpuClock(os.getpid())
    with subprocess.Popen([sys.executable, "-c", burn], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        apart = CpuClock(os.getpid(), without=child.pid)
        child.stdout.readline()
        whole, mine = clock.spent(), apart.spent()
        assert whole > 0.65
        assert mine < whole - 0.6
        child.communicate(b"\n")
    assert clock.spent() >= 0.0  # the child has ended, and takes back nothing
