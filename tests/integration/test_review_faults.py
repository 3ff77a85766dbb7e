"""Killed, cut off, restarted: whatever fails in the middle of a push or a pull, nothing is lost and nothing comes twice."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from feedback.desk import Desk
from feedback.labelstudio import LabelStudioError, Server
from feedback.pull import Pulled, pull
from ndd.candidates import FindRun
from ndd.types import Verdict
from pipelines.ports import free_ports
from tests.integration.review_studio import Studio, push_links, tasks_of, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


class Killed(BaseException):
    """Our process ends here."""


class Faulty(Server):
    """A connection on which our process dies at the n-th call, before the request is made or after it is answered."""

    at = 0
    after = False
    calls = 0

    def _ask(self, call: Callable[[], Any]) -> Any:
        self.calls += 1
        if self.calls == self.at and not self.after:
            raise Killed
        answer = super()._ask(call)
        if self.calls == self.at and self.after:
            raise Killed
        return answer


class Proxy:
    """Passes bytes on to the server, and can cut the wire once the n-th answer begins: the request was carried out."""

    def __init__(self, port: int) -> None:
        self.target = port
        self.port = free_ports(1)[0]
        self.cut_at = 0
        self.answers = 0
        self.on_request: Callable[[], None] | None = None
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()
        for wire in self._open:
            wire.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                near.close()
                continue
            self._open += [near, far]
            threading.Thread(target=self._pass_on, args=(near, far, False), daemon=True).start()
            threading.Thread(target=self._pass_on, args=(far, near, True), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if answers and data.startswith(b"HTTP/1."):
                    self.answers += 1
                    if self.answers == self.cut_at:
                        break
                sink.sendall(data)
        for wire in (source, sink):
            with contextlib.suppress(OSError):
                wire.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def proxy(studio: Studio) -> Iterator[Proxy]:
    made = Proxy(int(studio.known["url"].rsplit(":", 1)[1]))
    yield made
    made.close()


def everything_is_asked_once(desk: Desk, server: Server, waiting: set[str]) -> None:
    tasks = tasks_of(desk, server)  # which fails where a pair has two
    assert tasks.keys() == waiting
    assert all(task["predictions"] == 1 for task in tasks.values())


@pytest.mark.parametrize("after", [False, True], ids=["before the request", "after the answer"])
def test_our_process_dies_at_every_step_of_a_push(
    studio: Studio, desk: Desk, found: FindRun, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    monkeypatch.setattr("feedback.push._BATCH", 3)
    waiting = {pair.pair_id for pair in desk.queue.waiting()}
    deaths, step, server = 0, 0, studio.server()
    while True:
        step += 1
        with Faulty(studio.known["url"], token=studio.known["token"]) as faulty:
            faulty.at, faulty.after, faulty.calls = step, after, 0
            try:
                push_links(desk, faulty, found)
            except Killed:
                deaths += 1
            else:
                break
        project = server.project(f"ndd:{desk.project_tag}")
        pairs = [task["data"]["pair_id"] for task in server.tasks(project)] if project else []
        assert len(pairs) == len(set(pairs))
    assert deaths >= 8
    everything_is_asked_once(desk, server, waiting)


def test_the_wire_is_cut_at_every_answer_of_a_push(
    studio: Studio, desk: Desk, found: FindRun, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("feedback.push._BATCH", 3)
    waiting = {pair.pair_id for pair in desk.queue.waiting()}
    cuts = 0
    while True:
        proxy.answers, proxy.cut_at = 0, cuts + 1
        with Server(f"http://127.0.0.1:{proxy.port}", token=studio.known["token"]) as server:
            try:
                push_links(desk, server, found)
            except LabelStudioError as error:
                assert "does not answer" in str(error)
                cuts += 1
                continue
        if proxy.answers < proxy.cut_at:
            break
        cuts += 1
    assert cuts >= 8
    proxy.cut_at = 0
    server = studio.server()
    push_links(desk, server, found)
    everything_is_asked_once(desk, server, waiting)


def test_a_task_made_twice_is_made_one(studio: Studio, desk: Desk, found: FindRun) -> None:
    # A request whose answer was lost can be carried out after the next push has looked.
    server = studio.server()
    project = push_links(desk, server, found).project
    tasks = tasks_of(desk, server)
    answered, *others = sorted(tasks)
    copies = [{"data": tasks[pair]["data"], "meta": tasks[pair]["meta"]} for pair in [answered, *others[:3]]]
    server.add_tasks(project, copies)
    (late,) = [
        t["id"] for t in server.tasks(project) if t["data"]["pair_id"] == answered and t["id"] != tasks[answered]["id"]
    ]
    studio.answer(late, "duplicate")
    assert push_links(desk, server, found).removed == 4
    assert pull(desk, server) == Pulled(answers=1)
    assert desk.decisions.current()[answered].verdict is Verdict.DUPLICATE
    assert tasks_of(desk, server).keys() == set(tasks)


@pytest.mark.parametrize("after", [False, True], ids=["before the request", "after the answer"])
def test_our_process_dies_at_every_step_of_a_pull(
    studio: Studio, desk: Desk, found: FindRun, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    server, ada, bob = studio.server(), studio.person("ada"), studio.person("bob")
    push_links(desk, server, found, reviewers=2)
    tasks = tasks_of(desk, server)
    for at, task in enumerate(tasks.values()):
        studio.answer(task["id"], "duplicate", by=ada)
        if at % 2:
            studio.answer(task["id"], "distinct" if at == 1 else "duplicate", by=bob)
    steps = 0

    def stores(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            return faulty._ask(lambda: real(*arguments, **options))

        return call

    while True:
        steps += 1
        with Faulty(studio.known["url"], token=studio.known["token"]) as faulty, monkeypatch.context() as patch:
            faulty.at, faulty.after, faulty.calls = steps, after, 0
            for store, name in ((desk.decisions, "extend"), (desk.queue, "answered"), (desk, "note")):
                patch.setattr(store, name, stores(name, getattr(store, name)), raising=True)
            try:
                pull(desk, faulty)
            except Killed:
                continue
            break
    assert steps >= 6
    stored = desk.decisions.load()
    people = [d for d in stored if d.reviewer != "panel"]
    assert len(people) == len({(d.pair_id, d.reviewer) for d in people}) == 12
    assert len(stored) == 13  # and the tie, once
    assert desk.decisions.current().keys() == tasks.keys()
    assert desk.queue.waiting() == []
    assert pull(desk, server) == Pulled(conflicts=1)


def test_the_wire_is_cut_at_every_answer_of_a_pull(studio: Studio, desk: Desk, found: FindRun, proxy: Proxy) -> None:
    server = studio.server()
    push_links(desk, server, found)
    tasks = tasks_of(desk, server)
    for task in tasks.values():
        studio.answer(task["id"], "distinct")
    cuts = 0
    while True:
        proxy.answers, proxy.cut_at = 0, cuts + 1
        with Server(f"http://127.0.0.1:{proxy.port}", token=studio.known["token"]) as cut:
            try:
                pull(desk, cut)
                break
            except LabelStudioError:
                cuts += 1
    assert cuts >= 3
    assert len(desk.decisions.load()) == len(tasks)
    assert {d.verdict for d in desk.decisions.current().values()} == {Verdict.DISTINCT}


def test_label_studio_is_killed_during_a_push_and_before_a_pull(
    studio: Studio, desk: Desk, found: FindRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("feedback.push._BATCH", 2)
    waiting = {pair.pair_id for pair in desk.queue.waiting()}

    timers: list[threading.Timer] = []

    class Deadly(Server):
        def add_tasks(self, project: int, tasks: Any) -> None:
            super().add_tasks(project, tasks)
            if not timers:
                timers.append(threading.Timer(0.05, studio.kill))  # while the next request is on its way
                timers[0].start()

    with Deadly(studio.known["url"], token=studio.known["token"]) as deadly, pytest.raises(LabelStudioError):
        while True:
            push_links(desk, deadly, found)
            pull(desk, deadly)
    timers[0].join()
    studio.start()
    server = studio.server()
    push_links(desk, server, found)
    everything_is_asked_once(desk, server, waiting)
    pair, task = min(tasks_of(desk, server).items())
    studio.answer(task["id"], "duplicate")
    studio.kill()
    with pytest.raises(LabelStudioError, match="does not answer"):
        pull(desk, server)
    studio.start()
    assert pull(desk, studio.server()) == Pulled(answers=1)
    assert desk.decisions.current()[pair].verdict is Verdict.DUPLICATE


def test_the_command_is_killed_without_warning(studio: Studio, desk: Desk, found: FindRun) -> None:
    waiting = {pair.pair_id for pair in desk.queue.waiting()}
    environment = os.environ | studio.environment | {"NDD_HOME": str(desk.root.parent)}
    server = studio.server()
    roots = [part for root in found.roots for part in ("--root", root)]
    for tasks in (0, 1):  # killed once it has begun with the pictures, and once it has made a project
        command = [sys.executable, "-m", "feedback", "push", *roots, "--pictures", "https://pictures.invalid/x"]
        with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
            if tasks == 0:
                wait_until(lambda: desk.previews.is_dir() and any(desk.previews.iterdir()), seconds=120)
            else:
                wait_until(lambda: server.project(f"ndd:{desk.project_tag}") is not None, seconds=120)
            process.send_signal(signal.SIGKILL)
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    everything_is_asked_once(desk, server, waiting)
