"""`python -m pipelines find`: `ndd find` on Ray, with the same steps, hence the same pairs and groups."""

from __future__ import annotations

import argparse

from ndd.cli import add_find_arguments, report_found, request_of
from ndd.find import find
from pipelines.session import default_workers, ray_session
from pipelines.stages import RayRunner

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of `ndd find`."""
    add_find_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Find near-duplicates; returns the exit code."""
    workers = arguments.workers or default_workers()
    request = request_of(arguments, workers=workers)
    with ray_session(workers=workers):
        found = find(request, RayRunner(workers=workers))
    return report_found(found, arguments)
