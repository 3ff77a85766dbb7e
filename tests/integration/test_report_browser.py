"""The report as a person sees it, in a real Chromium: pictures, search, keys, light and dark."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.integration.report_pages import (
    Watched,
    cards,
    focused,
    photo,
    screenshot,
)

pytestmark = pytest.mark.browser


def test_the_pictures_are_really_there(watched: Watched, report: Path) -> None:
    watched.page.goto(report.as_uri())
    images = watched.page.locator(".tile img").all()
    assert len(images) == 7
    originals = [photo("coffee"), photo("coffee")[:, ::-1], photo("astronaut")]
    for image in images:
        assert image.evaluate("i => i.complete && i.naturalWidth > 0 && i.naturalHeight > 0")
        assert screenshot(image).std() > 20  # not a blank box
    for image, original in zip(images, originals, strict=False):  # and they are these photographs, the right way round
        shown = cv2.resize(screenshot(image), (16, 16), interpolation=cv2.INTER_AREA).astype(np.float64).ravel()
        expected = cv2.resize(original, (16, 16), interpolation=cv2.INTER_AREA).astype(np.float64).ravel()
        assert np.corrcoef(shown, expected)[0, 1] > 0.95


def test_pictures_of_a_group_stand_in_a_row_of_one_height(watched: Watched, report: Path) -> None:
    watched.page.goto(report.as_uri())
    boxes = [mat.bounding_box() for mat in watched.page.locator("#g2 .mat").all()]
    assert len(boxes) == 3
    assert len({box["y"] for box in boxes if box}) == len({box["height"] for box in boxes if box}) == 1


def test_the_words_are_readable(watched: Watched, report: Path) -> None:
    watched.page.goto(report.as_uri())
    body = watched.page.locator("body").inner_text().replace("\N{NO-BREAK SPACE}", " ")
    for words in (
        "3 groups of near-duplicates",
        "4 of 38 pictures repeat another one",
        "214 keypoints agree · mirrored · shows 62 % of the kept picture · distance 0.20",
        "every byte is the same",
        "2 pictures could not be read",
        "\\u202egpj.exe",
    ):
        assert words in body
    assert watched.page.locator(".badge").count() == 3


def test_search_shows_matching_groups_alone(watched: Watched, report: Path) -> None:
    page = watched.page
    page.goto(report.as_uri())
    page.keyboard.press("/")
    assert focused(page) == "search"
    page.keyboard.type("ASTRO mirrored")
    assert cards(page) == ["g2"]
    assert page.locator("#count").inner_text() == "1 of 3 groups"
    page.locator("#search").fill("mirrored_3")
    assert cards(page) == ["g3"]
    page.locator("#search").fill("nowhere")
    assert cards(page) == []
    assert page.locator("#nothing").is_visible()
    page.locator("#reset").click()
    assert cards(page) == ["g1", "g2", "g3"]
    page.locator("#search").fill("coffee")
    page.keyboard.press("Escape")
    assert cards(page) == ["g1", "g2", "g3"]


def test_filter_and_order(watched: Watched, report: Path) -> None:
    page = watched.page
    page.goto(report.as_uri())
    identical = page.get_by_role("button", name="Identical file")
    identical.click()
    assert identical.get_attribute("aria-pressed") == "true"
    assert cards(page) == ["g2"]
    page.get_by_role("button", name="Edited copy").click()
    assert cards(page) == ["g1", "g2", "g3"]
    page.get_by_label("Order").select_option("least")
    assert cards(page) == ["g3", "g2", "g1"]
    page.get_by_label("Order").select_option("count")
    assert cards(page) == ["g2", "g1", "g3"]


def test_keys_move_from_group_to_group_and_the_focus_is_seen(watched: Watched, report: Path) -> None:
    page = watched.page
    page.goto(report.as_uri())
    before = screenshot(page.locator("body"))
    page.keyboard.press("j")
    assert focused(page) == "g1"
    assert page.locator("#g1").evaluate("card => getComputedStyle(card).outlineStyle") == "solid"
    assert (screenshot(page.locator("body")) != before).any()
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("j")  # the last one stays
    assert focused(page) == "g3"
    box = page.locator("#g3").bounding_box()
    assert box is not None and 0 <= box["y"] < 900
    page.keyboard.press("k")
    assert focused(page) == "g2"
    page.locator("#search").fill("china")
    page.locator("#search").blur()
    page.keyboard.press("j")
    assert focused(page) == "g3"
    page.locator("#search").press("j")  # a letter in the search box is a letter
    assert sorted(page.locator("#search").input_value()) == sorted("chinaj")
    assert focused(page) == "search"


def test_everything_can_be_reached_with_the_tab_key(watched: Watched, report: Path) -> None:
    page = watched.page
    page.goto(report.as_uri())
    seen = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        seen.add(
            page.evaluate(
                "document.activeElement.id || document.activeElement.className || document.activeElement.tagName"
            )
        )
    assert {"skip", "theme", "search", "sort", "mat", "SUMMARY"} <= seen


def test_dark_mode_follows_the_system_and_the_switch(watched: Watched, report: Path) -> None:
    page = watched.page
    page.goto(report.as_uri())
    light = screenshot(page)[-1, 2]
    page.emulate_media(color_scheme="dark", reduced_motion="reduce")
    dark = screenshot(page)[-1, 2]
    assert light.min() > 230 and dark.max() < 60
    page.locator("#theme").click()
    assert (screenshot(page)[-1, 2] == light).all()
    page.reload()  # the choice is remembered
    assert (screenshot(page)[-1, 2] == light).all()
    page.keyboard.press("t")
    assert (screenshot(page)[-1, 2] == dark).all()
