"""The report as text: escaping, order, bounds, pages; what a person sees is in tests/integration."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from ndd.errors import InputError
from ndd.report import MAX_PAGE_BYTES, ReportGroup, ReportMember, ReportPair, thumbnail, write_report
from ndd.types import Failure, Relation

RUN: Mapping[str, Any] = {
    "images": 12,
    "failed": 1,
    "threshold": 0.8731,
    "precision": 0.99,
    "prior": 0.02,
    "digests": {"embedding": "9f3ac1d07be24c55aa"},
    "seconds": {"embed": 3.0, "total": 4.25},
    "paths": ["/home/ada/Pictures"],
    "config": {"relation": "edited"},
}


def picture(side: int = 32, *, seed: int = 0, format: str = "JPEG") -> bytes:
    """Noise: what compresses worst."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, format, quality=78)
    return buffer.getvalue()


SMALL = picture()


def small(uri: str) -> bytes:
    return SMALL


def member(path: str, *, keep: bool = False, **changes: Any) -> ReportMember:
    plain = {"uri": f"/album/{path}", "width": 40, "height": 30, "bytes": 1000, "format": "JPEG"}
    plain["reason"] = "kept: 40×30 JPEG, sharpest of 2" if keep else "same picture, 40×30, less detail"
    return ReportMember(path=path, keep=keep, **{**plain, **changes})


def pair(left: str, right: str, score: float = 0.995, relation: Relation | None = Relation.EDITED) -> ReportPair:
    evidence = {"inliers": 214, "mirrored": True, "overlap_left": 0.62, "overlap_right": 1.0}
    return ReportPair(left=left, right=right, score=score, relation=relation, distance=0.12, evidence=evidence)


def group(number: int, *names: str) -> ReportGroup:
    """The first of the sorted names is kept and matches all others."""
    members = tuple(member(name, keep=name == names[0]) for name in names)
    return ReportGroup(number=number, members=members, pairs=tuple(pair(names[0], name) for name in names[1:]))


class Page(HTMLParser):
    """Elements, attributes and text of a page, and whether its tags are balanced."""

    VOID = frozenset({"meta", "link", "img", "input", "br", "wbr"})

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        joined = " ".join(self.words).replace("\N{NO-BREAK SPACE}", " ")
        return re.sub(r"\s+", " ", joined)

    def all(self, tag: str, **attributes: str) -> list[dict[str, str | None]]:
        wanted = {name.rstrip("_"): value for name, value in attributes.items()}
        return [a for t, a in self.elements if t == tag and all(a.get(n) == v for n, v in wanted.items())]


def written(directory: Path, **arguments: Any) -> Page:
    options: dict[str, Any] = {"run": RUN, "groups": [], "failures": [], "thumbnail": small}
    path = write_report(directory, **{**options, **arguments})
    assert path == directory / "report.html"
    return Page(path.read_text(encoding="utf-8"))


# ---- content


def test_what_was_found_is_said(tmp_path: Path) -> None:
    page = written(tmp_path, groups=[group(1, "a/x.jpg", "b/y.jpg", "b/z.jpg"), group(2, "p.jpg", "q.jpg")])
    assert "2 groups of near-duplicates" in page.text
    assert "3 of 11 pictures repeat another one. Keeping one of each group would free 3.0 kB." in page.text
    for fact in ("12", "4.2", "99 %", "87.3 %", "9f3ac1d07be2", "/home/ada/Pictures", "3 edited copies"):
        assert fact in page.text
    assert page.text.count("214 keypoints agree · mirrored · shows 62 % of the kept picture") == 3
    assert "sharpest of 2" in page.text
    assert "same picture, less detail" in page.text  # the size stands beside it already
    assert [a["alt"] for a in page.all("img")[:2]] == ["x.jpg, to keep", "y.jpg, edited copy"]


def test_the_kept_picture_comes_first_then_the_best_matches(tmp_path: Path) -> None:
    members = [member("a.jpg"), member("b.jpg"), member("c.jpg", keep=True), member("d.jpg")]
    pairs = (pair("a.jpg", "c.jpg", 0.9), pair("b.jpg", "c.jpg", 0.99), pair("a.jpg", "d.jpg", 0.95))
    page = written(tmp_path, groups=[ReportGroup(number=7, members=tuple(members), pairs=pairs)])
    assert [str(a["alt"])[0] for a in page.all("img")] == ["c", "b", "d", "a"]
    assert "matches a.jpg : 214 keypoints agree" in page.text  # d is linked to a alone
    assert page.all("section", id_="g7")[0]["data-relations"] == "edited "
    assert page.all("section", id_="g7")[0]["data-least"] == "0.9"


def test_a_group_without_pairs_and_an_unknown_relation_are_shown(tmp_path: Path) -> None:
    bare = ReportGroup(number=1, members=(member("a.jpg", keep=True), member("b.jpg")))
    loose = ReportGroup(number=2, members=bare.members, pairs=(pair("a.jpg", "b.jpg", 0.9, None),))
    assert "Group 2" in written(tmp_path, groups=[bare, loose]).text


def test_no_duplicates_and_nothing_readable_look_different(tmp_path: Path) -> None:
    none = written(tmp_path / "none", run={**RUN, "failed": 0})
    assert "No near-duplicates found" in none.text
    assert "All 12 readable pictures were compared" in none.text
    lost = [Failure(path=f"{i}.jpg", stage="header", reason="not a known format") for i in range(12)]
    failed = written(tmp_path / "failed", run={**RUN, "failed": 12}, failures=lost)
    assert "No picture could be read" in failed.text
    assert "12 pictures could not be read" in failed.text
    assert len(failed.all("section")) == 1


def test_a_run_that_says_nothing_is_no_obstacle(tmp_path: Path) -> None:
    assert "1 group of near-duplicates" in written(tmp_path, run={}, groups=[group(1, "a.jpg", "b.jpg")]).text
    odd = {"images": "many", "failed": None, "seconds": "long", "digests": 3, "config": [], "paths": "x", "prior": None}
    assert "No near-duplicates" in written(tmp_path, run=odd).text


# ---- hostile names


HOSTILE = (
    "<script>alert(1)</script>.jpg",
    '"><img src=x onerror=alert(1)>.jpg',
    "a' onmouseover='alert(1).jpg",
    "{{ 7*7 }}{% raw %}.jpg",
    "</style></script><b>.jpg",
    "&lt;i&gt;&amp;.jpg",
    "javascript:alert(1).jpg",
    "\u202egpj.exe",
    "line\nbreak\x1b[31m.jpg",
    "caf\udce9 100%.jpg",
    "nul\x00.jpg",
)


def test_hostile_paths_are_text_and_nothing_else(tmp_path: Path) -> None:
    names = [f"{i:02d}/{name}" for i, name in enumerate(HOSTILE)]
    failures = [Failure(path=name, stage=name, reason=name) for name in names]
    run = {**RUN, "paths": names, "digests": {"embedding": "<b>"}}
    page = written(tmp_path, run=run, groups=[group(1, *names)], failures=failures)
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"b", "iframe", "object", "base", "form"}
    assert len(page.all("script")) == 1
    assert len(page.all("img")) == len(names)
    for _, attributes in page.elements:
        assert not any(name.startswith("on") or name == "style" for name in attributes)
    for name in HOSTILE[:7]:
        assert page.text.count(name) >= 3  # a tile, the table of failures three times, what was searched
    for shown in ("\\u202egpj.exe", "line\\x0abreak\\x1b[31m.jpg", "caf%E9 100%.jpg", "nul\\x00.jpg"):
        assert shown in page.text
    assert not set(page.text) & {"\u202e", "\x1b", "\x00"}


def test_links_lead_to_files_alone(tmp_path: Path) -> None:
    uris = ["/album/a #1?.jpg", "/album/caf\udce9.jpg", "s3://bucket/x.jpg", "javascript:alert(1)", "relative.jpg"]
    members = tuple(member(f"{i}.jpg", keep=i == 0, uri=uri) for i, uri in enumerate(uris))
    page = written(tmp_path, groups=[ReportGroup(number=1, members=members)])
    links = [str(a["href"]) for a in page.all("a", class_="mat")]
    assert links == ["file:///album/a%20%231%3F.jpg", "file:///album/caf%E9.jpg"]
    assert len(page.all("img")) == 5


def test_the_policy_names_the_inline_code_and_allows_nothing_else(tmp_path: Path) -> None:
    page = written(tmp_path, groups=[group(1, "a.jpg", "b.jpg")])
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    policy = str(page.all("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"])
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for tag, directive in (("style", "style-src"), ("script", "script-src")):
        (code,) = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.S)
        digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in policy
    for tag, attributes in page.elements:
        for name in ("src", "href", "srcset", "poster", "data", "action"):
            scheme = urlsplit(attributes.get(name) or "").scheme
            assert scheme in ("", "data") or (tag == "a" and scheme == "file")


# ---- bounds


def test_large_groups_show_24_pictures_and_list_the_rest(tmp_path: Path) -> None:
    asked: list[str] = []

    def counted(uri: str) -> bytes:
        asked.append(uri)
        return SMALL

    names = [f"{i:05d}.jpg" for i in range(10_000)]
    page = written(tmp_path, groups=[group(1, *names)], thumbnail=counted)
    assert len(page.all("img")) == len(asked) == 24
    assert "and 9,976 more" in page.text
    assert "09999.jpg" in page.text
    assert "9,975 further pairs are in pairs.parquet" in page.text


def test_many_groups_go_to_further_pages(tmp_path: Path) -> None:
    groups = [group(i, f"{i:04d}/a.jpg", f"{i:04d}/b.jpg") for i in range(1, 66)]
    failures = [Failure(path="x.jpg", stage="open", reason="gone")]
    first = written(tmp_path, groups=groups, failures=failures, page_size=30)
    second, third = (Page((tmp_path / "report" / f"page-{n}.html").read_text(encoding="utf-8")) for n in (2, 3))
    assert [len(page.all("section", class_="card")) for page in (first, second, third)] == [30, 30, 5]
    assert third.all("section", class_="card")[0]["id"] == "g61"
    assert "65 groups of near-duplicates" in third.text
    assert "Groups 31 to 60 of 65" in second.text
    assert "could not be read" in first.text
    assert "could not be read" not in second.text
    for directory, page in ((tmp_path, first), (tmp_path / "report", third)):
        links = {str(a["href"]) for a in page.all("a") if str(a["href"]).endswith(".html")}
        assert len(links) == 3
        assert all((directory / link).is_file() for link in links)

    written(tmp_path, groups=groups[:31], page_size=30)
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == ["page-2.html"]
    assert len(written(tmp_path, groups=[group(i, "a.jpg", "b.jpg") for i in range(301)]).all("img")) == 600


def test_a_page_never_exceeds_its_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """30 groups of 30 pictures whose thumbnails are noise: ten times too much if all were shown as they are."""
    monkeypatch.setattr("ndd.report.MAX_PAGE_BYTES", MAX_PAGE_BYTES // 10)
    noise = picture(170)
    assert len(noise) * 30 * 24 > MAX_PAGE_BYTES // 10 * 7
    groups = [group(i, *(f"{i:04d}/{'long name ' * 12}{j:02d}.jpg" for j in range(30))) for i in range(30)]
    page = written(tmp_path, groups=groups, thumbnail=lambda uri: noise)
    size = (tmp_path / "report.html").stat().st_size
    assert MAX_PAGE_BYTES / 30 < size <= MAX_PAGE_BYTES / 10
    images = page.all("img")
    assert len(images) >= 30 * 5
    assert all(int(str(image["width"])) >= 96 for image in images)


def test_very_long_paths_and_many_failures_stay_within_the_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ndd.report.MAX_PAGE_BYTES", MAX_PAGE_BYTES // 10)
    deep = "/".join(["d" * 250] * 15)
    groups = [group(i, *(f"{i}/{deep}/{j:02d}.jpg" for j in range(30))) for i in range(30)]
    failures = [Failure(path=f"{i}/{deep}", stage="header", reason="not a known format") for i in range(400)]
    page = written(tmp_path, groups=groups, failures=failures)
    assert (tmp_path / "report.html").stat().st_size <= MAX_PAGE_BYTES / 10
    assert "400 pictures could not be read" in page.text
    assert re.search(r"[\d,]+ more are in failures\.parquet", page.text)
    assert re.search(r"[\d,]+ further paths are in groups\.parquet", page.text)


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    groups = [group(i, f"{i}/a.jpg", f"{i}/b.jpg") for i in range(20)]
    one, two = (write_report(tmp_path / n, run=RUN, groups=groups, failures=[], thumbnail=small) for n in "ab")
    assert one.read_bytes() == two.read_bytes()


# ---- thumbnails


def test_thumbnails_are_small_upright_jpegs_of_the_files(tmp_path: Path) -> None:
    path = tmp_path / "turned.jpg"
    image = Image.fromarray(np.full((300, 1200, 3), (200, 30, 30), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    image.save(path, exif=exif.tobytes())
    content = thumbnail(str(path))
    assert content is not None
    shown = Image.open(io.BytesIO(content))
    assert (shown.format, shown.size) == ("JPEG", (60, 240))
    red, green, blue = np.asarray(shown)[120, 30]
    assert red > 190 and green < 45 and blue < 45


def test_a_picture_that_is_gone_or_damaged_leaves_a_gap_not_an_error(tmp_path: Path) -> None:
    assert thumbnail(str(tmp_path / "gone.jpg")) is None
    (tmp_path / "text.jpg").write_text("no picture")
    assert thumbnail(str(tmp_path / "text.jpg")) is None
    answers = {"/album/a.jpg": b"no picture", "/album/b.jpg": None, "/album/c.jpg": picture(format="PNG")}
    page = written(tmp_path, groups=[group(1, "a.jpg", "b.jpg", "c.jpg")], thumbnail=answers.__getitem__)
    assert page.text.count("no preview") == 2
    assert [str(a["src"])[:22] for a in page.all("img")] == ["data:image/png;base64,"]


def test_the_default_thumbnail_reads_the_members_files(tmp_path: Path) -> None:
    members = []
    for name in "ab":
        (tmp_path / f"{name}.jpg").write_bytes(picture(500))
        members.append(member(f"{name}.jpg", keep=name == "a", uri=str(tmp_path / f"{name}.jpg")))
    path = write_report(tmp_path / "out", run={}, groups=[ReportGroup(number=1, members=tuple(members))], failures=[])
    images = Page(path.read_text(encoding="utf-8")).all("img")
    assert [(image["width"], image["height"]) for image in images] == [("240", "240")] * 2


# ---- wrong input


def test_wrong_groups_are_named() -> None:
    with pytest.raises(InputError, match="group 4: wants two or more"):
        ReportGroup(number=4, members=(member("a.jpg", keep=True),))
    with pytest.raises(InputError, match="one of them kept"):
        ReportGroup(number=4, members=(member("a.jpg"), member("b.jpg")))
    with pytest.raises(InputError, match=r"a\.jpg – z\.jpg are not both members"):
        ReportGroup(number=4, members=(member("a.jpg", keep=True), member("b.jpg")), pairs=(pair("a.jpg", "z.jpg"),))
