"""No room on the disk: reads are unaffected, each write is a clean 507, and it goes on when there is room again."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from ndd.data.decisions import DecisionStore
from ndd.data.queue import QueueStore
from ndd.home import home
from tests.serve.running import KEYS, Running, running

Pictures = Mapping[str, bytes]


@contextmanager
def no_larger_files(size: int) -> Iterator[None]:
    """Every write beyond this many bytes of a file fails in the kernel (EFBIG), as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def reads(server: Running, pictures: Pictures) -> dict[str, Any]:
    """What reading calls answer."""
    http, headers = server.http, {"Authorization": f"Bearer {KEYS['read']}"}
    pair = {"a": pictures["cat"], "b": pictures["coffee"]}
    line = b'{"image": {"base64": ""}}\n'
    return {
        "compare": server.post("/v1/compare", files=pair).json(),
        "query": server.post("/v1/query", files={"image": pictures["cat-jpeg"]}).json(),
        "get": http.get("/v1/images/cat", headers=headers).json(),
        "bytes": http.get("/v1/pictures/cat", headers=headers).content,
        "batch": server.post("/v1/batch", content=line, kind="application/x-ndjson").json(),
        "model": http.get("/v1/model", headers=headers).json()["digests"],
        "ready": http.get("/readyz").json(),
    }


def writes(server: Running, pictures: Pictures) -> dict[str, Callable[[], httpx.Response]]:
    """Every call that writes, by name."""
    headers = {"Authorization": f"Bearer {KEYS['write']}"}
    said = {"left": "cat", "right": "coffee", "verdict": "distinct", "time": "2026-01-02T03:04:05Z"}

    def put(name: str, id: str, **more: Any) -> httpx.Response:
        return server.post("/v1/images", files={"image": pictures[name]}, data={"id": id, **more})

    return {
        "a new picture": lambda: put("rocket", "rocket"),
        "a kept one under another id": lambda: put("cat", "again"),
        "another in its place": lambda: put("astronaut", "coffee", replace="true"),
        "removing": lambda: server.http.delete("/v1/images/cat", headers=headers),
        "a decision": lambda: server.post("/v1/decisions", json=said),
    }


# Not a byte more in any file, and room for files that are new but none for what is appended to the log of the index.
@pytest.mark.parametrize(("room", "refused"), [(0, 5), (None, 4)])
def test_without_room_reads_go_on_and_each_write_is_a_clean_507(
    server: Running, pictures: Pictures, room: int | None, refused: int
) -> None:
    for name in ("cat", "coffee"):
        assert server.post("/v1/images", files={"image": pictures[name]}, data={"id": name}).status_code == 201
    before = reads(server, pictures)
    calls = writes(server, pictures)
    (log,) = server.settings.index_path.glob("log-*")
    with no_larger_files(log.stat().st_size + 3 if room is None else room):
        for name in list(calls)[:refused]:
            for _ in range(2):
                answer = calls[name]()
                assert (answer.status_code, answer.json()["error"]["code"]) == (507, "storage_full"), name
            assert reads(server, pictures) == before
        assert len(DecisionStore(home().decisions).current()) == 0
    assert [answer().status_code for answer in reversed(calls.values())] == [201, 200, 200, 201, 201]
    found = server.post("/v1/query", files={"image": pictures["cat"]}).json()["matches"]
    assert sorted(match["id"] for match in found) == ["again", "coffee", "rocket"]


def test_pairs_for_review_that_cannot_be_kept_cost_no_answer(tmp_path: Path, model: Path, pictures: Pictures) -> None:
    """The queue is written behind the answers: with no room they are the same, and it is counted."""
    everything = {"review.rate": 1.0, "review.low": 0.0, "review.high": 1.0}
    files = {"a": pictures["cat"], "b": pictures["coffee"]}
    with running(tmp_path, model, everything) as server:
        with no_larger_files(0):
            refused = server.post("/v1/compare", files=files)
            end = time.monotonic() + 30
            while 'ndd_events_total{event="review_failed"} 1.0' not in server.http.get("/metrics").text:
                assert time.monotonic() < end
        assert refused.status_code == 200
        assert server.post("/v1/compare", files=files).json() == refused.json()
        queue = QueueStore(home().queue, decisions=DecisionStore(home().decisions))
        while not queue.waiting():
            assert time.monotonic() < end, "the pair was lost"
