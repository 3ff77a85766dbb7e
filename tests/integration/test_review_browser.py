"""The whole way with a real browser: pairs are pushed, a person's keys and clicks label them, and `find` obeys."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

import feedback.cli
import ndd.cli
from ndd.images import decode
from ndd.tables import read_groups
from ndd.types import Relation, Verdict
from tests.integration.report_pages import Pixels, screenshot
from tests.integration.review_studio import Studio

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(1500)]

KEYS = {Verdict.DUPLICATE: "1", Verdict.DISTINCT: "2", Verdict.UNSURE: "3"}


class Shell:
    """The commands as a person types them, in this process: each import of the network would take seconds."""

    def __init__(self, studio: Studio, patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        for name, value in (studio.environment | {"NDD_HOME": str(studio.home)}).items():
            patch.setenv(name, value)

    def feedback(self, *arguments: str) -> str:
        return self._run(feedback.cli.main, arguments)

    def find(self, album: Path, out: Path) -> list[set[str]]:
        """The groups found."""
        self._run(ndd.cli.main, ["find", str(album), "--out", str(out), "--floor", "0"])
        groups: dict[int, set[str]] = {}
        for row in read_groups(out / "groups.parquet"):
            groups.setdefault(row.group, set()).add(row.path)
        return list(groups.values())

    def _run(self, main: Callable[[Sequence[str]], int], arguments: Sequence[str]) -> str:
        self._capsys.readouterr()
        code = main(list(arguments))
        said = self._capsys.readouterr()
        assert code == 0, said.err
        return said.out


def together(groups: list[set[str]], a: str, b: str) -> bool:
    return any({a, b} <= group for group in groups)


def log_in(page: Page, studio: Studio) -> None:
    page.goto(f"{studio.known['url']}/user/login")
    page.fill("input[name=email]", studio.known["user"])
    page.fill("input[name=password]", studio.known["password"])
    page.click("button[type=submit]")
    page.wait_for_load_state("networkidle")


def shows(picture: Locator, original: Pixels) -> bool:
    """True if what is on the screen is this picture, whole: a blank box, another picture or a part of it is not."""
    seen = screenshot(picture)
    if seen.std() < 10:
        return False
    small = [cv2.resize(p, (24, 24), interpolation=cv2.INTER_AREA).astype(np.float64).ravel() for p in (seen, original)]
    return bool(np.corrcoef(*small)[0, 1] > 0.97)


def look_at(page: Page, album: Path, task: dict[str, Any]) -> None:
    """Fail unless the two pictures, and the aligned pair below them, are to be seen."""
    pictures = page.locator(".lsf-image")
    pictures.nth(2).wait_for(state="attached")
    boxes = []
    for at, side in enumerate(("left", "right")):
        original = decode((album / name_of(task, side)).read_bytes()).pixels
        until = time.monotonic() + 20
        while not shows(pictures.nth(at), original):
            assert time.monotonic() < until, f"{name_of(task, side)} is not to be seen"
            page.wait_for_timeout(300)
        boxes.append(pictures.nth(at).bounding_box())
    left, right = boxes
    assert left is not None and right is not None
    assert left["x"] + left["width"] <= right["x"]  # side by side
    assert abs(left["y"] - right["y"]) < 2
    assert min(left["width"], right["width"]) > 300
    assert screenshot(pictures.nth(2)).std() > 10
    below = pictures.nth(2).bounding_box()
    assert below is not None and below["y"] > left["y"] + 1


def blank_passes(page: Page, album: Path, task: dict[str, Any]) -> bool:
    """Whether the look would be content with a left picture that is there, but blank."""
    hide = "i => { const box = i.parentElement.style; box.opacity = box.opacity === '0' ? '' : '0' }"
    picture = page.locator(".lsf-image").first
    picture.evaluate(hide)
    try:
        return shows(picture, decode((album / name_of(task, "left")).read_bytes()).pixels)
    finally:
        picture.evaluate(hide)


def answer(page: Page, verdict: Verdict, *, by_mouse: bool) -> None:
    """Choose and submit as a person does; a duplicate is said to be an edited copy."""
    boxes = page.locator("input[type=checkbox]")
    assert not any(box.is_checked() for box in boxes.all())  # nothing is chosen in advance
    if by_mouse:
        page.locator(f"input[name={verdict}]").click()
    else:
        page.keyboard.press(KEYS[verdict])
    expect(page.locator(f"input[name={verdict}]")).to_be_checked()
    if verdict is Verdict.DUPLICATE:
        page.keyboard.press("5")
        expect(page.locator("input[name=edited]")).to_be_checked()
    with page.expect_response(lambda r: "/annotations" in r.url and r.request.method == "POST") as posted:
        if by_mouse:
            page.locator("button", has_text="Submit").first.click()
        else:
            page.keyboard.press("Control+Enter")
    assert posted.value.ok


def name_of(task: dict[str, Any], side: str) -> str:
    return str(task["data"][f"{side}_about"]).split(" · ")[0]


def photograph(path: str) -> str:
    return Path(path).stem.split("-")[0]


def test_a_person_labels_pairs_and_find_obeys(
    studio: Studio,
    browser: Browser,
    album: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shell = Shell(studio, monkeypatch, capsys)
    out = tmp_path / "found"
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
    page.goto(address)
    said: dict[str, tuple[Verdict, str, str]] = {}
    wanted = [Verdict.DUPLICATE, Verdict.DISTINCT]  # each once against what `find` thinks, by mouse
    verdict, by_mouse = Verdict.UNSURE, False
    for number in range(len(waiting)):
        with page.expect_response(lambda r: "id=next_task" in r.url) as shown:
            if number == 0:
                page.get_by_role("button", name="Label All Tasks").click()
            else:
                answer(page, verdict, by_mouse=by_mouse)
        task = shown.value.json()
        page.wait_for_load_state("networkidle")
        look_at(page, album, task)
        names = name_of(task, "left"), name_of(task, "right")
        contrary = Verdict.DISTINCT if photograph(names[0]) == photograph(names[1]) else Verdict.DUPLICATE
        by_mouse = contrary in wanted and "blank" not in "".join(names)
        verdict = contrary if by_mouse else Verdict.UNSURE
        if by_mouse:
            wanted.remove(contrary)
        said[task["data"]["pair_id"]] = (verdict, *names)
        if number == 0:
            page.screenshot(path=tmp_path / "labelling.png")
            assert not blank_passes(page, album, task)
    answer(page, verdict, by_mouse=by_mouse)
    context.close()
    assert wanted == []
    assert [url for url in asked if not url.startswith((studio.known["url"], "blob:", "data:"))] == []

    assert said.keys() == waiting
    assert f"{len(said)} answers" in shell.feedback("pull")
    current = desk.decisions.current()
    assert {pair: current[pair].verdict for pair in said} == {pair: verdict for pair, (verdict, _, _) in said.items()}
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
        for verdict, left, right in said.values():
            if verdict is not Verdict.UNSURE:
                assert together(groups, rename(left), rename(right)) == (verdict is Verdict.DUPLICATE), (left, right)


def renamed(path: str) -> str:
    place = Path(path)
    return str(place.with_name(f"renamed {place.name}")) if place.suffix == ".png" else path
