"""Processes beside this one, for work that holds Python's lock: threads can only take turns at it.

A `Helper` is another Python that reads pickled messages from its standard input and answers on its standard output: first a
kind of work and its task, then one batch after another. It ends as soon as its input does, in the middle of a batch if need
be, so it cannot outlive whoever started it. `multiprocessing` would import the user's main module in each process, which
starts a script without a guard anew.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from queue import SimpleQueue
from typing import Any, BinaryIO

__all__ = ["Helper", "HelperLost", "main"]

_START = "import sys; sys.path[:] = {path!r}; from ndd.processes import main; main()"
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class HelperLost(RuntimeError):
    """The process is gone, or cannot be understood; what it was asked for has to be done by another."""


class Helper:
    """One such process. Not for two threads at once."""

    def __init__(self) -> None:
        """Raises OSError where no process can be started."""
        if not sys.executable or getattr(sys, "frozen", False):
            raise OSError(f"no Python to start: sys.executable is {sys.executable!r}")
        environment = dict.fromkeys(_THREADS, "1") | dict(os.environ)
        command = [sys.executable, "-c", _START.format(path=sys.path)]
        self._owner = os.getpid()
        # In a group of its own: Ctrl-C is for whoever started it.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if _is_open(2) else subprocess.DEVNULL,
            env=environment,
            process_group=0,
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
        except Exception as error:  # gone, or out of step
            raise HelperLost(f"process {self.pid}: {error!r}") from error
        if not good:
            raise answer
        return answer

    def close(self) -> None:
        """End it; it is waited for. In a fork of the process that started it: nothing."""
        if self._owner != os.getpid():
            return
        try:
            with contextlib.suppress(OSError):  # what it did not read is lost with it
                self._process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()

    def _send(self, message: object) -> None:
        assert self._process.stdin is not None
        whole = pickle.dumps(message)  # before anything is written: half a message would be read with the next
        try:
            self._process.stdin.write(whole)
            self._process.stdin.flush()
        except (OSError, ValueError) as error:
            raise HelperLost(f"process {self.pid}: {error!r}") from error


def main() -> None:
    """What the process does."""
    # Whatever prints here must not get between the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    import cv2

    cv2.setNumThreads(1)
    messages: SimpleQueue[Any] = SimpleQueue()
    threading.Thread(target=_read, args=(sys.stdin.buffer, messages), daemon=True).start()
    with contextlib.suppress(BrokenPipeError):
        serve(messages, answers)


def _read(source: BinaryIO, messages: SimpleQueue[Any]) -> None:
    """Pass the messages on; with their end, or half a message, the process ends: nobody waits for what it does."""
    while True:
        try:
            message = pickle.load(source)
        except (EOFError, OSError, pickle.UnpicklingError):
            os._exit(0)
        except Exception as error:  # of another version, or not to be imported here: the answer to what comes next
            message = (_raises, error)
        messages.put(message)


def serve(messages: SimpleQueue[Any], answers: BinaryIO) -> None:
    """Answer every batch among the messages, for ever."""
    do: Callable[[Any], Any] | None = None
    failed: Exception | None = None
    while True:
        message = messages.get()
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
        answers.write(pickle.dumps(answer))
        answers.flush()


def _raises(error: Exception) -> Any:
    raise error


def _portable(error: Exception) -> Exception:
    """The error with its traceback as a note, or one that says the same where it cannot be pickled."""
    error.add_note("".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True
