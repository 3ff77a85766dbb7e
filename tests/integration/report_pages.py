"""A report of real photographs and a real Chromium to look at it: what the browser tests share."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, sync_playwright
from skimage import data as photographs
from sklearn.datasets import load_sample_image

from ndd.report import ReportGroup, ReportMember, ReportPair, write_report
from ndd.types import Failure, Relation

Pixels = npt.NDArray[np.uint8]
RUN = {
    "images": 40,
    "failed": 2,
    "threshold": 0.87,
    "precision": 0.99,
    "seconds": 12.5,
    "digests": {"embedding": "9f3a"},
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = [shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome")]
    path = next((path for path in found if path), None)
    assert path, "these tests want a Chromium: apt-get install chromium, or deselect them with -m 'not browser'"
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path)
        yield launched
        launched.close()


class Watched:
    """A page, everything it asked for, and everything it complained about."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.requests: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))


@pytest.fixture
def watched(browser: Browser) -> Iterator[Watched]:
    context = browser.new_context(
        viewport={"width": 1280, "height": 900}, color_scheme="light", reduced_motion="reduce"
    )
    watched = Watched(context.new_page())
    yield watched
    assert watched.complaints == []
    outside = [url for url in watched.requests if not url.startswith(("file:///", "data:"))]
    files = {url for url in watched.requests if url.startswith("file:")}
    assert outside == []
    assert all(url.endswith(".html") for url in files)
    context.close()


# ---- an album


def photo(name: str) -> Pixels:
    pixels = load_sample_image(name) if name.endswith(".jpg") else getattr(photographs, name)()
    return np.ascontiguousarray(pixels[..., :3], np.uint8)


def member(folder: Path, path: str, pixels: Pixels, *, keep: bool, reason: str) -> ReportMember:
    file = folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)
    height, width = pixels.shape[:2]
    return ReportMember(
        path=path,
        uri=str(file),
        keep=keep,
        reason=reason,
        width=width,
        height=height,
        bytes=file.stat().st_size,
        format="JPEG",
    )


def groups(folder: Path) -> list[ReportGroup]:
    """Three photographs, each with a mirrored copy (edited), the second one with an identical file too."""
    groups = []
    for number, name in enumerate(("coffee", "astronaut", "china.jpg"), start=1):
        pixels = photo(name)
        stem = name.removesuffix(".jpg")
        small = np.asarray(cv2.resize(pixels[:, ::-1], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), np.uint8)
        members = [
            member(folder, f"{stem}/original.jpg", pixels, keep=True, reason="kept: sharpest of 2"),
            member(folder, f"{stem}/Mirrored_{number}.jpg", small, keep=False, reason="same picture, less detail"),
        ]
        evidence = {"inliers": 214, "mirrored": True, "overlap_left": 1.0, "overlap_right": 0.62}
        paths = f"{stem}/Mirrored_{number}.jpg", f"{stem}/original.jpg"
        pairs = [
            ReportPair(
                left=paths[0],
                right=paths[1],
                score=0.999 - number / 100,
                relation=Relation.EDITED,
                distance=0.2,
                evidence=evidence,
            )
        ]
        if number == 2:
            twin = f"{stem}/twin.jpg"
            members.append(member(folder, twin, pixels, keep=False, reason="same picture, no better in any respect"))
            exact = {"sha256": "ab"}
            pairs.append(
                ReportPair(left=paths[1], right=twin, score=1.0, relation=Relation.EXACT, distance=0.0, evidence=exact)
            )
        groups.append(ReportGroup(number=number, members=tuple(members), pairs=tuple(pairs)))
    return groups


FAILURES = [
    Failure(path="scan_31.tif", stage="decode", reason="cut short"),
    Failure(path="phone/\u202egpj.exe", stage="header", reason="not a known picture format"),
]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    return write_report(folder / "out", run=RUN, groups=groups(folder / "album"), failures=FAILURES)


# ---- what is seen


def screenshot(target: Page | Locator) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(target.screenshot())).convert("RGB"))


def cards(page: Page) -> list[str]:
    """Ids of the cards that can be seen, from top to bottom."""
    cards = [card for card in page.locator(".card").all() if card.is_visible()]
    places = {card.get_attribute("id") or "": (card.bounding_box() or {"y": 0.0})["y"] for card in cards}
    return sorted(places, key=places.__getitem__)


def focused(page: Page) -> str:
    return str(page.evaluate("document.activeElement.id"))
