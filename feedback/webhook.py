"""Receives Label Studio's webhooks: a knock on the door, no more.

A request counts only with the secret in its header, compared in constant time, and even then its body is not believed: it
says which tasks to look at, and these are read again through the API. Label Studio waits a second at most and does not try
again, so the answer is given at once, the work done by one thread, and everything fetched every so often all the same.
"""

from __future__ import annotations

import hmac
import queue
import secrets
import threading
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import FastAPI, Header, HTTPException, Request

from feedback.desk import Desk
from feedback.labelstudio import Server
from feedback.pull import pull
from ndd.errors import NddError
from ndd.files import atomic_path, make_directory

__all__ = ["HEADER", "Fetcher", "application", "secret_of", "tasks_of"]

HEADER = "X-NDD-Secret"
_BODY = 1 << 20
"""Most bytes of a request that are read."""
_TASKS = 1000
"""Most tasks of one request that are looked at one by one; more, and everything is."""


def secret_of(desk: Desk) -> str:
    """This home's secret, made at its first use; readable by its owner alone."""
    path = desk.root / "webhook-secret"
    if not path.is_file():
        make_directory(desk.root)
        with atomic_path(path) as temporary:
            temporary.touch(mode=0o600)
            temporary.write_text(secrets.token_urlsafe(32), encoding="ascii")
    return path.read_text(encoding="ascii").strip()


class Fetcher:
    """Fetches answers in one thread: of tasks as they are named, and of all every `every` seconds."""

    def __init__(self, desk: Desk, server: Server, *, every: float, say: Callable[[str], None]) -> None:
        self._desk, self._server, self._every, self._say = desk, server, every, say
        self._named: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="fetch answers", daemon=True)

    def __enter__(self) -> Fetcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._named.put(None)
        self._thread.join()

    def look_at(self, tasks: list[int]) -> None:
        """Fetch the answers of these tasks soon; of all if there are too many, or none (deletions name no task)."""
        for task in tasks if 0 < len(tasks) <= _TASKS else [None]:
            self._named.put(task)

    def _work(self) -> None:
        while not self._stop.is_set():
            named = self._next()
            if self._stop.is_set():
                return
            try:
                pulled = pull(self._desk, self._server, tasks=None if None in named else [n for n in named if n])
            except NddError as error:  # asked again by the next look at everything
                self._say(f"{error}; trying again")
                continue
            if pulled.answers or pulled.withdrawn:
                self._say(f"{pulled.answers} answers, {pulled.withdrawn} withdrawn")

    def _next(self) -> set[int | None]:
        """What to look at now: all that has been named since, or None for everything."""
        try:
            named = {self._named.get(timeout=self._every)}
        except queue.Empty:
            return {None}
        while not self._named.empty():
            named.add(self._named.get())
        return named


def application(secret: str, *, look_at: Callable[[list[int]], None]) -> FastAPI:
    """The receiver: POST /events."""
    app = FastAPI(title="ndd feedback", docs_url=None, redoc_url=None, openapi_url=None)

    @app.post("/events", status_code=202)
    async def events(request: Request, given: Annotated[str, Header(alias=HEADER)] = "") -> dict[str, int]:
        if not hmac.compare_digest(given.encode("latin-1"), secret.encode()):
            raise HTTPException(401, "wrong or missing secret")
        tasks = tasks_of(await _json(request))
        look_at(tasks)
        return {"tasks": len(tasks)}

    return app


def tasks_of(event: Any) -> list[int]:
    """Numbers of the tasks an event names, whatever else it holds."""
    if not isinstance(event, dict):
        return []
    found: list[Any] = []
    task, annotation = event.get("task"), event.get("annotation")
    if isinstance(task, dict):
        found.append(task.get("id"))
    for item in (
        [annotation, *(event.get("annotations") or [])] if isinstance(event.get("annotations"), list) else [annotation]
    ):
        if isinstance(item, dict):
            found.append(item.get("task"))
    return sorted(
        {number for number in found if isinstance(number, int) and not isinstance(number, bool) and number > 0}
    )


async def _json(request: Request) -> Any:
    import json

    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > _BODY:
            raise HTTPException(413, "too large for an event")
    try:
        return json.loads(body)
    except ValueError:
        raise HTTPException(400, "not JSON") from None
