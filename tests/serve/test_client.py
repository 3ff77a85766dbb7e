"""The client against servers that lose requests."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from serve.client import Client, Refused, Unreachable

OURS = {"error": {"code": "internal", "message": "no"}, "request_id": "r"}


class Flaky(BaseHTTPRequestHandler):
    """Plays a script: an answer for each request in turn, "cut" for none at all; then 200."""

    script: list[Any]
    bodies: list[bytes]

    def do_POST(self) -> None:
        type(self).bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        step = type(self).script.pop(0) if type(self).script else (200, {"recorded": True}, {})
        if step == "cut":
            self.connection.shutdown(2)
            self.close_connection = True
            return
        status, body, headers = step
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def flaky() -> Iterator[tuple[Client, Any]]:
    handler: Any = type("Handler", (Flaky,), {"script": [], "bodies": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    with Client(f"http://127.0.0.1:{server.server_port}", key="k", attempts=4) as client:
        yield client, handler
    server.shutdown()
    thread.join()
    server.server_close()


def test_lost_requests_are_sent_again_as_they_were(flaky: tuple[Client, Any]) -> None:
    client, handler = flaky
    handler.script[:] = ["cut", (500, b"Internal Server Error", {}), (503, OURS, {"Retry-After": "0"})]
    assert client.decide("a", "b", verdict="distinct") == {"recorded": True}
    assert len(handler.bodies) == 4
    assert len(set(handler.bodies)) == 1  # its time too, so that it is recorded once


@pytest.mark.parametrize("status", [400, 401, 404, 409, 413, 422, 507])
def test_what_the_server_means_is_not_asked_again(flaky: tuple[Client, Any], status: int) -> None:
    client, handler = flaky
    handler.script[:] = [(status, OURS, {})]
    with pytest.raises(Refused) as refused:
        client.decide("a", "b", verdict="distinct")
    assert (refused.value.status, refused.value.code, refused.value.request_id) == (status, "internal", "r")
    assert len(handler.bodies) == 1


def test_an_error_of_the_application_is_its_last_word(flaky: tuple[Client, Any]) -> None:
    client, handler = flaky
    handler.script[:] = [(500, OURS, {})]
    with pytest.raises(Refused):
        client.decide("a", "b", verdict="distinct")
    assert len(handler.bodies) == 1


def test_it_gives_up(flaky: tuple[Client, Any]) -> None:
    client, handler = flaky
    handler.script[:] = ["cut"] * 9
    with pytest.raises(Unreachable):
        client.decide("a", "b", verdict="distinct")
    assert len(handler.bodies) == 4


def test_the_client_needs_neither_ray_nor_torch() -> None:
    code = "import sys, serve.client; print(sorted({'ray', 'torch', 'numpy', 'fastapi'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"
