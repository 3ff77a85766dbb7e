"""The review against a real Label Studio, through its API: tokens, edits, deletions, several reviewers, webhooks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from feedback import push
from feedback.desk import Desk
from feedback.labelstudio import LabelStudioError
from feedback.pictures import Previews
from feedback.pull import Pulled, pull
from feedback.standin import REVIEWER, answer_by_truth
from feedback.status import status
from feedback.webhook import HEADER, secret_of
from ndd.candidates import FindRun
from ndd.home import home
from ndd.model.directory import shipped
from ndd.types import Draw, Relation, Verdict
from pipelines.ports import free_ports
from tests.integration.review_screen import Shell
from tests.integration.review_studio import Studio, push_links, tasks_of, wait_until
from tests.serve.running import running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def test_pushing_and_pulling_again_changes_nothing(studio: Studio, desk: Desk, found: FindRun) -> None:
    server = studio.server()
    assert pull(desk, server) == Pulled()  # no project yet
    waiting = {pair.pair_id for pair in desk.queue.waiting()}
    assert push_links(desk, server, found).tasks == 8
    again = push_links(desk, server, found)
    assert (again.tasks, again.there, again.removed) == (0, 8, 0)
    tasks = tasks_of(desk, server)
    assert tasks.keys() == waiting
    first, second = sorted(tasks)[:2]
    studio.answer(tasks[first]["id"], "duplicate", relation="edited", note="the same cup,\nfrom above")
    studio.answer(tasks[second]["id"], "distinct")
    assert pull(desk, server) == Pulled(answers=2)
    assert pull(desk, server) == Pulled()
    stored = desk.decisions.load()
    assert {(d.pair_id, d.verdict, d.relation, d.reviewer) for d in stored} == {
        (first, Verdict.DUPLICATE, Relation.EDITED, studio.known["user"]),
        (second, Verdict.DISTINCT, None, studio.known["user"]),
    }
    asked = desk.queue.asked()
    for d in stored:
        want = asked[d.pair_id]
        said = (d.draw, d.p_draw, d.embedding_digest, d.scorer_digest, d.left_id, d.right_id)
        assert said == (
            want.draw,
            want.p_draw,
            want.embedding_digest,
            want.scorer_digest,
            want.left_id,
            want.right_id,
        )
    assert {pair.pair_id for pair in desk.queue.waiting()} == waiting - {first, second}
    assert "from above" in (desk.root / "notes.csv").read_text()
    assert push_links(desk, server, found).tasks == 0  # what is answered is not asked again


def test_nothing_is_chosen_in_advance_in_audit_draws(studio: Studio, desk: Desk, found: FindRun) -> None:
    server = studio.server()
    project = push_links(desk, server, found, suggest=True).project
    draws = {pair.pair_id: pair.draw for pair in desk.queue.waiting()}
    assert set(draws.values()) == {Draw.AUDIT, Draw.UNCERTAIN}
    for task in studio.ask("GET", f"/api/tasks/?project={project}&fields=all&page_size=100")["tasks"]:
        (prediction,) = task["predictions"]
        audit = draws[task["data"]["pair_id"]] is Draw.AUDIT
        assert (prediction["result"] == []) == audit
        assert ("score" in task["data"]["about"]) != audit
        assert 0.0 <= prediction["score"] <= 1.0


def test_edits_and_deletions_are_followed(studio: Studio, desk: Desk, found: FindRun) -> None:
    server = studio.server()
    push_links(desk, server, found)
    pair, task = min(tasks_of(desk, server).items())
    mine = studio.answer(task["id"], "duplicate", relation="edited")
    pull(desk, server)
    studio.change(mine, "duplicate", relation="scene")
    studio.change(mine, "distinct", relation="scene")  # a relation left over from before means nothing
    assert pull(desk, server) == Pulled(answers=1)
    now = desk.decisions.current()[pair]
    assert (now.verdict, now.relation) == (Verdict.DISTINCT, None)
    first, second = desk.decisions.load()
    assert second.supersedes == first.decision_id
    studio.take_back(mine)
    assert pull(desk, server) == Pulled(withdrawn=1)
    assert pull(desk, server) == Pulled()
    assert pair not in desk.decisions.current()
    assert desk.decisions.load()[-1].supersedes == second.decision_id
    studio.answer(task["id"], "unsure")
    assert pull(desk, server) == Pulled(answers=1)
    assert desk.decisions.current()[pair].verdict is Verdict.UNSURE


def test_a_note_may_come_after_its_answer(studio: Studio, desk: Desk, found: FindRun) -> None:
    server = studio.server()
    push_links(desk, server, found)
    _, task = min(tasks_of(desk, server).items())
    mine = studio.answer(task["id"], "distinct")
    pull(desk, server)
    studio.change(mine, "distinct", note="two cups")
    assert pull(desk, server) == Pulled()  # the verdict is what it was
    (decision,) = desk.decisions.load()
    assert f'{decision.decision_id},"""two cups"""' in (desk.root / "notes.csv").read_text()


def test_a_task_that_is_deleted_takes_no_answer_with_it(studio: Studio, desk: Desk, found: FindRun) -> None:
    server = studio.server()
    project = push_links(desk, server, found).project
    pair, task = min(tasks_of(desk, server).items())
    studio.answer(task["id"], "duplicate")
    pull(desk, server)
    studio.ask("DELETE", f"/api/tasks/{task['id']}/")
    assert pull(desk, server) == Pulled()
    assert desk.decisions.current()[pair].verdict is Verdict.DUPLICATE
    studio.ask("DELETE", f"/api/projects/{project}/")
    assert pull(desk, server) == Pulled()
    assert desk.decisions.current()[pair].verdict is Verdict.DUPLICATE


def test_several_reviewers(studio: Studio, desk: Desk, found: FindRun) -> None:
    server, ada, bob, eve = studio.server(), *(studio.person(name) for name in ("ada", "bob", "eve"))
    project = push_links(desk, server, found, reviewers=2).project
    tasks = tasks_of(desk, server)
    push_links(desk, server, found)  # says nothing of reviewers: as many are wanted as before, in the tab too
    assert studio.ask("GET", f"/api/projects/{project}/")["maximum_annotations"] == 2
    (tab,) = [v for v in studio.ask("GET", f"/api/dm/views/?project={project}") if "uncertain" in v["data"]["title"]]
    assert [item["value"] for item in tab["data"]["filters"]["items"]] == [2]
    agreed, torn, outvoted = sorted(tasks)[:3]
    for pair, said in (
        (agreed, ((ada, "duplicate"), (bob, "duplicate"))),
        (torn, ((ada, "duplicate"), (bob, "distinct"))),
        (outvoted, ((ada, "duplicate"), (bob, "duplicate"), (eve, "distinct"))),
    ):
        for who, verdict in said:
            studio.answer(tasks[pair]["id"], verdict, by=who)
    assert pull(desk, server) == Pulled(answers=7, conflicts=1)
    assert pull(desk, server) == Pulled(conflicts=1)
    now = {pair: decision.verdict for pair, decision in desk.decisions.current().items()}
    assert now == {agreed: Verdict.DUPLICATE, torn: Verdict.UNSURE, outvoted: Verdict.DUPLICATE}
    said = status(desk)
    assert (said.twice, said.conflicts) == (3, 1)
    assert said.agreement == pytest.approx(1 / 3)
    # The tie is in the tab of whoever settles them, and leaves it when it is settled.
    (tab,) = [v for v in studio.ask("GET", f"/api/dm/views/?project={project}") if "disagree" in v["data"]["title"]]
    listed = studio.ask("GET", f"/api/tasks/?view={tab['id']}&project={project}")["tasks"]
    assert [task["data"]["pair_id"] for task in listed] == [torn]
    studio.answer(tasks[torn]["id"], "distinct", by=eve)
    assert pull(desk, server) == Pulled(answers=1)
    assert desk.decisions.current()[torn].verdict is Verdict.DISTINCT
    assert studio.ask("GET", f"/api/tasks/?view={tab['id']}&project={project}")["tasks"] == []


def test_the_tab_is_ordered_by_uncertainty_and_empties_as_answers_come(
    studio: Studio, desk: Desk, found: FindRun
) -> None:
    server = studio.server()
    pushed = push_links(desk, server, found)
    scores = {pair.pair_id: pair.score for pair in desk.queue.waiting() if pair.draw is Draw.UNCERTAIN}
    address = f"/api/tasks/?view={pushed.view}&project={pushed.project}"
    shown = studio.ask("GET", address)["tasks"]
    order = [abs(scores[pair] - 0.5) for task in shown if (pair := task["data"]["pair_id"]) in scores]
    assert len(shown) == 8
    assert order == sorted(order)
    studio.answer(shown[0]["id"], "unsure")
    assert [task["id"] for task in studio.ask("GET", address)["tasks"]] == [task["id"] for task in shown[1:]]


def test_a_personal_access_token_is_as_good_as_a_legacy_one(studio: Studio, desk: Desk, found: FindRun) -> None:
    studio.ask("POST", "/api/jwt/settings", api_tokens_enabled=True, legacy_api_tokens_enabled=True)
    personal = studio.ask("POST", "/api/token/", **{"": ""})["token"]
    assert personal.startswith("ey")
    server = studio.server(token=personal)
    assert server.user() == studio.known["user"]
    assert push_links(desk, server, found).tasks == 8
    assert pull(desk, server) == Pulled()
    with pytest.raises(LabelStudioError, match="LABEL_STUDIO_API_KEY"):
        studio.server(token="0" * 40).user()


def test_uploaded_pictures_are_the_previews(studio: Studio, desk: Desk, found: FindRun) -> None:
    import httpx

    server = studio.server()
    previews = Previews(desk.previews, roots=found.roots)
    assert push.push(desk, server, previews=previews, pictures="upload", limit=2).tasks == 2
    for task in tasks_of(desk, server).values():
        for side in ("left", "right", "aligned"):
            address = studio.known["url"] + task["data"][side]
            key = {"Authorization": f"Token {studio.known['token']}"}
            content = httpx.get(address, headers=key, trust_env=False).content
            assert content in {file.read_bytes() for file in desk.previews.iterdir()}
            assert httpx.get(address, trust_env=False).status_code in (302, 401, 403)  # not for everybody


def test_local_pictures_are_handed_out_and_nothing_beside_them(studio: Studio, found: FindRun) -> None:
    import httpx

    desk, server = studio.desk(), studio.server()
    push.choose(desk, found, count=2, audit_share=0.0, seed=0)
    push.push(desk, server, previews=Previews(desk.previews, roots=found.roots), limit=1)
    key = {"Authorization": f"Token {studio.known['token']}"}
    (link, *_) = [task["data"]["left"] for task in tasks_of(desk, server).values()]
    assert httpx.get(studio.known["url"] + link, headers=key, trust_env=False).status_code == 200
    (desk.media / "secret.txt").write_text("x")
    for path in (
        "secret.txt",
        "../server.json",
        "pictures/../../server.json",
        "/etc/passwd",
        "pictures/%2e%2e/secret.txt",
    ):
        address = f"{studio.known['url']}/data/local-files/?d={path}"
        assert httpx.get(address, headers=key, trust_env=False).status_code >= 400, path


def test_a_webhook_fetches_what_it_names(studio: Studio, desk: Desk, found: FindRun, tmp_path: Path) -> None:
    import httpx

    server, port = studio.server(), free_ports(1)[0]
    push_links(desk, server, found)
    address = f"http://127.0.0.1:{port}/events"
    command = [
        sys.executable,
        "-m",
        "feedback",
        "listen",
        "--port",
        str(port),
        "--register",
        address,
        "--every",
        "3600",
    ]
    environment = os.environ | studio.environment | {"NDD_HOME": str(desk.root.parent)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as listener:
        try:
            assert listener.stdout is not None
            assert "listening" in listener.stdout.readline()
            wait_until(lambda: _answers(address))
            pair, task = min(tasks_of(desk, server).items())
            mine = studio.answer(task["id"], "duplicate")
            wait_until(lambda: pair in desk.decisions.current())
            studio.take_back(mine)
            wait_until(lambda: pair not in desk.decisions.current())
            # What an event says is not believed: only what the server says when it is asked.
            lie = {"action": "ANNOTATION_CREATED", "task": {"id": task["id"]}, "annotation": {"id": 1, "result": []}}
            assert httpx.post(address, json=lie, headers={HEADER: "guessed"}, trust_env=False).status_code == 401
            assert httpx.post(address, json=lie, trust_env=False).status_code == 401
            good = {HEADER: secret_of(desk)}
            assert httpx.post(address, json=lie, headers=good, trust_env=False).status_code == 202
            assert httpx.post(address, content=b"no", headers=good, trust_env=False).status_code == 400
            assert httpx.post(address, content=b"1" * (2 << 20), headers=good, trust_env=False).status_code == 413
            assert pair not in desk.decisions.current()
        finally:
            listener.terminate()


def test_the_truth_can_stand_in_for_people(
    studio: Studio, desk: Desk, found: FindRun, album: Path, tmp_path: Path
) -> None:
    server, copy = studio.server(), tmp_path / "copy"
    shutil.copytree(album, copy)
    images = [path for path in sorted(copy.rglob("*")) if path.is_file()]
    rows = [f"{path.relative_to(copy)},{path.stem.split('-')[0]}" for path in images]
    (copy / "groups.csv").write_text("\n".join(["image,group", *rows]) + "\n")
    push_links(desk, server, found)
    asked = {pair.pair_id: pair for pair in desk.queue.waiting()}
    assert answer_by_truth(desk, server, copy) == 8
    assert answer_by_truth(desk, server, copy) == 0
    assert pull(desk, server) == Pulled(answers=8)
    for pair, decision in desk.decisions.current().items():
        names = {Path(uri).stem.split("-")[0] for uri in (asked[pair].left_uri, asked[pair].right_uri)}
        assert (decision.verdict is Verdict.DUPLICATE) == (len(names) == 1)
        assert decision.reviewer == REVIEWER  # nobody takes it for a person's word


def test_status_as_text_json_and_page(studio: Studio, desk: Desk, found: FindRun, tmp_path: Path) -> None:
    server = studio.server()
    push_links(desk, server, found)
    for task in tasks_of(desk, server).values():
        studio.answer(task["id"], "duplicate")
    pull(desk, server)
    page = tmp_path / "status.html"
    command = [sys.executable, "-m", "feedback", "status", "--json", "--html", str(page)]
    environment = os.environ | {"NDD_HOME": str(desk.root.parent)}
    said = json.loads(subprocess.run(command, env=environment, check=True, capture_output=True).stdout)
    assert said["waiting"] == 0
    assert said["answered"] == {"duplicate": 8}
    assert said["reviewers"] == {studio.known["user"]: 8}
    assert "8 pairs (8 duplicate)" in page.read_text()


def _answers(address: str) -> bool:
    import httpx

    try:
        return httpx.post(address, trust_env=False).status_code == 401
    except httpx.HTTPError:
        return False


def test_a_pair_that_the_server_saw_is_put_before_a_person_and_the_answer_obeyed(
    studio: Studio, album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import httpx

    shell = Shell(studio, monkeypatch, capsys, home=tmp_path / "home")
    desk = Desk()
    always = {"review.rate": 1.0, "review.low": 0.0, "review.high": 0.999999}
    left, right = album / "cat.png", album / "coffee.png"
    with running(home().index, shipped(), always) as online, online.client() as client:
        assert not client.compare(left, right).duplicate
        wait_until(lambda: len(desk.queue.waiting()) == 1)
        assert "1 new tasks, 0 were there, 0 pairs cannot be shown" in shell.feedback("push", "--pictures", "upload")
        (task,) = tasks_of(desk, studio.server()).values()
        key = {"Authorization": f"Token {studio.known['token']}"}
        shown = [
            httpx.get(studio.known["url"] + task["data"][side], headers=key, trust_env=False)
            for side in ("left", "right", "aligned")
        ]
        assert {of.content for of in shown} == {file.read_bytes() for file in desk.previews.iterdir()}
        studio.answer(task["id"], "duplicate")
        assert "1 answers" in shell.feedback("pull")
        wait_until(lambda: client.compare(left, right).duplicate)
    assert "0 new tasks" in shell.feedback("push", "--pictures", "upload")  # answered: it is not asked again
