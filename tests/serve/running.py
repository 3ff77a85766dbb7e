"""The application on loopback without Ray: what a replica runs, under plain uvicorn, in a thread of the test."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import uvicorn
from numpy.typing import NDArray

from serve.api import application
from serve.auth import KeyRing, make_key
from serve.client import Client
from serve.service import Service
from serve.settings import Settings

__all__ = ["KEYS", "Running", "encoded", "running"]

KEYS = {scope: f"key-for-tests-{scope}-0123456789" for scope in ("read", "write", "admin")}


@dataclass(frozen=True, kw_only=True)
class Running:
    """A server that answers at `url`."""

    url: str
    port: int
    service: Service
    settings: Settings
    http: httpx.Client = field(repr=False)

    def client(self, scope: str = "admin", **options: Any) -> Client:
        """A client with the key of that scope."""
        return Client(self.url, key=KEYS[scope], **options)

    def post(self, path: str, *, scope: str = "admin", kind: str | None = None, **body: Any) -> httpx.Response:
        """One request, as it is. kind: its content type."""
        headers = {"Authorization": f"Bearer {KEYS[scope]}", **({"Content-Type": kind} if kind else {})}
        return self.http.post(path, headers=headers, **body)


@contextlib.contextmanager
def running(folder: Path, model: Path, settings: Mapping[str, Any] | None = None) -> Iterator[Running]:
    """Serve with an index below `folder`, for the length of the block."""
    chosen = Settings.of({"model": str(model), "index": str(folder / "index"), "threads": 2, **(settings or {})})
    service = Service(chosen)
    ring = KeyRing([make_key(secret, name=scope, scopes=(scope,)) for scope, secret in KEYS.items()])
    app = application(service, settings=chosen, keys=ring)
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="on", access_log=False, ws="none"))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        until = time.monotonic() + 30
        while not server.started:
            assert thread.is_alive() and time.monotonic() < until, "the server did not start"
            time.sleep(0.01)
        url = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as http:
            yield Running(url=url, port=port, service=service, settings=chosen, http=http)
    finally:
        server.should_exit = True
        thread.join(timeout=30)
        listening.close()
        assert not thread.is_alive(), "the server did not end"


def encoded(pixels: NDArray[np.uint8], suffix: str = ".png") -> bytes:
    """The bytes of a picture file."""
    return cv2.imencode(suffix, np.ascontiguousarray(pixels[:, :, ::-1]))[1].tobytes()
