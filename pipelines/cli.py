"""`python -m pipelines COMMAND`: the work of `ndd` and more, on Ray.

Each command is a module with `add_arguments(parser)` and `run(arguments) -> int`, imported only when it is the one asked
for: `find --help` needs neither Ray nor MLflow. SIGTERM ends a command in good order with exit code 143.
"""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
import threading
from collections.abc import Sequence
from types import FrameType

from ndd.cli import guarded

__all__ = ["COMMANDS", "Stopped", "main"]

COMMANDS = {
    "find": "find the near-duplicates in folders of pictures",
    "embed": "write the embeddings of pictures to a Parquet file",
    "ingest": "list pictures with content ids and splits; pack them for training",
    "train": "train a model",
    "evaluate": "judge a model on an album with known truth: figures, pictures, one page",
    "retrain": "learn from what reviewers said, and promote the result if it is better",
    "promote": "make a challenger the champion, if it takes nothing away; or go back",
    "calibrate": "fit the probabilities of a model's scores",
    "export": "write the network of a model directory for the processor, in 8-bit integers",
    "glances": "learn what a glance makes of two pictures, from photographs",
    "words": "learn the vocabulary of visual words that comes with ndd",
    "bench": "measure a model on an album with known truth",
    "loop": "find, ask, learn, promote: the whole loop once, the truth of an album in the place of people",
    "demo": "find the near-duplicates in a small album made on the spot",
}
"""Command → what it does; the module is `pipelines.<command>`."""

_STOPPED = 128 + signal.SIGTERM


class Stopped(SystemExit):
    """SIGTERM has arrived; raised in the main thread. Exit code 143."""

    def __init__(self) -> None:
        super().__init__(_STOPPED)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    command = given[0] if given and given[0] in COMMANDS else None
    parser = argparse.ArgumentParser(prog="python -m pipelines", description="Near-duplicate detection on Ray.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, purpose in COMMANDS.items():
        sub = commands.add_parser(name, help=purpose)
        if name == command:
            importlib.import_module(f"pipelines.{name}").add_arguments(sub)
    arguments = parser.parse_args(given)
    told = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        """Leave every `with` block, once; a second signal does not disturb the first."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        told.set()
        raise Stopped

    before = signal.signal(signal.SIGTERM, stop)
    try:
        return guarded(lambda: _run(str(command), arguments, told), program="python -m pipelines")
    finally:
        signal.signal(signal.SIGTERM, before)


def _run(command: str, arguments: argparse.Namespace, told: threading.Event) -> int:
    try:
        code: int = importlib.import_module(f"pipelines.{command}").run(arguments)
    except SystemExit as stopped:
        # Not every one is ours. While Ray waits in its core it turns ours into one of its own with exit code 1, and its
        # own handler, in place for a moment while it starts, exits with the number of the signal.
        if not told.is_set() and stopped.code != signal.SIGTERM:
            raise
        print("stopped; run again to go on", file=sys.stderr)
        return _STOPPED
    return code
