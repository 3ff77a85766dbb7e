"""The page of the server as a person sees it, in a real Chromium: two pictures, the index, light and dark, errors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from playwright.sync_api import Browser, Page

from ndd.model.directory import shipped
from tests.integration.report_pages import photo, screenshot
from tests.serve.running import KEYS, Running, encoded, running

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("page")
    with running(folder, shipped(), {"review.rate": 0}) as started:
        for name in ("cat", "coffee", "rocket"):
            started.post("/v1/images", files={"image": encoded(small(name))}, data={"id": f"shelf/{name} <b>ä.png"})
        yield started


@pytest.fixture
def page(browser: Browser, server: Running) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1000, "height": 1000}, color_scheme="light")
    page, complaints = context.new_page(), list[str]()
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(f"{server.url}/#key={KEYS['read']}")
    yield page
    assert [text for text in complaints if "422" not in text and "401" not in text] == []
    context.close()


def small(name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    pixels = photo(name)
    return np.asarray(cv2.resize(pixels, (420, 420 * pixels.shape[0] // pixels.shape[1]), interpolation=cv2.INTER_AREA))


def edited(name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Mirrored, turned by twelve degrees, the edges cut off."""
    pixels = small(name)[:, ::-1]
    height, width = pixels.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), 12, 1.2)
    return np.asarray(cv2.warpAffine(pixels, turn, (width, height)))[20:-20, 30:-30]


def drop(page: Page, zone: str, content: bytes, name: str) -> None:
    files = [{"name": name, "mimeType": "image/png", "buffer": content}]
    page.locator(f'[data-name="{zone}"] input').set_input_files(files)  # type: ignore[arg-type]


def test_two_pictures_are_compared_and_laid_over_one_another(page: Page, tmp_path: Path) -> None:
    assert "key=" not in page.url  # it does not stay in the address
    drop(page, "a", encoded(small("cat")), "first.png")
    drop(page, "b", encoded(edited("cat")), "second.png")
    page.locator("#result").wait_for()
    assert page.locator("#verdict").inner_text() == "Duplicates"
    assert page.locator("#relation").inner_text() == "an edited copy"
    why = page.locator("#why").inner_text()
    assert "keypoints agree" in why
    assert "one is mirrored" in why
    stage = page.locator(".stage")
    views = {}
    for blend in (0, 100):
        page.locator("#blend").fill(str(blend))
        views[blend] = screenshot(stage)[60:-60, 60:-60].astype(np.float64)
    page.locator("#blend").fill("50")
    assert views[0].std() > 20
    assert np.corrcoef(views[0].ravel(), views[100].ravel())[0, 1] > 0.95  # it lies where it belongs
    page.screenshot(path=tmp_path / "light.png", full_page=True)
    page.emulate_media(color_scheme="dark")
    assert screenshot(page.locator("body"))[5, 5].max() < 60
    page.screenshot(path=tmp_path / "dark.png", full_page=True)


def test_the_index_is_searched(page: Page, tmp_path: Path) -> None:
    page.get_by_role("tab", name="Search the index").click()
    drop(page, "image", encoded(edited("coffee")), "question.png")
    page.locator("#matches li").first.wait_for()
    first = page.locator("#matches li").first
    assert "shelf/coffee <b>ä.png" in first.inner_text()
    assert "Duplicates" in first.inner_text()
    # Not `wait_for_function`: it waits with `eval`, which the page forbids, and goes wrong where it has to wait at all.
    shown = first.locator("img")
    for _ in range(100):
        if shown.evaluate("img => img.naturalWidth") == 420:
            break
        page.wait_for_timeout(100)
    assert shown.evaluate("img => img.naturalWidth") == 420
    assert page.locator("#status").inner_text() == "This picture is there already."
    page.screenshot(path=tmp_path / "search.png", full_page=True)


def test_what_goes_wrong_is_said_in_words(page: Page) -> None:
    drop(page, "a", encoded(small("cat")), "first.png")
    drop(page, "b", b"no picture", "second.txt")
    page.locator("#status.wrong").wait_for()
    assert "b: not a picture" in page.locator("#status").inner_text()
    page.locator("#key").fill("not-a-key-at-all-really")
    page.locator("#key").press("Enter")
    page.locator("#status", has_text="no valid key").wait_for()


def test_keys_alone_are_enough(page: Page) -> None:
    page.locator("#tab-compare").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#search").is_visible() and not page.locator("#compare").is_visible()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.type") == "file"
