"""How many cores this process may use: what the system lets it run on, and what a container's quota pays for.

`os.cpu_count` tells of the machine. A container that may use two cores of sixty-four is otherwise given sixty-four threads,
which the kernel then stops for most of every tenth of a second.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["cores", "quota"]


def cores() -> int:
    """At least 1. Half a core more is one core more: a thread that is stopped for half of its time is worth having."""
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows have no such call
        allowed = os.cpu_count() or 1
    paid = quota()
    return allowed if paid is None else max(1, min(allowed, math.ceil(paid)))


def quota(root: Path = Path("/")) -> float | None:
    """Processor seconds per second that the control groups of this process may use; None where nothing limits them.

    root: where `proc` and `sys` lie. Of nested groups the narrowest counts. Both versions of the interface are read (Linux's
    cgroup-v2.rst, `cpu.max`; sched-bwc.rst, `cpu.cfs_quota_us`); what cannot be read limits nothing.
    """
    limits = [limit for directory in _groups(root) if (limit := _limit(directory)) is not None]
    return min(limits, default=None)


def _groups(root: Path) -> Iterator[Path]:
    """The directories of this process's control groups for processor time, and those around them."""
    for line in _text(root / "proc" / "self" / "cgroup").splitlines():
        # "0::/a/b" is version 2; "1:cpu,cpuacct:/a/b" is version 1, whose hierarchy is named for its controllers.
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        # Mounted under the names of its controllers, in whatever order, or linked to from one of them.
        for name in {controllers, "cpu"} if controllers else {""}:
            top = root / "sys" / "fs" / "cgroup" / name
            here = top / path.lstrip("/")
            # Inside a container the group is often mounted as the top, under whatever path the host knows it by.
            yield from {top, here, *(parent for parent in here.parents if parent.is_relative_to(top))}


def _limit(group: Path) -> float | None:
    """Of one group alone."""
    quota_us, _, period_us = _text(group / "cpu.max").strip().partition(" ")
    if not quota_us:
        quota_us, period_us = (_text(group / name).strip() for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us"))
    try:
        share = int(quota_us) / int(period_us)
    except (ValueError, ZeroDivisionError):  # "max", or nothing to read
        return None
    return share if share > 0 else None  # -1: unlimited


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
