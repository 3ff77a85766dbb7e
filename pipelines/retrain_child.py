"""A command that works for a retraining: heard while it runs, ended with it, and covered by its lock."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

from ndd.errors import StoreError

__all__ = ["run_child"]

_PATIENCE = 120.0
"""Seconds that a stopped training has to write down where it was."""


def run_child(command: Sequence[str], lock: int) -> None:
    """Run a command that says on stderr what it does; StoreError with its last line if it fails, ended if we are.

    lock: stays open in it, should we be killed outright.
    """
    last = ""
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, pass_fds=(lock,)
    ) as child:
        try:
            assert child.stderr is not None
            for line in child.stderr:
                sys.stderr.write(line)
                last = line.strip() or last
            code = child.wait()
        except BaseException:
            child.terminate()
            try:
                child.communicate(timeout=_PATIENCE)  # reads on: a full pipe would keep it from ending
            except subprocess.TimeoutExpired:
                child.kill()
            raise
    if code != 0:
        raise StoreError(f"{' '.join(command[2:4])} ended with exit code {code}: {last}; the same command goes on")
