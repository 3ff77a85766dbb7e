"""Verdicts → the files a person reads: tables and report. Runs in one worker, so that whoever leads the search stays small."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from ndd.cores import cores
from ndd.data.uris import text_to_uri
from ndd.errors import DecodeError
from ndd.files import make_directory
from ndd.images import decode, read_file
from ndd.keep import Candidate, choose, detail
from ndd.medoid import Oddity, oddities
from ndd.report import ReportGroup, ReportMember, ReportPair, write_report
from ndd.stages.album import Album
from ndd.stages.group import Verdicts, judge, parts
from ndd.stages.task import SearchTask
from ndd.tables import GroupRow, PairRow, write_failures, write_groups, write_pairs
from ndd.types import Relation

__all__ = ["conclude"]


def conclude(task: SearchTask) -> dict[str, Any]:
    """Judge the candidates and write everything below `task.result`.

    Returns numbers for `run.json`, and under `files` the names of what was written.
    """
    album = task.album()
    verdicts = judge(task, album)
    failures = [*task.unreadable(), *verdicts.failures]
    groups = _suggest(task, album, verdicts)
    shutil.rmtree(task.result, ignore_errors=True)
    make_directory(task.result)
    write_pairs(task.result / "pairs.parquet", verdicts.pairs)
    write_groups(task.result / "groups.parquet", groups)
    write_failures(task.result / "failures.parquet", failures)
    summary = {
        "readable": len(album),
        "failed": len(failures),
        "pairs": len(verdicts.pairs),
        "duplicates": verdicts.duplicates,
        "groups": len(verdicts.groups),
        "threshold": verdicts.threshold,
        "precision": task.config.precision,
        "prior": verdicts.prior,
    }
    run = json.loads(task.facts.read_text(encoding="utf-8")) | summary
    at = {path: row for row, path in enumerate(album.texts("path"))}
    write_report(task.result, run=run, groups=_shown(album, at, groups, verdicts), failures=failures)
    names = sorted(path.relative_to(task.result).as_posix() for path in task.result.rglob("*") if path.is_file())
    return {**summary, "files": names}


def _suggest(task: SearchTask, album: Album, verdicts: Verdicts) -> list[GroupRow]:
    """Which copy of each group to keep."""
    at = {path: row for row, path in enumerate(album.texts("path"))}
    rows = sorted({at[path] for group in verdicts.groups for path in group})
    facts = dict(zip(rows, album.table.take(pa.array(rows, pa.int64())).to_pylist(), strict=True))
    first = {facts[row]["id"]: row for row in reversed(rows)}  # copies of the same bytes are measured once
    with ThreadPoolExecutor(cores()) as pool:
        details = dict(zip(first, pool.map(lambda row: _detail(task, facts[row]), first.values()), strict=True))
    shares, odd = (
        parts(verdicts.pairs),
        _oddities(verdicts, {path: facts[row] for path, row in at.items() if row in facts}),
    )
    found = []
    for number, members in enumerate(verdicts.groups, start=1):
        about = [(facts[at[path]], shares.get(path), odd.get(path)) for path in members]
        chosen = choose([_candidate(of, details[of["id"]], share, oddity) for of, share, oddity in about])
        found += [GroupRow(group=number, path=path, keep=keep, reason=reason) for path, keep, reason in chosen]
    return found


def _oddities(verdicts: Verdicts, facts: Mapping[str, Mapping[str, Any]]) -> dict[str, Oddity]:
    """How far each picture is from the others in its group; exact copies share one answer."""
    number = {path: at for at, members in enumerate(verdicts.groups) for path in members}
    first = {(at, facts[path]["id"]): path for path, at in reversed(number.items())}
    pairs: dict[int, list[PairRow]] = {}
    for pair in verdicts.pairs:
        at = number.get(pair.left)
        if pair.duplicate and pair.relation is not Relation.EXACT and at is not None and at == number.get(pair.right):
            pairs.setdefault(at, []).append(pair)
    found: dict[str, Oddity] = {}
    for at, members in enumerate(verdicts.groups):
        contents = sorted({first[at, facts[path]["id"]] for path in members})
        sizes = {path: (facts[path]["width"], facts[path]["height"]) for path in contents}
        odd = oddities(contents, pairs.get(at, ()), sizes)
        same: dict[str, list[str]] = {}
        for path in members:
            same.setdefault(first[at, facts[path]["id"]], []).append(path)
        for path, mine in odd.items():
            # Whichever of some exact copies is kept, it is known by its own name.
            against = {other: what for one, what in mine.against.items() for other in same[one]}
            found |= dict.fromkeys(same[path], dataclasses.replace(mine, against=against))
    return found


def _shown(album: Album, at: Mapping[str, int], rows: Sequence[GroupRow], verdicts: Verdicts) -> list[ReportGroup]:
    """The groups as the report shows them."""
    members: dict[int, list[ReportMember]] = {}
    for row in rows:
        facts = album.table.slice(at[row.path], 1).to_pylist()[0]
        member = ReportMember(
            path=row.path,
            uri=text_to_uri(facts["uri"]),
            keep=row.keep,
            reason=row.reason,
            width=facts["width"],
            height=facts["height"],
            bytes=facts["size"],
            format=facts["format"],
        )
        members.setdefault(row.group, []).append(member)
    number = {row.path: row.group for row in rows}
    pairs: dict[int, list[ReportPair]] = {}
    for pair in verdicts.pairs:
        group = number.get(pair.left)
        if pair.duplicate and group is not None and group == number.get(pair.right):
            names = ("left", "right", "score", "relation", "distance", "evidence")
            pairs.setdefault(group, []).append(ReportPair(**{name: getattr(pair, name) for name in names}))
    return [
        ReportGroup(number=group, members=tuple(shown), pairs=tuple(pairs.get(group, ())))
        for group, shown in members.items()
    ]


def _candidate(facts: dict[str, Any], sharpness: float | None, share: float | None, oddity: Oddity | None) -> Candidate:
    names = ("path", "width", "height", "format", "taken", "exif_fields", "alpha", "bits")
    known = {name: facts[name] for name in names}
    return Candidate(**known, bytes=facts["size"], detail=sharpness, is_part_of=share, oddity=oddity)


def _detail(task: SearchTask, facts: dict[str, Any]) -> float | None:
    """Detail of the whole picture; None if it is gone by now."""
    limits = task.config.limits
    try:
        return detail(decode(read_file(text_to_uri(facts["uri"]), limits=limits), limits=limits).pixels)
    except DecodeError:
        return None
