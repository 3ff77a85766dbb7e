"""The report for everyone: contrast, names, any width, any length, hostile names, paper."""

from __future__ import annotations

from pathlib import Path

import pytest

from ndd.report import ReportGroup, ReportMember, write_report
from ndd.types import Failure
from tests.integration.report_pages import (
    FAILURES,
    RUN,
    Watched,
    cards,
    groups,
    screenshot,
)

pytestmark = pytest.mark.browser


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
    (first, *_rest) = groups(tmp_path / "album")
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
    assert cards(page) == ["g1"]
    page.locator("nav").first.get_by_role("link", name="3").click()
    assert cards(page) == ["g11"]
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
    assert screenshot(page.locator(".empty svg")).std() > 10
    assert page.locator(".tools").count() == 0
    assert page.locator("tbody tr").count() == len(failures)
    page.keyboard.press("j")
    page.keyboard.press("t")
    assert screenshot(page)[-1, 2].max() < 60


def test_it_prints_on_paper(watched: Watched, report: Path) -> None:
    page = watched.page
    page.emulate_media(media="print", color_scheme="dark")
    page.goto(report.as_uri())
    assert not page.locator(".tools").is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.pdf()[:5] == b"%PDF-"
