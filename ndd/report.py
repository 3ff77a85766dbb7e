"""The HTML report of a search: self-contained pages that work offline and request nothing.

`report.html` shows the first 300 groups, `report/page-N.html` the rest. No page exceeds MAX_PAGE_BYTES: where it would,
thumbnails shrink first, then fewer members, comparisons and paths of each group are shown, and the page says so.
Scripts and styles are inline and named by their digest in a strict Content-Security-Policy; all text is escaped.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import jinja2
from markupsafe import Markup, escape

from ndd.cores import cores
from ndd.errors import DecodeError, InputError
from ndd.files import atomic_path, make_directory
from ndd.images import decode, fit_within, read_file
from ndd.phrases import path_text
from ndd.report_head import head_view
from ndd.report_view import Amount, GroupView, Picture, group_view
from ndd.types import Failure, Relation

__all__ = ["MAX_PAGE_BYTES", "ReportGroup", "ReportMember", "ReportPair", "thumbnail", "write_report"]

MAX_PAGE_BYTES = 15_000_000
GROUPS_PER_PAGE = 300
THUMBNAIL_SIDE = 240
"""Longer side of a thumbnail, pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportMember:
    """One picture of a group. uri: absolute path of the file; path: its name in the tables; bytes: size of the file."""

    path: str
    uri: str
    keep: bool
    reason: str
    width: int
    height: int
    bytes: int
    format: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportPair:
    """Two members that were compared and found duplicates; fields as in `ndd.tables.PairRow`."""

    left: str
    right: str
    score: float
    relation: Relation | None
    distance: float
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportGroup:
    """A group: two or more members, exactly one of them kept, and the pairs among them. Raises InputError if not so."""

    number: int
    members: tuple[ReportMember, ...]
    pairs: tuple[ReportPair, ...] = ()

    def __post_init__(self) -> None:
        if len(self.members) < 2 or sum(member.keep for member in self.members) != 1:
            raise InputError(f"group {self.number}: wants two or more members, one of them kept; check groups.parquet")
        paths = {member.path for member in self.members}
        for pair in self.pairs:
            if not {pair.left, pair.right} <= paths:
                raise InputError(
                    f"group {self.number}: {pair.left} – {pair.right} are not both members; leave the pair out"
                )


Thumbnail = Callable[[str], bytes | None]


def thumbnail(uri: str) -> bytes | None:
    """A JPEG of at most 240 × 240 pixels of the picture file `uri`, or None if it cannot be read any more."""
    try:
        return _jpeg(read_file(uri), side=THUMBNAIL_SIDE, quality=78)
    except DecodeError:
        return None


def write_report(
    out_dir: str | os.PathLike[str],
    *,
    run: Mapping[str, Any],
    groups: Sequence[ReportGroup],
    failures: Sequence[Failure],
    thumbnail: Thumbnail = thumbnail,
    page_size: int = GROUPS_PER_PAGE,
) -> Path:
    """Write `out_dir`/report.html, and report/page-2.html … if there are more groups than fit, and return the first.

    run: what run.json holds (images, failed, threshold, precision, digests, seconds …; what is absent is not shown).
    groups: in the order to be shown. thumbnail: uri → JPEG, PNG or WebP bytes or None; called from several threads.
    The same arguments give the same bytes. Pages left over from an earlier, longer report are removed.
    Raises StoreError where a page cannot be written.
    """
    directory = Path(out_dir)
    pages = max(1, -(-len(groups) // page_size))
    make_directory(directory / "report" if pages > 1 else directory)
    head = head_view(run, groups, failures)
    renderer = _Renderer()
    with ThreadPoolExecutor(min(4, cores())) as pool:
        for page in range(1, pages + 1):
            part = groups[(page - 1) * page_size : page * page_size]
            shared = {
                "head": head,
                "page": page,
                "pages": _page_links(page, pages),
                "first": (page - 1) * page_size + 1,
                "total": len(groups),
                "failures": failures if page == 1 else (),
            }
            text = _fitted(renderer, part, shared, lambda uris: pool.map(thumbnail, uris))
            with atomic_path(_page_path(directory, page)) as temporary:
                temporary.write_bytes(text)
    for stale in directory.glob("report/page-*.html"):
        if (number := re.fullmatch(r"page-(\d+)\.html", stale.name)) and int(number[1]) > pages:
            stale.unlink()
    return _page_path(directory, 1)


def _page_path(directory: Path, page: int) -> Path:
    return directory / "report.html" if page == 1 else directory / "report" / f"page-{page}.html"


def _page_links(page: int, pages: int) -> list[tuple[int, str, bool]]:
    """(number, relative address, is this page) of the pages to offer: the ends and the neighbours."""
    numbers = sorted({1, pages, *range(max(1, page - 2), min(pages, page + 2) + 1)})
    here = "report/" if page == 1 else ""
    return [
        (n, ("../report.html" if page > 1 else "report.html") if n == 1 else f"{here}page-{n}.html", n == page)
        for n in numbers
    ]


_AMOUNTS = (
    Amount(members=24, pairs=24, paths=20_000, failures=1000),
    Amount(members=16, pairs=12, paths=4000, failures=1000),
    Amount(members=8, pairs=6, paths=200, failures=300),
    Amount(members=5, pairs=3, paths=0, failures=100, clip=160),
)
"""How much of each group a page shows, generous to sparing."""
_SHRINK = ((240, 78), (200, 74), (160, 70), (128, 66), (96, 60))
"""Longer side and JPEG quality of thumbnails, generous to sparing."""


def _fitted(
    renderer: _Renderer,
    groups: Sequence[ReportGroup],
    shared: Mapping[str, Any],
    fetch: Callable[[list[str]], Iterable[bytes | None]],
) -> bytes:
    """One page with as much on it as MAX_PAGE_BYTES holds."""
    pictures: dict[str, bytes | None] = {}
    bare = b""
    for amount in _AMOUNTS:
        views = [group_view(group, amount) for group in groups]
        uris = list(dict.fromkeys(tile.uri for view in views for tile in view.tiles))
        bare = renderer.page(views, shared, amount, {})
        room = MAX_PAGE_BYTES - len(bare)
        if room < 0:
            continue
        sample = uris[:: max(1, len(uris) // _SAMPLE)]
        _add(pictures, sample, fetch)
        for level in _SHRINK:
            # A sample tells whether to try: reading and shrinking all of them takes long.
            guess = sum(map(len, _shrunk(pictures, sample, level).values())) * len(uris) / max(1, len(sample))
            if guess > 1.05 * room:
                continue
            _add(pictures, uris, fetch)
            encoded = {uri: _picture(content) for uri, content in _shrunk(pictures, uris, level).items()}
            text = renderer.page(views, shared, amount, {uri: found for uri, found in encoded.items() if found})
            if len(text) <= MAX_PAGE_BYTES:
                return text
    return bare


_SAMPLE = 64


def _add(
    pictures: dict[str, bytes | None], uris: list[str], fetch: Callable[[list[str]], Iterable[bytes | None]]
) -> None:
    missing = [uri for uri in uris if uri not in pictures]
    pictures.update(zip(missing, fetch(missing), strict=True))


def _shrunk(pictures: Mapping[str, bytes | None], uris: list[str], level: tuple[int, int]) -> dict[str, bytes]:
    """Base64 of the thumbnails that could be made, at most `level` = (side, JPEG quality)."""
    side, quality = level
    found = {uri: _smaller(pictures[uri], side, quality) for uri in uris}
    return {uri: base64.b64encode(content) for uri, content in found.items() if content is not None}


def _smaller(content: bytes | None, side: int, quality: int) -> bytes | None:
    if content is None or side == THUMBNAIL_SIDE:
        return content
    try:
        return _jpeg(content, side=side, quality=quality)
    except DecodeError:
        return None


def _jpeg(content: bytes, *, side: int, quality: int) -> bytes:
    pixels = fit_within(decode(content, min_side=side).pixels, side)
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
    return cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options)[1].tobytes()


def _picture(encoded: bytes) -> Picture | None:
    try:
        found = decode(base64.b64decode(encoded))
    except DecodeError:
        return None
    kind = {"PNG": "png", "WEBP": "webp"}.get(found.format, "jpeg")
    return Picture(f"data:image/{kind};base64,{encoded.decode()}", found.width, found.height)


class _Renderer:
    """The template with its style and script, whose digests the page's policy names."""

    def __init__(self) -> None:
        loader = jinja2.PackageLoader("ndd", "templates")
        self._environment = jinja2.Environment(
            loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        self._environment.filters.update(visible=path_text, breakable=_breakable)
        self._style, self._script = (
            loader.get_source(self._environment, name)[0] for name in ("report.css", "report.js")
        )

    def page(
        self, views: Sequence[GroupView], shared: Mapping[str, Any], amount: Amount, pictures: Mapping[str, Picture]
    ) -> bytes:
        text = self._environment.get_template("report.html").render(
            groups=views,
            amount=amount,
            pictures=pictures,
            style=self._style,
            script=self._script,
            style_digest=_digest(self._style),
            script_digest=_digest(self._script),
            **shared,
        )
        return text.encode()


def _breakable(text: str) -> Markup:
    """Escaped, with places where a long name may go on in the next line."""
    return Markup(re.sub(r"(?<=[\w)\]])([_-]|%20)(?=\w)", r"\1<wbr>", str(escape(text))))


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
