"""A second look: pairs that the nearest neighbours of single pictures do not show, but the groups ask for."""

from __future__ import annotations

import numpy as np

from ndd.stages.group import completing
from ndd.stages.match import merge
from ndd.stages.task import SearchTask
from ndd.stages.work import Counts, put_candidates

__all__ = ["complete"]


def complete(task: SearchTask) -> Counts:
    """Add the pairs that would tell linked groups apart or make them one to the candidates. Counts as `collect`."""
    album = task.album()
    table = task.read_candidates()
    known = np.stack([table.column(name).to_numpy() for name in ("left", "right")], axis=1).astype(np.int64)
    return put_candidates(task, album, merge(np.concatenate([known, completing(task, album)])))
