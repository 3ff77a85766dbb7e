"""Processes beside this one, for work that holds Python's lock: threads can only take turns at it.

A `Helper` is another Python that reads pickled messages from its standard input and answers on its standard output: first a
kind of work and its task, then one batch after another. It ends when its input does, so it cannot outlive whoever started
it. `multiprocessing` would import the user's main module in each process, which starts a script without a guard anew.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

__all__ = ["Helper", "HelperLost", "main"]

_START = "import sys; sys.path[:] = {path!r}; from ndd.processes import main; main()"
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class HelperLost(RuntimeError):
    """The process is gone; what it was asked for has to be done by another."""


class Helper:
    """One such process. Not for two threads at once."""

    def __init__(self) -> None:
        """Raises OSError where no process can be started."""
        environment = dict.fromkeys(_THREADS, "1") | dict(os.environ)
        command = [sys.executable, "-c", _START.format(path=sys.path)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, bufsize=-1
        )

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def take(self, work: Callable[[Any], Any], task: Any) -> None:
        """Have `work(task)` made there for the batches to come; both must be picklable. Raises HelperLost."""
        self._send((work, task))

    def __call__(self, batch: Mapping[str, Any]) -> Any:
        """What the work answers to a batch. Raises what it raised, or HelperLost."""
        self._send(batch)
        assert self._process.stdout is not None
        try:
            good, answer = pickle.load(self._process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            raise HelperLost(f"process {self.pid}: {error!r}") from error
        if not good:
            raise answer
        return answer

    def close(self) -> None:
        """End it; it is waited for."""
        try:
            with contextlib.suppress(OSError):  # what it did not read is lost with it
                self._process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()

    def _send(self, message: object) -> None:
        assert self._process.stdin is not None
        try:
            pickle.dump(message, self._process.stdin)
            self._process.stdin.flush()
        except (OSError, ValueError) as error:
            raise HelperLost(f"process {self.pid}: {error!r}") from error


def main() -> None:
    """What the process does. Ctrl-C reaches it as well and is left to whoever started it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Whatever prints here must not get between the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    import cv2

    cv2.setNumThreads(1)
    serve(sys.stdin.buffer, answers)


def serve(messages: BinaryIO, answers: BinaryIO) -> None:
    """Answer every batch among the messages, until they end."""
    do: Callable[[Any], Any] | None = None
    failed: BaseException | None = None
    while True:
        try:
            message = pickle.load(messages)
        except EOFError:
            return
        if isinstance(message, tuple):
            work, task = message
            try:
                do, failed = work(task), None
            except Exception as error:
                failed = error
            continue
        answer: tuple[bool, Any]
        try:
            if failed is not None:
                raise failed
            assert do is not None
            answer = True, do(message)
        except Exception as error:
            answer = False, _portable(error)
        pickle.dump(answer, answers)
        answers.flush()


def _portable(error: Exception) -> Exception:
    """The error with its traceback as a note, or one that says the same where it cannot be pickled."""
    error.add_note("".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
