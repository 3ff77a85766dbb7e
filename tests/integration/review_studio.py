"""A real Label Studio for the tests of the review, and pictures of a real search to put before it."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from feedback import push
from feedback.desk import Desk
from feedback.labelstudio import Server
from feedback.pictures import Previews
from feedback.server import running
from ndd.candidates import FindRun, read_candidates
from ndd.config import FindConfig
from ndd.find import FindRequest, find
from ndd.local import LocalRunner
from pipelines.ports import free_ports
from tests.samples import small_album

LINKS = "https://pictures.invalid/previews"
"""Where pictures are said to lie in tests that nobody looks at."""


class Studio:
    """A Label Studio that can be killed and started again, always at the same address."""

    def __init__(self, home: Path) -> None:
        self.home = home
        (self._port,) = free_ports(1)
        self._stack = contextlib.ExitStack()
        self.known: dict[str, Any] = {}
        self._servers: list[Server] = []

    def desk(self, home: Path | None = None) -> Desk:
        """The stores of a home; by default of the one whose previews this server can hand out."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("NDD_HOME", str(home or self.home))
            return Desk()

    def start(self) -> None:
        """Start it, or start it again."""
        self._stack = contextlib.ExitStack()
        self.known = self._stack.enter_context(running(self.desk(), port=self._port))
        assert self.known["url"] == f"http://127.0.0.1:{self._port}"

    def kill(self) -> None:
        """As the kernel does it when memory runs out."""
        os.killpg(self.known["pid"], signal.SIGKILL)
        self._stack.close()

    def stop(self) -> None:
        """End it in good order."""
        for server in self._servers:
            server.close()
        self._stack.close()

    @property
    def environment(self) -> dict[str, str]:
        """For a command that is to talk to this server."""
        return {"LABEL_STUDIO_URL": self.known["url"], "LABEL_STUDIO_API_KEY": self.known["token"]}

    def server(self, url: str | None = None, *, token: str | None = None) -> Server:
        """A connection, by default a direct one with the legacy token."""
        self._servers.append(Server(url or self.known["url"], token=token or self.known["token"]))
        return self._servers[-1]

    def ask(self, method: str, path: str, **body: Any) -> Any:
        """Talk to it as any program would."""
        response = httpx.request(
            method,
            self.known["url"] + path,
            headers={"Authorization": f"Token {self.known['token']}"},
            json=body or None,
            timeout=60,
            trust_env=False,
        )
        assert response.is_success, response.text
        return response.json() if response.content else None

    def person(self, name: str) -> int:
        """The number of a reviewer, who is made if need be."""
        email = f"{name}@localhost.localdomain"
        there = {user["email"]: user["id"] for user in self.ask("GET", "/api/users/")}
        return int(there.get(email) or self.ask("POST", "/api/users/", email=email, username=name)["id"])

    def answer(self, task: int, verdict: str, *, by: int | None = None, relation: str = "", note: str = "") -> int:
        """Submit an answer; its number."""
        who = {} if by is None else {"completed_by": by}
        result = says(verdict, relation=relation, note=note)
        return int(self.ask("POST", f"/api/tasks/{task}/annotations/", result=result, **who)["id"])

    def change(self, annotation: int, verdict: str, *, relation: str = "", note: str = "") -> None:
        """Edit an answer."""
        self.ask("PATCH", f"/api/annotations/{annotation}/", result=says(verdict, relation=relation, note=note))

    def take_back(self, annotation: int) -> None:
        """Delete an answer."""
        self.ask("DELETE", f"/api/annotations/{annotation}/")


def says(verdict: str, *, relation: str = "", note: str = "") -> list[dict[str, Any]]:
    """The result of an annotation, as the labelling screen writes it."""

    def entry(name: str, kind: str, value: dict[str, Any]) -> dict[str, Any]:
        return {"from_name": name, "to_name": "left", "type": kind, "value": value}

    result = [entry("verdict", "choices", {"choices": [verdict]})]
    result += [entry("relation", "choices", {"choices": [relation]})] if relation else []
    return result + ([entry("note", "textarea", {"text": [note]})] if note else [])


@pytest.fixture(scope="session")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """One server for all tests: its first start takes a minute."""
    studio = Studio(tmp_path_factory.mktemp("studio"))
    studio.start()
    yield studio
    studio.stop()


@pytest.fixture(scope="session")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs with edited copies."""
    return small_album(tmp_path_factory.mktemp("review") / "album")


@pytest.fixture(scope="session")
def found(album: Path) -> FindRun:
    """A search in it that keeps every candidate."""
    out = album.parent / "found"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NDD_HOME", str(album.parent / "home"))
        find(FindRequest(paths=[album], out=out, config=FindConfig(floor=0.0)), LocalRunner(workers=2))
    return read_candidates(out)


@pytest.fixture
def desk(studio: Studio, found: FindRun, tmp_path: Path) -> Desk:
    """A home of its own, hence a project of its own, with eight pairs waiting, three of them audit draws."""
    desk = studio.desk(tmp_path / "home")
    assert push.choose(desk, found, count=8, audit_share=0.3, seed=1) == 8
    return desk


def push_links(desk: Desk, server: Server, found: FindRun, **options: Any) -> push.Pushed:
    """Push with pictures that lie elsewhere: no browser looks at these tasks."""
    previews = Previews(desk.previews, roots=found.roots)
    return push.push(desk, server, previews=previews, pictures=LINKS, **options)


def tasks_of(desk: Desk, server: Server) -> dict[str, dict[str, Any]]:
    """pair_id → the only task of the pair."""
    project = server.project(f"ndd:{desk.project_tag}")
    assert project is not None
    tasks = server.tasks(project)
    by_pair = {task["data"]["pair_id"]: task for task in tasks}
    assert len(by_pair) == len(tasks), "a pair has two tasks"
    return by_pair


def wait_until(true: Callable[[], bool], *, seconds: float = 60.0) -> None:
    """Wait for something that another process does."""
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.1)
