"""The cards of a report: groups and their pictures as plain words, ready for the template."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from ndd.phrases import (
    RELATIONS,
    evidence_text,
    path_text,
    score_text,
    size_text,
    without_size,
)

if TYPE_CHECKING:
    from ndd.report import ReportGroup, ReportMember, ReportPair

__all__ = ["Amount", "GroupView", "Picture", "group_view", "links_to"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """How much a page shows of each group (members with a thumbnail, comparisons, further paths) and of the failures.

    clip: characters of a path, 0 for all.
    """

    members: int
    pairs: int
    paths: int
    failures: int
    clip: int = 0


@dataclass(frozen=True, slots=True)
class Picture:
    """A thumbnail: its data address, and its width and height in pixels."""

    address: str
    width: int
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """Why two pictures belong together, in words."""

    relation: str
    label: str
    explanation: str
    score: str
    distance: str
    evidence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """One picture of a group. through: name of the member it is linked to, where that is not the kept one."""

    uri: str
    address: str | None
    name: str
    folder: str
    alt: str
    facts: str
    keep: bool
    reason: str
    link: Link | None
    through: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupView:
    """One card. rest: paths without a thumbnail; unlisted: how many more are named in groups.parquet alone."""

    number: int
    count: int
    freed: int
    freed_text: str
    least: float
    relations: tuple[tuple[str, str], ...]
    tiles: tuple[Tile, ...]
    rest: tuple[str, ...]
    unlisted: int
    comparisons: tuple[tuple[str, str, Link], ...]
    unshown: int


def group_view(group: ReportGroup, amount: Amount) -> GroupView:
    """The card of `group`: the kept picture first, then by how well each matches it, then by path."""
    kept = next(member for member in group.members if member.keep)
    sizes = {member.path: (member.width, member.height) for member in group.members}
    links = links_to(kept, group)
    ordered = sorted(
        group.members, key=lambda m: (not m.keep, -links[m.path].score if m.path in links else 1.0, m.path)
    )
    shown, rest = ordered[: amount.members], ordered[amount.members :]
    pairs = sorted(group.pairs, key=lambda pair: (-pair.score, pair.left, pair.right))
    relations = sorted(
        {pair.relation for pair in group.pairs if pair.relation}, key=lambda relation: relation.looseness
    )
    freed = sum(member.bytes for member in group.members if not member.keep)
    return GroupView(
        number=group.number,
        count=len(group.members),
        freed=freed,
        freed_text=size_text(freed),
        least=min((pair.score for pair in group.pairs), default=1.0),
        relations=tuple((relation.value, RELATIONS[relation][0]) for relation in relations),
        tiles=tuple(_tile(member, kept, links.get(member.path), sizes, amount) for member in shown),
        rest=tuple(_path(member.path, amount) for member in rest[: amount.paths]),
        unlisted=max(0, len(rest) - amount.paths),
        comparisons=tuple(
            (_path(p.left, amount), _path(p.right, amount), _link(p, p.right, "the first", sizes))
            for p in pairs[: amount.pairs]
        ),
        unshown=max(0, len(pairs) - amount.pairs),
    )


def links_to(kept: ReportMember, group: ReportGroup) -> dict[str, ReportPair]:
    """For each other member the pair to show: with the kept picture, else its best one."""
    found: dict[str, ReportPair] = {}
    for pair in sorted(
        group.pairs, key=lambda pair: (kept.path not in (pair.left, pair.right), -pair.score, pair.left, pair.right)
    ):
        for path in (pair.left, pair.right):
            if path != kept.path:
                found.setdefault(path, pair)
    return found


def _tile(
    member: ReportMember,
    kept: ReportMember,
    pair: ReportPair | None,
    sizes: Mapping[str, tuple[int, int]],
    amount: Amount,
) -> Tile:
    name, folder = _parts(_path(member.path, amount))
    other = "" if pair is None else pair.right if pair.left == member.path else pair.left
    direct = other == kept.path
    link = None if pair is None else _link(pair, member.path, "the kept picture" if direct else "it", sizes)
    facts = f"{member.width} × {member.height} · {path_text(member.format)} · {size_text(member.bytes)}"
    reason = without_size(member.reason, width=member.width, height=member.height, format=member.format)
    what = "to keep" if member.keep else link.label.lower() if link else "copy"
    return Tile(
        uri=member.uri,
        address=_address(member.uri),
        name=name,
        folder=folder,
        alt=f"{name}, {what}",
        facts=facts,
        keep=member.keep,
        reason=path_text(reason.removeprefix("kept: ")),
        link=link,
        through="" if direct or not other else _parts(_path(other, amount))[0],
    )


def _link(pair: ReportPair, copy: str, other: str, sizes: Mapping[str, tuple[int, int]]) -> Link:
    label, explanation = RELATIONS[pair.relation] if pair.relation else ("Copy", "found to be a duplicate")
    evidence = evidence_text(
        pair.evidence, copy_is_left=copy == pair.left, left=sizes[pair.left], right=sizes[pair.right], other=other
    )
    return Link(
        relation=pair.relation.value if pair.relation else "none",
        label=label,
        explanation=explanation,
        score=score_text(pair.score),
        distance=f"{pair.distance:.2f}",
        evidence=evidence,
    )


def _path(path: str, amount: Amount) -> str:
    text = path_text(path)
    if amount.clip and len(text) > amount.clip:
        half = amount.clip // 2
        return f"{text[:half]}…{text[-half:]}"
    return text


def _parts(path: str) -> tuple[str, str]:
    """Name and folder; the folder is empty at the root."""
    pure = PurePosixPath(path)
    folder = str(pure.parent)
    return pure.name or path, "" if folder == "." else folder


def _address(uri: str) -> str | None:
    """A file address to open the picture itself; None for anything but an absolute path."""
    return Path(uri).as_uri() if uri.startswith("/") and "\0" not in uri else None
