"""`python -m pipelines export`: the network of a model directory for the processor, in `runtime/` beside the weights."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ndd.config import DecodeLimits
from ndd.errors import NothingReadable

__all__ = ["add_arguments", "canvases", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("pictures", nargs="+", metavar="PATH", help="photographs to calibrate with: folders or files")
    parser.add_argument("--model", required=True, metavar="DIR", help="model directory to write runtime/ into")
    parser.add_argument("--precision", choices=("int8", "fp32"), default="int8", help="of the backbone (int8)")


def run(arguments: argparse.Namespace) -> int:
    """Write it and say how near it is to the reference; returns the exit code."""
    from ndd.model.directory import describe
    from ndd.model.export import export

    size = describe(arguments.model, engine="torch").config.image_size
    runtime = export(arguments.model, canvases(arguments.pictures, size=size), precision=arguments.precision)
    near = runtime.agreement
    sys.stdout.write(
        f"{runtime.directory}: {runtime.engine}, {runtime.precision}; cosine to the reference {near['mean']:.4f} on "
        f"average, {near['least']:.4f} at least, over {near['pictures']:.0f} pictures\n"
    )
    return 0


def canvases(paths: list[str], *, size: int) -> NDArray[np.uint8]:
    """Up to MOST readable pictures below `paths` as the model sees them (N, size, size, 3), spread over the listing."""
    from ndd.data.scan import scan
    from ndd.model.export import MOST

    sources, _ = scan(paths)
    step = max(1, len(sources) // MOST)
    found = list(_readable([Path(source.uri) for source in sources[::step][:MOST]], size))
    if not found:
        raise NothingReadable(f"{', '.join(paths)}: no picture there that can be read; name a folder with photographs")
    return np.stack(found)


def _readable(paths: list[Path], size: int) -> Iterator[NDArray[np.uint8]]:
    from ndd.stages.decode import Decoder, Reading

    decoder = Decoder(DecodeLimits(), size=size)
    for path in paths:
        reading = decoder.attempt(path.name, str(path))
        if isinstance(reading, Reading):
            yield reading.canvas
