from __future__ import annotations

import os
from pathlib import Path

import pytest

from ndd import cores as module
from ndd.cores import cores, quota
from ndd.local import LocalRunner


def system(root: Path, group: str, **files: str) -> Path:
    """A root with /proc/self/cgroup and the files of control groups, `__` in a name for `/` and `_at_` for the dot."""
    (root / "proc" / "self").mkdir(parents=True)
    (root / "proc" / "self" / "cgroup").write_text(group)
    for name, content in files.items():
        path = root / "sys" / "fs" / "cgroup" / name.replace("__", "/").replace("_at_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


V1 = {"cpu_at_cfs_quota_us": "50000\n", "cpu_at_cfs_period_us": "100000\n"}


@pytest.mark.parametrize(
    ("group", "files", "wanted"),
    [
        pytest.param("0::/\n", {"cpu_at_max": "250000 100000\n"}, 2.5, id="a container of two cores and a half"),
        pytest.param(
            "0::/pods/one\n",
            {"cpu_at_max": "max 100000\n", "pods__cpu_at_max": "150000 50000\n", "pods__one__cpu_at_max": "8 1\n"},
            3.0,
            id="the narrowest of nested groups",
        ),
        pytest.param(
            "0::/docker/4f6c\n", {"cpu_at_max": "100000 100000\n"}, 1.0, id="known to the host by another path"
        ),
        pytest.param(
            "5:memory:/job\n2:cpu,cpuacct:/job\n",
            {f"cpu,cpuacct__job__{name}": text for name, text in V1.items()}
            # Less, and not of the processor: whoever reads it answers .01.
            | {f"memory__job__{name}": text for name, text in zip(V1, ("1000\n", "100000\n"), strict=True)},
            0.5,
            id="the first version",
        ),
        pytest.param(
            "2:cpuacct,cpu:/docker/4f6c\n",
            {f"cpu__{name}": text for name, text in V1.items()},
            0.5,
            id="the first version, mounted under one of its names",
        ),
        pytest.param(
            "2:cpuacct,cpu:/docker/4f6c\n",
            {f"cpuacct,cpu__{name}": text for name, text in V1.items()},
            0.5,
            id="the first version, its names in another order",
        ),
    ],
)
def test_what_a_container_may_use(tmp_path: Path, group: str, files: dict[str, str], wanted: float) -> None:
    assert quota(system(tmp_path, group, **files)) == wanted


@pytest.mark.parametrize("content", ["max 100000\n", "-1 100000\n", "", "two cores\n", "100000 0\n"])
def test_nothing_that_limits(tmp_path: Path, content: str) -> None:
    assert quota(system(tmp_path, "0::/\n", cpu_at_max=content)) is None


def test_no_control_groups(tmp_path: Path) -> None:
    assert quota(tmp_path) is None


@pytest.mark.parametrize(("paid", "wanted"), [(None, 8), (64.0, 8), (2.5, 3), (0.2, 1)])
def test_threads_for_what_is_paid(monkeypatch: pytest.MonkeyPatch, paid: float | None, wanted: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(module, "quota", lambda: paid)
    assert cores() == wanted
    assert LocalRunner().workers == wanted


def test_a_system_that_does_not_tell_what_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 10)
    monkeypatch.setattr(module, "quota", lambda: None)
    assert cores() == 10
