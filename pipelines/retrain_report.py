"""What a retraining changed: figures by family, what audits say, and which groups of the library split or merged."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ndd.data.manifest import ManifestRow
from ndd.files import atomic_path
from ndd.find import FindRequest, find
from ndd.local import LocalRunner
from ndd.tables import GroupRow, read_groups

__all__ = ["GroupChanges", "changes", "compare_groups", "gain", "write_report"]

_SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class GroupChanges:
    """Groups before and after, as sorted paths. split: an old group and the new ones its pictures are in (alone: of one).
    merged: a new group and the old ones. A group can be in both. new, gone: groups without any tie to the other side."""

    before: int
    after: int
    same: int
    split: tuple[tuple[tuple[str, ...], tuple[tuple[str, ...], ...]], ...]
    merged: tuple[tuple[tuple[str, ...], tuple[tuple[str, ...], ...]], ...]
    new: tuple[tuple[str, ...], ...]
    gone: tuple[tuple[str, ...], ...]


def compare_groups(before: Sequence[Sequence[str]], after: Sequence[Sequence[str]]) -> GroupChanges:
    """before, after: groups of paths, each path at most once on a side."""
    old, new = (sorted(tuple(sorted(group)) for group in groups) for groups in (before, after))
    where_old = {path: group for group in old for path in group}
    where_new = {path: group for group in new for path in group}
    split, gone, same = [], [], 0
    for group in old:
        pieces = {where_new.get(path, (path,)) for path in group}
        if not any(path in where_new for path in group):
            gone.append(group)
        elif len(pieces) > 1:
            split.append((group, tuple(sorted(pieces))))
        else:
            same += pieces == {group}
    merged, fresh = [], []
    for group in new:
        pieces = {where_old.get(path, (path,)) for path in group}
        if not any(path in where_old for path in group):
            fresh.append(group)
        elif len(pieces) > 1:
            merged.append((group, tuple(sorted(pieces))))
    return GroupChanges(
        before=len(old),
        after=len(new),
        same=same,
        split=tuple(split),
        merged=tuple(merged),
        new=tuple(fresh),
        gone=tuple(gone),
    )


def changes(champion: Path, challenger: Path, rows: Sequence[ManifestRow], *, work: Path) -> GroupChanges | None:
    """Search the library with both models; None where its pictures are no files of this machine."""
    paths = [row.uri for row in rows if Path(row.uri).is_file()]
    if not paths:
        return None
    groups = []
    for name, model in (("before", champion), ("after", challenger)):
        find(FindRequest(paths=paths, out=work / name, model=model, overwrite=True), LocalRunner())
        groups.append(_members(read_groups(work / name / "groups.parquet")))
    return compare_groups(groups[0], groups[1])


def _members(rows: Sequence[GroupRow]) -> list[list[str]]:
    members: dict[int, list[str]] = {}
    for row in rows:
        members.setdefault(row.group, []).append(row.path)
    return list(members.values())


def gain(human: Mapping[str, Any], labels: Mapping[str, Any], figures: Mapping[str, Any]) -> dict[str, Any]:
    """What the challenger has over the champion, both on pictures and pairs that neither learnt from.

    `average_precision` of the descriptor and `recall` of the search on edited copies: difference, low, high (95 %).
    `audit_roc_auc`: how well pairs drawn at random are told apart, by people's word; absent without both kinds of them.
    `label_log_loss`: of labelled pairs held out from the refitting of the score; absent if it was not refitted.
    """
    told: dict[str, Any] = {}
    for name, measure in (("average_precision", "map"), ("recall", "recall")):
        whole = figures.get(measure, {}).get("all families")
        if whole is not None:
            told[name] = {key: round(whole[key], 4) for key in ("difference", "low", "high")}
    before, after = (human[side].get("roc_auc") for side in ("champion", "challenger"))
    if before is not None and after is not None:
        told["audit_roc_auc"] = {"difference": round(after - before, 4), "pairs": human["champion"]["pairs"]}
    if labels["refined"]:
        told["label_log_loss"] = {**labels["log_loss"], "pairs": labels["pairs"]}
    return told


def write_report(
    directory: Path, told: Mapping[str, Any], verdict: Mapping[str, Any], groups: GroupChanges | None
) -> None:
    """report.json with everything, report.md for people."""
    body = {"told": told, "verdict": verdict, "groups": None if groups is None else asdict(groups)}
    for name, text in (
        ("report.json", json.dumps(body, indent=2) + "\n"),
        ("report.md", "\n".join(_lines(told, verdict, groups)) + "\n"),
    ):
        with atomic_path(directory / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _lines(told: Mapping[str, Any], verdict: Mapping[str, Any], groups: GroupChanges | None) -> Iterator[str]:
    learnt = told["learnt"]
    yield f"# Retraining of {told['time']}"
    yield ""
    yield "Promoted." if told["promoted"] else "The champion stays."
    yield from (f"- {reason}" for reason in verdict["reasons"])
    if told["refused"]:
        yield "The trained network was refused; the network stays, and its score is a new one:"
        yield from (f"- {reason}" for reason in told["refused"])
    yield ""
    yield (
        f"Learnt from {learnt['duplicate']} duplicates and {learnt['distinct']} distinct pairs, {learnt['fresh']} of them new."
    )
    yield from _label_lines(told["labels"])
    yield from _audit_lines(told["audits"])
    for measure, title in (("map", "Average precision of the descriptor"), ("recall", "Recall of the search")):
        table = verdict["figures"].get(measure)
        if table:
            yield from _table(title, table)
    yield from _group_lines(groups)


def _label_lines(labels: Mapping[str, Any]) -> Iterator[str]:
    if not labels["refined"]:
        yield f"The score is not refitted with the labels: {labels['why_not']}."
        return
    loss = labels["log_loss"]
    yield (
        f"The score is refitted with {labels['pairs']} of the labelled pairs, {labels['duplicates']} of them duplicates; log "
        f"loss on those held out (five folds) {loss['before']:.3f} → {loss['after']:.3f}."
    )


def _audit_lines(audits: Mapping[str, Any]) -> Iterator[str]:
    before, after = audits["champion"], audits["challenger"]
    if "accuracy" not in before:
        yield f"Audited pairs: {before['pairs']}, too few or of one kind to compare by."
        return
    yield (
        f"On {before['pairs']} audited pairs, which neither learnt from, before the score is moved: "
        f"accuracy {before['accuracy']:.3f} → "
        f"{after['accuracy']:.3f}, ROC-AUC {before['roc_auc']:.3f} → {after['roc_auc']:.3f}."
    )
    if after["moved"]:
        yield f"The score was then moved to fit them: log-odds × {after['slope']:.2f} {after['shift']:+.2f}."


def _table(title: str, table: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    yield ""
    yield f"## {title}"
    yield ""
    yield "| family | copies | before | after | difference, 95 % interval |"
    yield "|---|---|---|---|---|"
    for family, of in table.items():
        yield (
            f"| {family} | {of['copies']} | {of['champion']:.3f} | {of['challenger']:.3f} | {of['difference']:+.3f} "
            f"({of['low']:+.3f} … {of['high']:+.3f}) |"
        )


def _group_lines(groups: GroupChanges | None) -> Iterator[str]:
    yield ""
    yield "## Groups of the library"
    yield ""
    if groups is None:
        yield "Not compared: the library is too large, or its pictures are not files of this machine."
        return
    yield f"{groups.before} before, {groups.after} after, {groups.same} the same."
    for title, found in (("Split", groups.split), ("Merged", groups.merged)):
        for whole, pieces in found[:_SHOWN]:
            yield f"- {title}: {_names(whole)} — {' | '.join(map(_names, pieces))}"
        if len(found) > _SHOWN:
            yield f"- {len(found) - _SHOWN} more {title.lower()}: see report.json"
    for title, plain in (("New", groups.new), ("Gone", groups.gone)):
        yield from (f"- {title}: {_names(group)}" for group in plain[:_SHOWN])
        if len(plain) > _SHOWN:
            yield f"- {len(plain) - _SHOWN} more {title.lower()}: see report.json"


def _names(paths: Sequence[str]) -> str:
    return ", ".join(f"`{path}`" for path in paths)
