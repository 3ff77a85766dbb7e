"""The report as a person sees it, in a real Chromium."""

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

pytestmark = pytest.mark.browser

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


def _photo(name: str) -> Pixels:
    pixels = load_sample_image(name) if name.endswith(".jpg") else getattr(photographs, name)()
    return np.ascontiguousarray(pixels[..., :3], np.uint8)


def _member(folder: Path, path: str, pixels: Pixels, *, keep: bool, reason: str) -> ReportMember:
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


def _groups(folder: Path) -> list[ReportGroup]:
    """Three photographs, each with a mirrored copy (edited), the second one with an identical file too."""
    groups = []
    for number, name in enumerate(("coffee", "astronaut", "china.jpg"), start=1):
        pixels = _photo(name)
        stem = name.removesuffix(".jpg")
        small = np.asarray(cv2.resize(pixels[:, ::-1], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), np.uint8)
        members = [
            _member(folder, f"{stem}/original.jpg", pixels, keep=True, reason="kept: sharpest of 2"),
            _member(folder, f"{stem}/Mirrored_{number}.jpg", small, keep=False, reason="same picture, less detail"),
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
            members.append(_member(folder, twin, pixels, keep=False, reason="same picture, no better in any respect"))
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
    return write_report(folder / "out", run=RUN, groups=_groups(folder / "album"), failures=FAILURES)


# ---- what is seen


def _screenshot(target: Page | Locator) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(target.screenshot())).convert("RGB"))


def _cards(page: Page) -> list[str]:
    """Ids of the cards that can be seen, from top to bottom."""
    cards = [card for card in page.locator(".card").all() if card.is_visible()]
    places = {card.get_attribute("id") or "": (card.bounding_box() or {"y": 0.0})["y"] for card in cards}
    return sorted(places, key=places.__getitem__)


def _focused(page: Page) -> str:
    return str(page.evaluate("document.activeElement.id"))


def test_the_pictures_are_really_there(watched: Watched, report: Path) -> None:
    watched.page.goto(report.as_uri())
    images = watched.page.locator(".tile img").all()
    assert len(images) == 7
    originals = [_photo("coffee"), _photo("coffee")[:, ::-1], _photo("astronaut")]
    for image in images:
        assert image.evaluate("i => i.complete && i.naturalWidth > 0 && i.naturalHeight > 0")
        assert _screenshot(image).std() > 20  # not a blank box
    for image, original in zip(images, originals, strict=False):  # and they are these photographs, the right way round
        shown = cv2.resize(_screenshot(image), (16, 16), interpolation=cv2.INTER_AREA).astype(np.float64).ravel()
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
    assert _focused(page) == "search"
    page.keyboard.type("ASTRO mirrored")
    assert _cards(page) == ["g2"]
    assert page.locator("#count").inner_text() == "1 of 3 groups"
    page.locator("#search").fill("mirrored_3")
    assert _cards(page) == ["g3"]
    page.locator("#search").fill("nowhere")
    assert _cards(page) == []
    assert page.locator("#nothing").is_visible()
    page.locator("#reset").click()
    assert _cards(page) == ["g1", "g2", "g3"]
    page.locator("#search").fill("coffee")
    page.keyboard.press("Escape")
    assert _cards(page) == ["g1", "g2", "g3"]


def test_filter_and_order(watched: Watched, report: Path) -> None:
    page = watched.page
    page.goto(report.as_uri())
    identical = page.get_by_role("button", name="Identical file")
    identical.click()
    assert identical.get_attribute("aria-pressed") == "true"
    assert _cards(page) == ["g2"]
    page.get_by_role("button", name="Edited copy").click()
    assert _cards(page) == ["g1", "g2", "g3"]
    page.get_by_label("Order").select_option("least")
    assert _cards(page) == ["g3", "g2", "g1"]
    page.get_by_label("Order").select_option("count")
    assert _cards(page) == ["g2", "g1", "g3"]


def test_keys_move_from_group_to_group_and_the_focus_is_seen(watched: Watched, report: Path) -> None:
    page = watched.page
    page.goto(report.as_uri())
    before = _screenshot(page.locator("body"))
    page.keyboard.press("j")
    assert _focused(page) == "g1"
    assert page.locator("#g1").evaluate("card => getComputedStyle(card).outlineStyle") == "solid"
    assert (_screenshot(page.locator("body")) != before).any()
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("j")  # the last one stays
    assert _focused(page) == "g3"
    box = page.locator("#g3").bounding_box()
    assert box is not None and 0 <= box["y"] < 900
    page.keyboard.press("k")
    assert _focused(page) == "g2"
    page.locator("#search").fill("china")
    page.locator("#search").blur()
    page.keyboard.press("j")
    assert _focused(page) == "g3"
    page.locator("#search").press("j")  # a letter in the search box is a letter
    assert sorted(page.locator("#search").input_value()) == sorted("chinaj")
    assert _focused(page) == "search"


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
    light = _screenshot(page)[-1, 2]
    page.emulate_media(color_scheme="dark", reduced_motion="reduce")
    dark = _screenshot(page)[-1, 2]
    assert light.min() > 230 and dark.max() < 60
    page.locator("#theme").click()
    assert (_screenshot(page)[-1, 2] == light).all()
    page.reload()  # the choice is remembered
    assert (_screenshot(page)[-1, 2] == light).all()
    page.keyboard.press("t")
    assert (_screenshot(page)[-1, 2] == dark).all()


CONTRAST = """() => {
  const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const channel = (v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const luminance = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const background = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const bad = [];
  let tested = 0;
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.getClientRects().length) continue;
    const one = luminance(parse(getComputedStyle(element).color)), two = luminance(background(element));
    const ratio = (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
    tested += 1;
    if (ratio < 4.5) bad.push([element.className || element.tagName, element.textContent.trim().slice(0, 30), ratio]);
  }
  return { bad, tested };
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_the_contrast_that_wcag_aa_asks_for(watched: Watched, report: Path, scheme: str) -> None:
    page = watched.page
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    page.goto(report.as_uri())
    for button in page.locator(".filter").all():
        button.click()
    for summary in page.locator("summary").all():
        summary.click()
    found = page.evaluate(CONTRAST)
    assert found["tested"] > 80
    assert found["bad"] == []


def test_pictures_and_controls_have_names(watched: Watched, report: Path) -> None:
    page = watched.page
    page.goto(report.as_uri())
    assert page.get_by_role("img", name="original.jpg, to keep").count() == 3
    assert page.get_by_role("searchbox", name="Search by path").count() == 1
    assert page.get_by_role("button", name="Switch between light and dark").count() == 1
    assert page.get_by_role("region", name="Group 2").count() == 1
    assert page.get_by_role("heading", level=1).count() == 1


@pytest.mark.parametrize("width", [320, 400, 768, 1920])
def test_nothing_is_cut_off_at_any_width(watched: Watched, report: Path, width: int) -> None:
    page = watched.page
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(report.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == width
    for image in page.locator(".tile img").all():
        box = image.bounding_box()
        assert box is not None and box["x"] >= 0 and box["x"] + box["width"] <= width and box["height"] > 40


def test_large_groups_unfold_and_pages_lead_on(watched: Watched, tmp_path: Path) -> None:
    (first, *_rest) = _groups(tmp_path / "album")
    kept = first.members[0]
    copies = [
        ReportMember(
            path=f"copies/{i:03d}.jpg",
            uri=kept.uri,
            keep=False,
            reason="same picture, no better in any respect",
            width=600,
            height=400,
            bytes=1000,
            format="JPEG",
        )
        for i in range(40)
    ]
    large = ReportGroup(number=1, members=(kept, *copies))
    others = [ReportGroup(number=i, members=first.members, pairs=first.pairs) for i in range(2, 12)]
    report = write_report(tmp_path / "out", run=RUN, groups=[large, *others], failures=[], page_size=5)
    page = watched.page
    page.goto(report.as_uri())
    assert page.locator("#g1 .tile").count() == 24
    hidden = page.get_by_text("copies/039.jpg")
    assert not hidden.is_visible()
    page.get_by_text("and 17 more").click()
    assert hidden.is_visible()
    page.locator("#search").fill("copies/039")  # the folded paths are searched too
    assert _cards(page) == ["g1"]
    page.locator("nav").first.get_by_role("link", name="3").click()
    assert _cards(page) == ["g11"]
    assert page.locator("#g11 img").first.evaluate("i => i.naturalWidth > 0")
    page.locator("nav").first.get_by_role("link", name="1").click()
    assert page.url == report.as_uri()


def test_hostile_names_run_nothing(watched: Watched, tmp_path: Path) -> None:
    names = [
        "<img src=x onerror=\"document.title='owned'\">.jpg",
        "</script><script>document.title='owned'</script>.jpg",
    ]
    members = tuple(
        ReportMember(
            path=name, uri=f"/nowhere/{name}", keep=i == 0, reason=name, width=1, height=1, bytes=1, format="JPEG"
        )
        for i, name in enumerate(names)
    )
    failures = [Failure(path=name, stage="open", reason=name) for name in names]
    group = ReportGroup(number=1, members=members)
    watched.page.goto(write_report(tmp_path, run=RUN, groups=[group], failures=failures).as_uri())
    assert watched.page.title() == "1 group of near-duplicates"
    assert watched.page.locator("#failures").is_visible()
    assert names[0] in watched.page.locator("body").inner_text()
    assert watched.page.get_by_text("no preview").count() == 2


@pytest.mark.parametrize(
    ("run", "failures", "title"),
    [
        ({"images": 40, "failed": 0}, [], "No near-duplicates found"),
        ({"images": 2, "failed": 2}, FAILURES, "No picture could be read"),
    ],
)
def test_empty_reports_look_right(
    watched: Watched, tmp_path: Path, run: dict[str, int], failures: list[Failure], title: str
) -> None:
    page = watched.page
    page.goto(write_report(tmp_path, run=run, groups=[], failures=failures).as_uri())
    assert page.locator("h1").inner_text() == title
    assert page.locator(".empty").is_visible()
    assert _screenshot(page.locator(".empty svg")).std() > 10
    assert page.locator(".tools").count() == 0
    assert page.locator("tbody tr").count() == len(failures)
    page.keyboard.press("j")
    page.keyboard.press("t")
    assert _screenshot(page)[-1, 2].max() < 60


def test_it_prints_on_paper(watched: Watched, report: Path) -> None:
    page = watched.page
    page.emulate_media(media="print", color_scheme="dark")
    page.goto(report.as_uri())
    assert not page.locator(".tools").is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.pdf()[:5] == b"%PDF-"
