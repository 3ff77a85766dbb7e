"""`python -m pipelines embed`: `ndd embed` on Ray; the same vectors, bit for bit."""

from __future__ import annotations

import argparse

from ndd.cli import add_embed_arguments, report_embedded
from ndd.vectors import embed_files
from pipelines.session import default_workers, ray_session
from pipelines.stages import RayRunner

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of `ndd embed`."""
    add_embed_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Write the embeddings of pictures; returns the exit code."""
    workers = arguments.workers or default_workers()
    with ray_session(workers=workers):
        embedded = embed_files(arguments.paths, arguments.out, RayRunner(workers=workers), model=arguments.model)
    return report_embedded(embedded, arguments)
