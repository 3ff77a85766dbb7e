"""The whole way with a real browser: pairs are pushed, a person's keys and clicks label them, and `find` obeys."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from playwright.sync_api import Browser

from ndd.types import Relation, Verdict
from tests.integration.review_screen import (
    Shell,
    blank_passes,
    label_all,
    log_in,
    look_at,
    name_of,
    photograph,
    together,
)
from tests.integration.review_studio import Studio

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(1500)]


def with_posters(album: Path) -> Path:
    """The album, and two of its photographs in one frame of letters: strangers with enough in common to be looked at."""
    frame = np.full((240, 320, 3), 235, np.uint8)
    for line, y in enumerate(range(22, 240, 24)):
        cv2.putText(
            frame, "GRAND OPENING 1987"[line:] + " EXHIBITION", (4, y), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (20, 30, 90), 2
        )
    for name in ("coffee", "rocket"):
        poster = frame.copy()
        poster[25:215, 30:290] = cv2.resize(
            cv2.imread(str(album / f"{name}.png")), (260, 190), interpolation=cv2.INTER_AREA
        )
        assert cv2.imwrite(str(album / f"{name}-poster.png"), poster)
    return album


def test_a_person_labels_pairs_and_find_obeys(
    studio: Studio,
    browser: Browser,
    album: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shell = Shell(studio, monkeypatch, capsys)
    album, out = with_posters(Path(shutil.copytree(album, tmp_path / "album"))), tmp_path / "found"
    shell.find(album, out)
    printed = shell.feedback("push", str(out), "--count", "12", "--audit", "0.5", "--root", str(album))
    address = printed.strip().splitlines()[-1]
    desk = studio.desk()
    waiting = {pair.pair_id for pair in desk.queue.waiting()}
    assert len(waiting) >= 12

    context = browser.new_context(viewport={"width": 1400, "height": 1500})
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    log_in(page, studio)
    wanted = [Verdict.DUPLICATE, Verdict.DISTINCT]  # each once against what `find` thinks, by mouse
    first = True

    def judge(task: dict[str, Any]) -> tuple[Verdict, bool]:
        nonlocal first
        look_at(page, album, task)
        if first:
            page.screenshot(path=tmp_path / "labelling.png")
            assert not blank_passes(page, album, task)
            first = False
        left, right = name_of(task, "left"), name_of(task, "right")
        contrary = Verdict.DISTINCT if photograph(left) == photograph(right) else Verdict.DUPLICATE
        if contrary not in wanted or "blank" in left + right:
            return Verdict.UNSURE, False
        wanted.remove(contrary)
        return contrary, True

    said = label_all(page, address, len(waiting), judge)
    context.close()
    assert wanted == []
    assert [url for url in asked if not url.startswith((studio.known["url"], "blob:", "data:"))] == []

    assert said.keys() == waiting
    assert f"{len(said)} answers" in shell.feedback("pull")
    current = desk.decisions.current()
    assert {pair: current[pair].verdict for pair in said} == {pair: of.verdict for pair, of in said.items()}
    assert {d.relation for d in current.values() if d.verdict is Verdict.DUPLICATE} == {Relation.EDITED}
    assert desk.queue.waiting() == []
    assert json.loads(shell.feedback("status", "--json"))["reviewers"] == {studio.known["user"]: len(said)}

    # A decision is about contents: it is obeyed under other names, too.
    moved = tmp_path / "moved"
    shutil.copytree(album, moved)
    for path in sorted(moved.rglob("*.png")):
        path.rename(path.with_name(f"renamed {path.name}"))
    for groups, rename in (
        (shell.find(album, tmp_path / "again"), str),
        (shell.find(moved, tmp_path / "else"), renamed),
    ):
        for of in said.values():
            if of.verdict is not Verdict.UNSURE:
                assert together(groups, rename(of.left), rename(of.right)) == (of.verdict is Verdict.DUPLICATE), of


def renamed(path: str) -> str:
    place = Path(path)
    return str(place.with_name(f"renamed {place.name}")) if place.suffix == ".png" else path
