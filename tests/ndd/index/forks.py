"""Children that write to an index and are killed, forked from one process that has imported everything.

python -m tests.ndd.index.forks      one JSON list a line in: the name of a task below and its arguments;
                                     out: what the task says, then ["died", status]
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from collections.abc import Callable
from typing import Any

from ndd.index.ann import Limits
from ndd.index.store import IndexStore, Settings
from tests.ndd.index.builders import entry

__all__ = ["SMALL"]

SMALL = Settings(
    limits=Limits(exact=30, scalar=60),
    log_bytes=30_000,
    frame_bytes=6_000,
    call_bytes=20_000,
    tail_bytes=40_000,
    waste_bytes=20_000,
)
"""Everything happens often."""


def say(*words: Any) -> None:
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


def mix(root: str, seed: int) -> None:
    """Write at random for ever; say what is begun and what was acknowledged."""
    moments = random.Random(seed)
    store = IndexStore.open(root, settings=SMALL)
    say("ready", os.getpid())
    while True:
        what = moments.choice(["add"] * 6 + ["replace"] * 2 + ["remove"] * 4 + ["snapshot", "compact"])
        ids = moments.sample([f"p{i}" for i in range(90)], moments.randint(1, 12))
        if what == "add":
            ids = [id for id in ids if id not in store]
        name = str(moments.random())
        say("begin", what, ids, name)
        if what in ("add", "replace"):
            store.add([entry(id, id + name, by=name) for id in ids], replace=what == "replace")
        elif what == "remove":
            store.remove(ids)
        else:
            getattr(store, what)()
        say("end")


def step(root: str, what: str, number: int) -> None:
    """Do one thing to the index, and die before the given call that changes the disk."""
    store = IndexStore.open(root)
    calls = 0

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    for name in ("fsync", "replace", "pwrite", "mkdir", "unlink", "ftruncate"):
        setattr(os, name, counted(getattr(os, name)))
    if what == "add":
        store.add([entry("c"), entry("d")])
    elif what == "remove":
        store.remove(["a", "b"])
    else:
        getattr(store, what)()


def main() -> None:
    tasks: dict[str, Callable[..., None]] = {"mix": mix, "step": step}
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        child = os.fork()
        if not child:
            tasks[name](*arguments)
            os._exit(0)
        say("died", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


if __name__ == "__main__":
    main()
