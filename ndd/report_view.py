"""What a report shows, as plain words: groups, pictures and the summary, ready for the template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ndd.phrases import (
    RELATIONS,
    count_text,
    evidence_text,
    path_text,
    score_text,
    share_text,
    size_text,
    without_size,
)
from ndd.types import Failure, Relation

if TYPE_CHECKING:
    from ndd.report import ReportGroup, ReportMember, ReportPair

__all__ = ["Amount", "GroupView", "Picture", "group_view", "head_view"]


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
    links = _links_to(kept, group)
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


def _links_to(kept: ReportMember, group: ReportGroup) -> dict[str, ReportPair]:
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
    facts = f"{member.width} × {member.height} · {member.format} · {size_text(member.bytes)}"
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
        reason=reason.removeprefix("kept: "),
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The top of the page. mix: for each relation its value, name, number of duplicates, left edge and width in per cent."""

    state: str
    title: str
    summary: str
    figures: tuple[tuple[str, str], ...]
    settings: tuple[tuple[str, str], ...]
    mix: tuple[tuple[str, str, str, float, float], ...]
    relations: tuple[tuple[str, str, str], ...]
    failed: int


def head_view(run: Mapping[str, Any], groups: Sequence[ReportGroup], failures: Sequence[Failure]) -> Head:
    """The summary. state: `found`, `none` (no duplicates) or `unreadable` (every picture failed)."""
    images, failed = _int(run.get("images")), _int(run.get("failed"))
    failed = len(failures) if failed is None else failed
    copies = sum(len(group.members) - 1 for group in groups)
    freed = sum(m.bytes for group in groups for m in group.members if not m.keep)
    unreadable = not groups and failed > 0 and (images is None or failed >= images)
    figures = [("pictures", count_text(images))] if images is not None else []
    figures += [("groups", count_text(len(groups))), ("duplicates", count_text(copies))]
    figures += [("can be freed", size_text(freed))] if freed else []
    figures += [("not readable", count_text(failed))] if failed else []
    figures += [("seconds", seconds)] if (seconds := _seconds(run.get("seconds"))) else []
    tallies = _tallies(groups)
    return Head(
        state="found" if groups else "unreadable" if unreadable else "none",
        title=_title(len(groups), unreadable),
        summary=_summary(images, copies, freed, failed, bool(groups), unreadable),
        figures=tuple(figures),
        settings=tuple(_settings(run)),
        mix=tuple(_mix(tallies)),
        relations=tuple((r.value, *RELATIONS[r]) for r in Relation if r in tallies),
        failed=failed,
    )


def _title(groups: int, unreadable: bool) -> str:
    if unreadable:
        return "No picture could be read"
    if not groups:
        return "No near-duplicates found"
    return f"{count_text(groups)} group{'s' if groups > 1 else ''} of near-duplicates"


def _summary(images: int | None, copies: int, freed: int, failed: int, found: bool, unreadable: bool) -> str:
    if unreadable:
        return "Every file failed; the table below says where and why."
    of = f" {count_text(images - failed)}" if images is not None else ""
    if not found:
        return f"All{of} readable pictures were compared, and each one stands alone."
    one = copies == 1
    return (
        f"{count_text(copies)} of{of} pictures {'repeats' if one else 'repeat'} another one. Keeping one of each group "
        f"would free {size_text(freed)}. Nothing has been changed or deleted: what to keep is a suggestion."
    )


def _settings(run: Mapping[str, Any]) -> list[tuple[str, str]]:
    config = run.get("config") if isinstance(run.get("config"), Mapping) else {}
    digests = run.get("digests") if isinstance(run.get("digests"), Mapping) else {}
    assert isinstance(config, Mapping) and isinstance(digests, Mapping)
    found = [("Searched", ", ".join(path_text(str(p)) for p in run["paths"]))] if _texts(run.get("paths")) else []
    found += [("Compared with", ", ".join(map(path_text, run["against"])))] if _texts(run.get("against")) else []
    relation = run.get("relation", config.get("relation"))
    if relation in set(Relation):
        loosest = Relation(str(relation))
        found.append(
            ("Counted as duplicates", ", ".join(RELATIONS[r][0].lower() for r in Relation if r.within(loosest)))
        )
    for name, key, show in (
        ("Precision asked for", "precision", share_text),
        ("Score threshold", "threshold", score_text),
        ("Assumed share of duplicates", "prior", score_text),
    ):
        value = run.get(key, config.get(key))
        if isinstance(value, int | float) and not isinstance(value, bool):
            found.append((name, show(float(value))))
    digest = run.get("embedding_digest", digests.get("embedding"))
    return found + ([("Model", str(digest)[:12])] if digest else [])


def _texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value)


def _tallies(groups: Sequence[ReportGroup]) -> dict[Relation, int]:
    """Duplicates by how they relate to the kept picture (or to the member that brought them in)."""
    tallies: dict[Relation, int] = {}
    for group in groups:
        kept = next(member for member in group.members if member.keep)
        for pair in _links_to(kept, group).values():
            if pair.relation:
                tallies[pair.relation] = tallies.get(pair.relation, 0) + 1
    return tallies


def _mix(tallies: Mapping[Relation, int]) -> list[tuple[str, str, str, float, float]]:
    total, left, found = sum(tallies.values()), 0.0, []
    for relation in Relation:
        if number := tallies.get(relation, 0):
            width = 100 * number / total
            found.append((relation.value, RELATIONS[relation][0], count_text(number), round(left, 3), round(width, 3)))
            left += width
    return found


def _int(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _seconds(value: Any) -> str:
    parts = list(value.values()) if isinstance(value, Mapping) else [value]
    if isinstance(value, Mapping) and "total" in value:
        parts = [value["total"]]
    numbers = [float(part) for part in parts if isinstance(part, int | float) and not isinstance(part, bool)]
    return f"{sum(numbers):,.1f}" if numbers else ""
