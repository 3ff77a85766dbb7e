"""Fetching by URL: what may be called, after names are looked up, on every hop. Servers are on loopback, names are stubs."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndd.errors import ConfigError
from serve.errors import ApiError
from serve.fetch import Fetcher, is_public
from serve.settings import UrlFetching


class Origin(BaseHTTPRequestHandler):
    """Answers by path and remembers who was asked for."""

    seen: list[tuple[str, str]]

    def do_GET(self) -> None:
        type(self).seen.append((self.headers["Host"], self.path))
        name = self.path.partition("?")[0]
        if name == "/to":
            self._say(302, b"", location=self.path.partition("?")[2])
        elif name == "/text":
            self._say(200, b"hello", kind="text/html")
        elif name == "/large":
            self._say(200, b"x" * 5000)
        elif name == "/zipped":
            self._say(200, b"x", encoding="gzip")
        elif name == "/slow":
            self.send_response(200)
            self.send_header("Content-Type", "image/png")
            self.end_headers()
            for _ in range(50):
                time.sleep(0.1)
                self.wfile.write(b"x")
        elif name == "/gone":
            self._say(404, b"", kind="image/png")
        else:
            self._say(200, b"picture")

    def _say(
        self, status: int, body: bytes, *, kind: str = "image/png", location: str = "", encoding: str = ""
    ) -> None:
        self.send_response(status)
        for header, value in (("Content-Type", kind), ("Location", location), ("Content-Encoding", encoding)):
            if value:
                self.send_header(header, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):
            super().handle()


@pytest.fixture
def origin() -> Iterator[ThreadingHTTPServer]:
    handler = type("Handler", (Origin,), {"seen": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def fetcher(
    port: int, names: dict[str, Sequence[Sequence[str]]], *, allow: tuple[str, ...] = ("127.0.0.1/32",)
) -> Fetcher:
    """names: what each look-up of a host gives, in turn; the last answer stays."""
    asked: dict[str, int] = {}

    async def resolve(host: str, _: int) -> Sequence[str]:
        answers = names.get(host, [[host]])
        at = asked.get(host, 0)
        asked[host] = at + 1
        return answers[min(at, len(answers) - 1)]

    settings = UrlFetching(enabled=True, schemes=("http",), ports=(port,), seconds=1.5, redirects=2, allow=allow)
    return Fetcher(settings, most=1000, resolve=resolve)


def refusal(fetch: Fetcher, url: str) -> ApiError:
    with pytest.raises(ApiError) as refused:
        asyncio.run(fetch(url))
    assert "127" not in refused.value.message  # nothing of the inside is told
    return refused.value


def test_a_picture_is_fetched_from_the_address_that_was_checked(origin: ThreadingHTTPServer) -> None:
    port = origin.server_port
    fetch = fetcher(port, {"pictures.example": [["127.0.0.1"], ["127.0.0.9"]]})
    assert asyncio.run(fetch(f"http://pictures.example:{port}/a.png?x=1#frag")) == b"picture"
    assert origin.RequestHandlerClass.seen == [(f"pictures.example:{port}", "/a.png?x=1")]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["10.0.0.1"],
        ["192.168.1.1"],
        ["169.254.169.254"],
        ["100.100.100.200"],
        ["0.0.0.0"],
        ["::1"],
        ["::ffff:127.0.0.1"],
        ["::ffff:a9fe:a9fe"],
        ["64:ff9b::7f00:1"],
        ["2002:7f00:1::"],
        ["fd00:ec2::254"],
        ["fe80::1"],
        ["168.63.129.16"],
        ["224.0.0.1"],
        ["93.184.216.34", "127.0.0.1"],
        [],
    ],
)
def test_addresses_inside_are_never_called(origin: ThreadingHTTPServer, addresses: list[str]) -> None:
    port = origin.server_port
    fetch = fetcher(port, {"evil.example": [addresses]}, allow=())
    assert refusal(fetch, f"http://evil.example:{port}/").code == "url_refused"
    assert origin.RequestHandlerClass.seen == []  # type: ignore[attr-defined]


def test_a_redirect_is_checked_like_the_first_address(origin: ThreadingHTTPServer) -> None:
    port = origin.server_port
    names = {"good.example": [["127.0.0.1"]], "inside.example": [["10.0.0.7"]]}
    fetch = fetcher(port, names)
    assert asyncio.run(fetch(f"http://good.example:{port}/to?/a.png")) == b"picture"
    for target in (
        f"http://inside.example:{port}/",
        f"http://169.254.169.254:{port}/",
        "http://good.example:22/",
        "file:///etc/passwd",
        "gopher://good.example/",
        f"//inside.example:{port}/",
    ):
        assert refusal(fetch, f"http://good.example:{port}/to?{target}").code == "url_refused"
    loop = f"http://good.example:{port}/to?/to?/to?/to?/to"
    assert "redirects too often" in refusal(fetch, loop).message


def test_a_name_that_changes_its_mind_gains_nothing(origin: ThreadingHTTPServer) -> None:
    port = origin.server_port
    fetch = fetcher(port, {"rebind.example": [["127.0.0.1"], ["169.254.169.254"]]})
    assert asyncio.run(fetch(f"http://rebind.example:{port}/a.png")) == b"picture"  # one look-up, one address
    assert refusal(fetch, f"http://rebind.example:{port}/a.png").code == "url_refused"


@pytest.mark.parametrize(
    ("path", "words"),
    [("/text", "content type"), ("/zipped", "compressed"), ("/gone", "answers with an error"), ("/slow", "too long")],
)
def test_answers_that_are_no_pictures(origin: ThreadingHTTPServer, path: str, words: str) -> None:
    port = origin.server_port
    assert words in refusal(fetcher(port, {}), f"http://127.0.0.1:{port}{path}").message


def test_a_large_answer_is_cut_off(origin: ThreadingHTTPServer) -> None:
    port = origin.server_port
    assert refusal(fetcher(port, {}), f"http://127.0.0.1:{port}/large").status == 413


@pytest.mark.parametrize(
    "url",
    [
        "http://user:pass@good.example/",
        "https://good.example/",
        "http://",
        "http:///a",
        "ftp://good.example/",
        "http://good.example\\@evil.example/",
        "http://good .example/",
        "http://[::1",
        "http://good.example:99999/",
        "javascript:alert(1)",
        "x" * 3000,
    ],
)
def test_what_is_no_address_of_a_picture(url: str) -> None:
    assert refusal(fetcher(80, {}), url).status == 422


@given(st.ip_addresses(v=4))
def test_an_address_hidden_in_another_is_judged_alike(address: object) -> None:
    number = int(address)  # type: ignore[call-overload]
    public = is_public(ip_address(number))
    assert is_public(ip_address((0xFFFF << 32) | number)) == public
    assert is_public(ip_address((0x64FF9B << 96) | number)) == public
    if not public:
        assert not is_public(ip_address((0x2002 << 112) | (number << 80)))


def test_networks_that_are_none_are_refused() -> None:
    with pytest.raises(ConfigError, match="urls.allow"):
        UrlFetching(allow=("10.0.0.0/33",))
