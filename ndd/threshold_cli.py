"""`ndd threshold LABELS`: a threshold for one's own pictures from one's own answers.

LABELS is a file of decisions (`.csv` or `.parquet`, as the decision store exports them), which wants --run to know the scores;
or a CSV with the columns score, verdict, draw, p_draw.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ndd.errors import InputError, SchemaError, UsageError

if TYPE_CHECKING:
    from ndd.threshold import AuditLabel, Choice

__all__ = ["add_arguments", "of_run", "of_table", "run"]

_COLUMNS = ("score", "verdict", "draw", "p_draw")
_VERDICTS = ("duplicate", "distinct", "unsure")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `ndd threshold`."""
    parser.add_argument("labels", type=Path, metavar="LABELS", help="decisions, or a CSV: score, verdict, draw, p_draw")
    parser.add_argument(
        "--run", type=Path, metavar="DIR", dest="search", help="finished `ndd find` that gives the scores"
    )
    parser.add_argument("--precision", type=float, default=0.99, metavar="Q", help="wanted precision (0.99)")
    parser.add_argument("--confidence", type=float, default=0.95, metavar="C", help="how sure of it (0.95)")
    parser.add_argument("--old", type=float, metavar="T", help="threshold in use (default: the run's, else 0.5)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON and nothing else")


def run(arguments: argparse.Namespace) -> int:
    """Choose and say; exit code 0 also where the old threshold is kept."""
    from ndd.threshold import choose  # numpy, which the help of other commands does without

    left_out: Counter[str] = Counter()
    if arguments.search is not None:
        labels, threshold = of_run(arguments.labels, arguments.search, left_out)
    else:
        labels, threshold = list(of_table(arguments.labels, left_out)), 0.5
    old = arguments.old if arguments.old is not None else threshold
    if not 0.0 <= old <= 1.0:
        raise UsageError(f"--old {old}: a threshold lies in 0…1")
    if not labels:
        said = ", ".join(f"{count} {why}" for why, count in left_out.items()) or "the table is empty"
        raise InputError(f"{arguments.labels}: no answer from an audit that counts here ({said}); draw audit pairs")
    choice = choose(labels, precision=arguments.precision, old=old, confidence=arguments.confidence)
    if arguments.json:
        body = {**asdict(choice), "wanted": arguments.precision, "audited": len(labels), "left_out": dict(left_out)}
        sys.stdout.write(json.dumps(_plain(body), indent=2, sort_keys=True) + "\n")
    else:
        sys.stdout.write("\n".join(_lines(choice, arguments, len(labels), left_out)) + "\n")
    return 0


def of_table(path: Path, left_out: Counter[str]) -> Iterator[AuditLabel]:
    """The audit's answers in a CSV with the scores beside them. Raises SchemaError naming the line."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            header = reader.fieldnames or []
            missing = [name for name in _COLUMNS if name not in header]
            if missing:
                hint = "; decisions want --run DIR to know their scores" if "left_id" in header else ""
                raise SchemaError(f"{path}, line 1: no column {missing[0]!r}; expected {', '.join(_COLUMNS)}{hint}")
            for row in reader:
                label = _label(row, f"{path}, line {reader.line_num}", left_out)
                if label is not None:
                    yield label
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as CSV in UTF-8 ({error})") from None


def of_run(path: Path, search: Path, left_out: Counter[str]) -> tuple[list[AuditLabel], float]:
    """The audit's answers in a file of decisions, with the scores that a finished search gives those pairs; and the search's
    threshold. Answers to candidates of another model are left out: those were drawn from other pairs."""
    from ndd.candidates import read_candidates
    from ndd.data.decision_rows import read_decisions
    from ndd.data.decisions import settle
    from ndd.runs import read_run
    from ndd.threshold import AuditLabel
    from ndd.types import Draw, Verdict

    known = read_candidates(search)
    pictures, ends = known.candidates.pictures, (known.candidates.left, known.candidates.right)
    scores = {
        tuple(sorted((pictures[left], pictures[right]))): row.score
        for row, left, right in zip(known.rows, *ends, strict=True)
    }
    labels = []
    for decision in settle(read_decisions(path)).values():
        score = scores.get((decision.left_id, decision.right_id))
        if decision.draw is not Draw.AUDIT:
            left_out["not drawn for an audit"] += 1
        elif decision.embedding_digest != known.embedding_digest:
            left_out["drawn with another model"] += 1
        elif score is None:
            left_out["not among the run's pairs"] += 1
        else:
            duplicate = decision.verdict is Verdict.DUPLICATE
            labels.append(AuditLabel(score=score, duplicate=duplicate, p_draw=decision.p_draw))
    return labels, float(read_run(search)["threshold"])


def _label(row: Mapping[str, str | None], where: str, left_out: Counter[str]) -> AuditLabel | None:
    from ndd.threshold import AuditLabel

    verdict = (row["verdict"] or "").strip()
    if verdict not in _VERDICTS:
        raise SchemaError(f"{where}: verdict {verdict!r}; expected {', '.join(_VERDICTS)}")
    if (row["draw"] or "").strip() != "audit":
        left_out["not drawn for an audit"] += 1
        return None
    try:
        numbers = {name: float(row[name] or "nan") for name in ("score", "p_draw")}
        return AuditLabel(duplicate=verdict == "duplicate", **numbers)
    except ValueError as error:
        raise SchemaError(f"{where}: {error}") from None


def _lines(choice: Choice, arguments: argparse.Namespace, audited: int, left_out: Counter[str]) -> Iterator[str]:
    interval = choice.precision
    yield f"{audited} answers of an audit" + "".join(f"; left out: {count} {why}" for why, count in left_out.items())
    known = "unknown" if math.isnan(interval.value) else f"{interval.value:.4f}"
    at = f"precision {known} ({interval.low:.4f} … {interval.high:.4f}) from {choice.labels} answers at or above it"
    if choice.reached:
        yield f"threshold {choice.threshold:.4g}: {at}"
        yield f"use it with: ndd find … --threshold {choice.threshold:.6g}"
        return
    yield f"the old threshold {choice.threshold:.4g} is kept: {at}; {arguments.precision:g} is not proved anywhere"
    if choice.missing is None:
        yield "more answers would not help: what was answered so far lies below the wanted precision at every threshold"
    else:
        yield f"about {choice.missing} more answers of an audit are missing"


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no NaN."""
    return {
        name: _plain(value)
        if isinstance(value, Mapping)
        else None
        if isinstance(value, float) and math.isnan(value)
        else value
        for name, value in values.items()
    }
