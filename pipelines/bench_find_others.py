"""What stands beside the search in `bench find`: other methods' rankings of the same album, and what fastdup costs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ndd.metrics.retrieval import ScoreRows, evaluate_groups
from pipelines import bench_peers
from pipelines.accuracy import figures_of
from pipelines.album import Album
from pipelines.album_copies import relabelled
from pipelines.bench_embed import timed
from pipelines.bench_methods import rankings

__all__ = ["OTHERS", "beside"]

OTHERS = ("pdq", "phash", "mobilenetv2", "fastdup")
"""Unless others are named."""


def beside(album: Album, others: Sequence[str], *, data: Path | None, work: Path) -> dict[str, Any]:
    """Method → its `ranking`, and `relabelled`: with the copies that the album does not list; of fastdup also what it
    costs, run anew. data: the data folder, for those that want it; work: keeps what takes long (not fastdup's run)."""
    truths = {"ranking": album, "relabelled": relabelled(album)}
    found: dict[str, Any] = {}
    for name in others:
        cost: dict[str, float] = {}
        if name == bench_peers.FASTDUP:
            rows, cost = _fastdup(album)
        else:
            ((_, (rows, _)),) = rankings(album, [name], model=None, data=data, work=work)
        judged = {
            key: figures_of(album, evaluate_groups(rows, [row.group for row in of.images]))
            for key, of in truths.items()
        }
        found[name] = {**cost, **judged}
    return found


def _fastdup(album: Album) -> tuple[ScoreRows, dict[str, float]]:
    reported: list[bench_peers.Neighbours] = []
    paths = [album.root / row.image for row in album.images]
    wall, cpu = timed(lambda: reported.append(bench_peers.fastdup(paths)))
    rows = bench_peers.neighbour_rows(reported[0], len(paths))
    return rows, {"wall_seconds": round(wall, 2), "cpu_seconds": round(cpu, 2)}
