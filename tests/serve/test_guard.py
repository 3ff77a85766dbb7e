"""Bodies that are too large, too slow, cut or hostile; keys that are wrong; what is logged."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.auth import KeyRing, load_keys, make_key, new_secret, save_keys
from serve.logs import JsonLines
from serve.rates import Rates
from tests.serve.running import KEYS, Running, running

Pictures = Mapping[str, bytes]


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[Running]:
    """A server with small limits."""
    limits = {
        "limits.body_bytes": 300_000,
        "limits.batch_bytes": 900_000,
        "limits.batch_items": 3,
        "limits.image_bytes": 200_000,
        "limits.pixels": 1_000_000,
        "limits.receive_seconds": 1.0,
        "limits.receive_rate": 1 << 20,
    }
    with running(tmp_path_factory.mktemp("strict"), model, {**limits, "review.rate": 0}) as started:
        yield started


def raw(server: Running, head: str, *parts: bytes, pause: float = 0.0) -> bytes:
    """Send bytes as they are and read until the server closes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(head.replace("\n", "\r\n").encode())
        try:
            for part in parts:
                connection.sendall(part)
                time.sleep(pause)
        except ConnectionError:
            pass
        answer = b""
        try:
            while part := connection.recv(65536):
                answer += part
        except ConnectionError:
            pass
        return answer


HEAD = f"POST /v1/compare HTTP/1.1\nHost: x\nAuthorization: Bearer {KEYS['read']}\nContent-Type: application/json\n"


def test_a_body_that_is_declared_too_large_is_refused_at_once(strict: Running) -> None:
    answer = raw(strict, HEAD + "Content-Length: 10000000\n\n", b"{")
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"too_large" in answer


def test_a_body_that_turns_out_too_large_is_refused_while_it_arrives(strict: Running) -> None:
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    answer = raw(strict, HEAD + "Transfer-Encoding: chunked\n\n", *[chunk] * 40)
    assert answer.startswith(b"HTTP/1.1 413")


def test_a_slow_body_is_closed(strict: Running) -> None:
    start = time.monotonic()
    answer = raw(strict, HEAD + "Content-Length: 1000\n\n", *[b" "] * 12, pause=0.25)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"connection: close" in answer
    assert time.monotonic() - start < 15


def test_a_slow_sender_keeps_nobody_waiting(strict: Running) -> None:
    connections = [socket.create_connection(("127.0.0.1", strict.port)) for _ in range(50)]
    for connection in connections:
        connection.sendall((HEAD + "Content-Length: 1000\n\n").replace("\n", "\r\n").encode())
    assert strict.http.get("/healthz", timeout=5).status_code == 200
    for connection in connections:
        connection.close()


def test_a_picture_or_a_batch_beyond_the_limits(strict: Running, pictures: Pictures) -> None:
    large = strict.post("/v1/compare", files={"a": b"x" * 250_000, "b": b""})
    assert (large.status_code, large.json()["error"]["code"]) == (413, "too_large")
    line = json.dumps({"image": {"base64": ""}}).encode()
    answer = strict.post("/v1/batch", content=b"\n".join([line] * 5), kind="application/x-ndjson")
    assert [json.loads(text)["status"] for text in answer.text.splitlines()] == [422, 422, 422, 413]
    answer = strict.post("/v1/batch", content=b" " * 400_000, kind="application/x-ndjson")
    assert json.loads(answer.text)["status"] == 413


def test_a_bomb_is_refused_before_it_is_decoded(strict: Running) -> None:
    bomb = b"P6\n60000 60000\n255\n" + b"\0" * 1000
    answer = strict.post("/v1/compare", files={"a": bomb, "b": bomb})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "unreadable_picture")


def test_pictures_cut_anywhere_are_clean_errors_or_answers(shared: Running, pictures: Pictures) -> None:
    whole = pictures["cat-jpeg"]
    for cut in range(0, len(whole), max(1, len(whole) // 12)):
        answer = shared.post("/v1/compare", files={"a": whole[:cut], "b": whole})
        assert answer.status_code in (200, 422)


@settings(max_examples=60)
@given(
    body=st.binary(max_size=300),
    kind=st.sampled_from(
        [
            "application/json",
            "multipart/form-data; boundary=x",
            "multipart/form-data",
            "application/x-ndjson",
            "text/plain",
        ]
    ),
    path=st.sampled_from(["compare", "query", "batch", "images", "decisions"]),
)
def test_no_body_breaks_the_server(shared: Running, body: bytes, kind: str, path: str) -> None:
    for content in (body, b'--x\r\nContent-Disposition: form-data; name="a"; filename="a"\r\n\r\n' + body):
        answer = shared.post(f"/v1/{path}", content=content, kind=kind)
        assert answer.status_code < 500
        assert answer.status_code >= 400 or path == "batch"


def test_keys_and_scopes(shared: Running, pictures: Pictures) -> None:
    files = {"image": pictures["cat"]}
    assert shared.post("/v1/images", scope="read", files=files, data={"id": "x"}).status_code == 403
    for authorization in (
        "",
        "Bearer",
        f"Basic {KEYS['read']}",
        f"Bearer {KEYS['read']}x",
        "Bearer \xff\xfe",
    ):
        headers = {"Authorization": authorization.encode("latin-1")}
        answer = shared.http.post("/v1/compare", headers=headers, content=b"x" * 10_000)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "no_key")
        assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.slow
def test_ten_thousand_wrong_keys(shared: Running) -> None:
    statuses = []

    def guess(part: int) -> None:
        with httpx.Client(base_url=shared.url, trust_env=False) as http:
            for at in range(2500):
                headers = {"Authorization": f"Bearer {part}-{at}-{new_secret()}"}
                statuses.append(http.get("/v1/model", headers=headers).status_code)

    threads = [threading.Thread(target=guess, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(statuses) == 10_000 and set(statuses) == {401}
    assert shared.http.get("/v1/model", headers={"Authorization": f"Bearer {KEYS['read']}"}).status_code == 200


def test_a_key_that_calls_too_often_is_told_when_to_come_back(tmp_path: Path, model: Path) -> None:
    slow = {"limits.requests_per_second": 0.01, "limits.burst": 3}
    with running(tmp_path, model, slow) as server:
        statuses = [server.http.get("/v1/model", headers={"Authorization": f"Bearer {KEYS['read']}"}) for _ in range(5)]
        assert [answer.status_code for answer in statuses] == [200, 200, 200, 429, 429]
        assert 50 <= int(statuses[-1].headers["Retry-After"]) <= 100
        other = server.http.get("/v1/model", headers={"Authorization": f"Bearer {KEYS['write']}"})
        assert other.status_code == 200


def test_the_bucket_fills_at_its_rate() -> None:
    now = [0.0]
    rates = Rates(rate=2.0, burst=2, clock=lambda: now[0])
    assert [rates.wait("a") for _ in range(3)] == [0, 0, 1]
    now[0] = 0.5
    assert [rates.wait("a") for _ in range(2)] == [0, 1]
    now[0] = 100.0
    assert [rates.wait("a") for _ in range(3)] == [0, 0, 1]


def test_keys_at_rest_are_hashes_and_a_new_one_counts_at_once(tmp_path: Path) -> None:
    path, secret = tmp_path / "keys" / "keys.json", new_secret()
    ring = KeyRing([], path=path)
    assert ring.find(secret) is None
    save_keys(path, [make_key(secret, name="team", scopes=("write",))])
    assert secret not in path.read_text()
    assert path.stat().st_mode & 0o077 == 0
    found = ring.find(secret)
    assert found is not None
    assert [found.may(scope) for scope in ("read", "write", "admin")] == [True, True, False]
    assert ring.find(secret[:-1]) is None
    assert load_keys(path) == [found]
    save_keys(path, [])
    assert ring.find(secret) is None


def test_logs_have_ids_and_no_pictures(shared: Running, pictures: Pictures, caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("ndd.serve")
    logger.propagate, before = False, logger.propagate
    logger.addHandler(caplog.handler)
    caplog.set_level(logging.INFO, logger="ndd.serve")
    try:
        headers = {"Authorization": f"Bearer {KEYS['read']}", "X-Request-Id": "mine-1"}
        shared.http.post("/v1/compare", headers=headers, files={"a": pictures["cat"], "b": pictures["cat"]})
        shared.http.post("/v1/compare", headers={**headers, "X-Request-Id": "bad id\t!"}, content=b"{")
    finally:
        logger.removeHandler(caplog.handler)
        logger.propagate = before
    lines = [json.loads(JsonLines().format(record)) for record in caplog.records if record.getMessage() == "request"]
    assert [(line["route"], line["status"], line["key"]) for line in lines] == [
        ("/v1/compare", 200, "read"),
        ("/v1/compare", 415, "read"),
    ]
    assert lines[0]["request_id"] == "mine-1" and lines[1]["request_id"] != "bad id\t!"
    assert all(len(json.dumps(line)) < 500 and KEYS["read"] not in json.dumps(line) for line in lines)
