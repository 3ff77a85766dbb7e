"""The whole chain with a real browser: a person's keys and clicks are pulled, retrained on and promoted, and a server that
has been running all the while takes the new model up and answers as the person said."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from ndd.data.decisions import DecisionStore
from ndd.home import home
from ndd.model.directory import describe, shipped
from ndd.types import Verdict
from pipelines.album import Album
from serve.client import Client
from tests.integration.retraining import CAREFUL, library_of
from tests.integration.review_screen import Said, Shell, label_all, log_in, look_at, name_of
from tests.integration.review_studio import Studio, wait_until
from tests.integration.serve_process import ROOT, served

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(3000)]

PAIRS = 16


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Album:
    """Some photographs with an edited copy of each, some without."""
    return library_of(tmp_path_factory.mktemp("chain") / "album", severity=(0.4, 1.0))


def test_a_running_server_learns_what_a_person_clicked(
    studio: Studio,
    browser: Browser,
    library: Album,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shell = Shell(studio, monkeypatch, capsys, home=tmp_path / "home")
    images = library.root / "images"
    shell.find(images, tmp_path / "found")
    # Added pictures have vectors of the old model: a promoted one has to take them along.
    settings = ["watch_seconds=0.5", "new_embedding=migrate", "review.rate=0"]
    with served(home().root, settings) as running, running.client() as client:
        replicas = [process.pid for process in running.replicas()]
        before = client.model()["digests"]
        assert before["embedding"] == describe(shipped()).embedding_digest
        said = labelled(shell, studio, browser, library, tmp_path / "found")
        for name in {name for of in said.values() for name in (of.left, of.right)}:
            client.add(images / name, id=name)
        overruled = [of for of in said.values() if of.by_mouse]
        assert [client.compare(images / of.left, images / of.right).duplicate for of in overruled] != [
            of.verdict is Verdict.DUPLICATE for of in overruled
        ]

        assert f"{PAIRS} answers" in shell.feedback("pull")
        assert obeys(client, images, said) == []
        last = retrained(images)
        assert (last["reasons"], last["promoted"], last["challenger"]) == ([], True, "model")
        assert last["learnt"]["duplicate"] and last["learnt"]["distinct"]
        wait_until(lambda: client.model()["digests"] != before, seconds=300)
        now = client.model()
        challenger = describe(Path(last["report"]).parent / last["challenger"])
        assert now["digests"] == {"embedding": challenger.embedding_digest, "scorer": challenger.scorer_digest}
        assert now["refused"] is None
        assert obeys(client, images, said) == []
        assert [process.pid for process in running.replicas()] == replicas  # nothing was started anew


def labelled(shell: Shell, studio: Studio, browser: Browser, library: Album, found: Path) -> dict[str, Said]:
    """pair_id → what a person said: the truth by key, and once each way the contrary by mouse, after a close look."""
    images = library.root / "images"
    group = {str(Path(row.image).relative_to("images")): row.group for row in library.images}
    options = ["--count", str(PAIRS), "--audit", "0", "--pictures", "upload"]
    address = shell.feedback("push", str(found), *options).strip().splitlines()[-1]
    context = browser.new_context(viewport={"width": 1400, "height": 1500})
    page = context.new_page()
    log_in(page, studio)
    contrary = {Verdict.DUPLICATE, Verdict.DISTINCT}

    def judge(task: dict[str, Any]) -> tuple[Verdict, bool]:
        same = group[name_of(task, "left")] == group[name_of(task, "right")]
        truth, lie = (Verdict.DUPLICATE, Verdict.DISTINCT)[:: 1 if same else -1]
        if lie not in contrary:
            return truth, False
        look_at(page, images, task)
        contrary.remove(lie)
        return lie, True

    said = label_all(page, address, PAIRS, judge)
    context.close()
    assert not contrary
    return said


def obeys(client: Client, images: Path, said: Mapping[str, Said]) -> list[str]:
    """What the server answers otherwise than the person did, comparing two pictures and looking one of them up."""
    standing = DecisionStore(home().decisions).current()
    wrong = []
    for pair, of in said.items():
        assert standing[pair].verdict is of.verdict
        word = of.verdict is Verdict.DUPLICATE
        for a, b in ((of.left, of.right), (of.right, of.left)):
            compared = client.compare(images / a, images / b)
            hits = {match.id: match for match in client.query(images / a, k=50).matches}
            told = [compared.duplicate, *([hits[b].duplicate] if b in hits else [])]
            if told != [word] * len(told) or compared.evidence["decision"] != of.verdict or (word and b not in hits):
                wrong.append(f"{a}, {b}: {of.verdict}, but {told}")
    return wrong


def retrained(images: Path) -> dict[str, Any]:
    """What `python -m pipelines retrain` remembers of its work on the decisions of this home."""
    command = [sys.executable, "-m", "pipelines", "retrain", "--data", str(images), "--least", "8", *CAREFUL]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr
    last = home() / "retrain" / "last.json"
    assert last.is_file(), done.stdout
    found: dict[str, Any] = json.loads(last.read_text(encoding="utf-8"))
    return found
