"""The server as `make serve` starts it: on Ray Serve, behind its proxy, two replicas, killed, reloaded, replaced."""

from __future__ import annotations

import collections
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import httpx
import psutil
import pytest

from ndd.detector import Detector
from ndd.types import image_id
from serve.client import Client, Refused
from tests.integration.serve_process import KEY, ROOT, Served, served
from tests.samples import photographs, small_model
from tests.serve.running import encoded

pytestmark = pytest.mark.slow

Pictures = Mapping[str, bytes]


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    return {name: encoded(pixels) for name, pixels in photographs().items()}


@pytest.fixture(scope="module")
def champion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("ray") / "champion")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, champion: Path) -> Iterator[tuple[Served, Path]]:
    """Two replicas on one index, and their $NDD_HOME."""
    home = tmp_path_factory.mktemp("two") / "home"
    shutil.copytree(champion, home / "champion")
    with served(home, ["replicas=2", "watch_seconds=0.2", "review.rate=0"]) as running:
        yield running, home


def until(true: Callable[[], bool], *, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.1)


class Load:
    """Clients that compare and query for as long as the block lasts; what they saw, lost requests apart."""

    def __init__(self, served: Served, pictures: Pictures, *, clients: int = 4, attempts: int = 8) -> None:
        self._served, self._pictures, self._attempts = served, pictures, attempts
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]
        self.answers: collections.Counter[str] = collections.Counter()

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        until(lambda: self.answers["ok"] >= 8)
        return self

    def __exit__(self, *exc: object) -> None:
        seen = self.answers["ok"]
        until(lambda: self.answers["ok"] >= seen + 8 or exc[0] is not None)
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        with Client(self._served.url, key=KEY, attempts=self._attempts) as client:
            while not self._ended.is_set():
                try:
                    assert client.compare(self._pictures["cat"], self._pictures["cat"]).duplicate
                    client.query(self._pictures["coffee"], k=2)
                    self.answers["ok"] += 1
                except Exception as error:
                    self.answers[f"{type(error).__name__}: {error}"[:200]] += 1


def test_it_answers_like_the_command_line(pair: tuple[Served, Path], pictures: Pictures, tmp_path: Path) -> None:
    running, home = pair
    for name in ("cat", "coffee"):
        (tmp_path / name).write_bytes(pictures[name])
    command = [sys.executable, "-m", "ndd.cli", "compare", str(tmp_path / "cat"), str(tmp_path / "coffee"), "--json"]
    code = "import sys; from ndd.cli import main; sys.exit(main(sys.argv[1:]))"
    command[1:3] = ["-c", code]
    env = {**os.environ, "NDD_HOME": str(home)}
    printed = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True).stdout
    headers = {"Authorization": f"Bearer {KEY}", "X-Request-Id": "mine"}
    files = {"a": pictures["cat"], "b": pictures["coffee"]}
    answer = httpx.post(f"{running.url}/v1/compare", headers=headers, files=files, trust_env=False, timeout=60)
    assert answer.json() == json.loads(printed)
    assert answer.headers.get_list("x-request-id") == ["mine"]


def test_it_listens_on_loopback_alone(pair: tuple[Served, Path]) -> None:
    running, _ = pair
    family = [psutil.Process(running.process.pid), *psutil.Process(running.process.pid).children(recursive=True)]
    listening = [c.laddr.ip for p in family for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    assert listening
    assert set(listening) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def test_what_was_acknowledged_is_seen_on_every_replica(pair: tuple[Served, Path], pictures: Pictures) -> None:
    running, _ = pair
    assert len(running.replicas()) == 2

    def get(id: str) -> int:
        headers = {"Authorization": f"Bearer {KEY}"}  # a connection of its own: any replica may answer
        return httpx.get(f"{running.url}/v1/images/{id}", headers=headers, trust_env=False, timeout=60).status_code

    with running.client() as client:
        for at in range(10):
            client.add(pictures["cat"], id=f"seen-{at}")
            assert [get(f"seen-{at}") for _ in range(6)] == [200] * 6
            client.remove(f"seen-{at}")
            assert [get(f"seen-{at}") for _ in range(6)] == [404] * 6


def test_numbers_say_whose_they_are(pair: tuple[Served, Path], pictures: Pictures) -> None:
    """A scrape reaches one of the replicas; what it counted must not be taken for what the other did."""
    running, _ = pair
    seen: dict[str, list[float]] = {}

    def scrape() -> bool:
        text = httpx.get(f"{running.url}/metrics", trust_env=False, timeout=60).text
        for labels, count in re.findall(r"^ndd_requests_total{(.*)} (\S+)$", text, re.MULTILINE):
            if 'route="/metrics"' in labels:
                seen.setdefault(re.findall(r'replica="(.+?)"', labels)[0], []).append(float(count))
        return len(seen) == 2 and all(len(counts) > 3 for counts in seen.values())

    until(scrape)
    assert all(counts == sorted(counts) for counts in seen.values())


def test_a_killed_replica_costs_nothing_that_the_client_does_not_make_good(
    pair: tuple[Served, Path], pictures: Pictures
) -> None:
    running, _ = pair
    with running.client() as client:
        client.add(pictures["rocket"], id="kept")
    with Load(running, pictures) as load:
        victim = running.replicas()[0]
        victim.kill()
        until(lambda: victim.pid not in [p.pid for p in running.replicas()] and len(running.replicas()) == 2)
    assert set(load.answers) == {"ok"}
    with running.client() as client:
        assert client.get("kept")["image_id"] == image_id(pictures["rocket"])


def test_a_promoted_model_costs_no_request_at_all(
    pair: tuple[Served, Path], pictures: Pictures, champion: Path
) -> None:
    running, home = pair
    recalibrated = shutil.copytree(champion, home / "next")
    table = {**Detector(champion).scorer.calibration, "bias": -20.0}
    (recalibrated / "calibration.json").write_text(json.dumps(table))
    wanted = Detector(recalibrated).model.scorer_digest
    with Load(running, pictures, attempts=1) as load, running.client() as client:
        os.rename(home / "champion", home / "before")
        os.rename(recalibrated, home / "champion")
        until(lambda: {client.model()["digests"]["scorer"] for _ in range(8)} == {wanted})
    assert set(load.answers) == {"ok"}


def redeploy(running: Served, setting: str, *, times: int) -> None:
    """Deploy anew with a setting, for the `times`-th time; returns when every replica is a new one."""
    before = {process.pid for process in running.replicas()}
    assert running.process.stdin is not None
    running.process.stdin.write(f"{setting}\n".encode())
    running.process.stdin.flush()

    def replaced() -> bool:
        now = {process.pid for process in running.replicas()}
        return running.log.read_text().count("deployed") == times and len(now) == 2 and not now & before

    until(replaced)


def test_a_rolling_redeploy_costs_no_request_at_all(tmp_path: Path, champion: Path, pictures: Pictures) -> None:
    """Every replica is replaced by one with other settings, twice, under load that repeats nothing."""
    settings = [f"model={champion}", "replicas=2", "review.rate=0"]
    program = ("-m", "tests.integration.serve_again")
    with served(tmp_path / "home", settings, program=program) as running, running.client() as client:
        client.add(pictures["rocket"], id="kept")
        with Load(running, pictures, attempts=1) as load:
            redeploy(running, "limits.k=3", times=1)
            redeploy(running, "limits.k=2", times=2)
        assert set(load.answers) == {"ok"}
        with pytest.raises(Refused, match="at most 2 matches"):
            client.query(pictures["rocket"], k=3)
        assert client.query(pictures["rocket"], k=2).matches[0].id == "kept"


def test_slow_senders_are_closed_and_others_served(pair: tuple[Served, Path]) -> None:
    running, _ = pair
    body = f"POST /v1/compare HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Type: application/json\r\n"
    heads = (b"GET /healthz HTT", b"", body.encode() + b"Content-Length: 100\r\n\r\n")
    connections = [socket.create_connection(("127.0.0.1", running.port)) for _ in range(30)]
    ended: list[bool] = []

    def trickle(connection: socket.socket, head: bytes) -> None:
        end, start = time.monotonic() + 30, time.monotonic()
        connection.settimeout(1.0)
        try:
            connection.sendall(head)
            while time.monotonic() < end:
                if head:
                    connection.sendall(b" " if time.monotonic() - start > 1 else b"")
                try:
                    if not connection.recv(4096):
                        break
                except TimeoutError:
                    continue
        except ConnectionError:
            pass
        ended.append(time.monotonic() < end)
        connection.close()

    threads = [threading.Thread(target=trickle, args=(c, heads[i % 3])) for i, c in enumerate(connections)]
    for thread in threads:
        thread.start()
    with running.client() as client:
        assert all(client.ready() for _ in range(20))
    for thread in threads:
        thread.join()
    assert ended == [True] * 30


def test_after_kill_everything_is_still_there(tmp_path: Path, champion: Path, pictures: Pictures) -> None:
    home, added = tmp_path / "home", list[str]()
    settings = [f"model={champion}", "review.rate=0"]
    with served(home, settings) as running:
        ended = threading.Event()

        def add() -> None:
            with Client(running.url, key=KEY, attempts=1) as client:
                while not ended.is_set():
                    try:
                        client.add(pictures["cat"], id=f"n-{len(added)}")
                    except Exception:
                        return
                    added.append(f"n-{len(added)}")

        thread = threading.Thread(target=add)
        thread.start()
        until(lambda: len(added) > 5)
        for process in [
            *psutil.Process(running.process.pid).children(recursive=True),
            psutil.Process(running.process.pid),
        ]:
            process.kill()
        ended.set()
        thread.join()
    with served(home, settings) as running, running.client() as client:
        assert [client.get(id)["id"] for id in added] == added
