"""The top of a report: what was searched, what was found, and how to read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ndd.phrases import RELATIONS, count_text, path_text, relation_text, score_text, share_text, size_text
from ndd.report_view import links_to
from ndd.types import Failure, Relation

if TYPE_CHECKING:
    from ndd.report import ReportGroup

__all__ = ["Head", "head_view"]


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
        found.append(("Counted as duplicates", ", ".join(relation_text(r, 2) for r in Relation if r.within(loosest))))
    for name, key, show in (
        ("Precision asked for", "precision", share_text),
        ("Score threshold", "threshold", score_text),
        ("Assumed share of duplicates", "prior", score_text),
    ):
        value = run.get(key, config.get(key))
        if isinstance(value, int | float) and not isinstance(value, bool):
            found.append((name, show(float(value))))
    digest = run.get("embedding_digest", digests.get("embedding"))
    return found + ([("Model", path_text(str(digest)[:12]))] if digest else [])


def _texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value)


def _tallies(groups: Sequence[ReportGroup]) -> dict[Relation, int]:
    """Duplicates by how they relate to the kept picture (or to the member that brought them in)."""
    tallies: dict[Relation, int] = {}
    for group in groups:
        kept = next(member for member in group.members if member.keep)
        for pair in links_to(kept, group).values():
            if pair.relation:
                tallies[pair.relation] = tallies.get(pair.relation, 0) + 1
    return tallies


def _mix(tallies: Mapping[Relation, int]) -> list[tuple[str, str, str, float, float]]:
    total, left, found = sum(tallies.values()), 0.0, []
    for relation in Relation:
        if number := tallies.get(relation, 0):
            width = 100 * number / total
            found.append(
                (relation.value, relation_text(relation, number), count_text(number), round(left, 3), round(width, 3))
            )
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
