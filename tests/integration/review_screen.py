"""A person at the labelling screen: a real Chromium, its keys and clicks, what is to be seen; and the commands around it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from playwright.sync_api import Locator, Page, Request, expect

import feedback.cli
import ndd.cli
from ndd.images import decode
from ndd.tables import read_groups
from ndd.types import Verdict
from tests.integration.report_pages import Pixels, screenshot
from tests.integration.review_studio import Studio

__all__ = ["Said", "Shell", "blank_passes", "label_all", "log_in", "look_at", "name_of", "photograph", "together"]

KEYS = {Verdict.DUPLICATE: "1", Verdict.DISTINCT: "2", Verdict.UNSURE: "3"}


@dataclass(frozen=True, kw_only=True)
class Said:
    """An answer that was submitted: about which pictures (paths as the screen shows them), and how."""

    left: str
    right: str
    verdict: Verdict
    by_mouse: bool = False


class Shell:
    """The commands as a person types them, in this process: each import of the network would take seconds."""

    def __init__(
        self, studio: Studio, patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *, home: Path | None = None
    ) -> None:
        """home: default the one whose previews the server can hand out."""
        self._capsys = capsys
        for name, value in (studio.environment | {"NDD_HOME": str(home or studio.home)}).items():
            patch.setenv(name, value)

    def ndd(self, *arguments: str) -> str:
        return self._run(ndd.cli.main, arguments)

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
    a, b = (cv2.resize(p, (24, 24), interpolation=cv2.INTER_AREA).astype(np.float64).ravel() for p in (seen, original))
    return bool(np.corrcoef(a, b)[0, 1] > 0.97)


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
        choose(page, verdict, page.locator(f"input[name={verdict}]").click)
    else:
        choose(page, verdict, lambda: page.keyboard.press(KEYS[verdict]))
    if verdict is Verdict.DUPLICATE:
        choose(page, "edited", lambda: page.keyboard.press("5"))
    if by_mouse:
        submit(page, page.locator("button", has_text="Submit").first.click)
    else:
        submit(page, lambda: page.keyboard.press("Control+Enter"))


def submit(page: Page, act: Callable[[], None]) -> None:
    """Act until the answer is on its way, as a person does who sees that nothing came of it; then wait for what is said to it.

    Any request counts, whenever it leaves, so nothing is sent twice: not even by a page that takes seconds to send it.
    """
    sent: list[Request] = []

    def look(request: Request) -> None:
        if "/annotations" in request.url and request.method == "POST":
            sent.append(request)

    page.on("request", look)
    try:
        until = time.monotonic() + 90
        while not sent:
            assert time.monotonic() < until, "the answer cannot be submitted"
            act()
            patience = time.monotonic() + 15
            while not sent and time.monotonic() < patience:
                page.wait_for_timeout(100)
    finally:
        page.remove_listener("request", look)
    response = sent[0].response()
    assert response is not None and response.ok


def choose(page: Page, name: str, act: Callable[[], None]) -> None:
    """Act until the box is ticked, as a person does who sees that nothing came of it.

    The screen shows a task a moment before it listens to the keyboard, and on a busy machine moments are long.
    """
    box = page.locator(f"input[name={name}]")
    until = time.monotonic() + 30
    while not box.is_checked():
        assert time.monotonic() < until, f"{name} cannot be chosen"
        act()
        with suppress(AssertionError):
            expect(box).to_be_checked(timeout=2000)


def label_all(
    page: Page, address: str, count: int, judge: Callable[[dict[str, Any]], tuple[Verdict, bool]]
) -> dict[str, Said]:
    """Answer `count` tasks as they come; pair_id → what was said. judge: task → verdict, and whether by mouse."""
    page.goto(address)
    said: dict[str, Said] = {}
    last: Said | None = None
    for _ in range(count):
        with page.expect_response(lambda r: "id=next_task" in r.url, timeout=120_000) as shown:
            if last is None:
                page.get_by_role("button", name="Label All Tasks").click()
            else:
                answer(page, last.verdict, by_mouse=last.by_mouse)
        task = shown.value.json()
        page.wait_for_load_state("networkidle")
        verdict, by_mouse = judge(task)
        last = Said(left=name_of(task, "left"), right=name_of(task, "right"), verdict=verdict, by_mouse=by_mouse)
        said[task["data"]["pair_id"]] = last
    assert last is not None
    answer(page, last.verdict, by_mouse=last.by_mouse)
    return said


def name_of(task: dict[str, Any], side: str) -> str:
    return str(task["data"][f"{side}_about"]).split(" · ")[0]


def photograph(path: str) -> str:
    return Path(path).stem.split("-")[0]
