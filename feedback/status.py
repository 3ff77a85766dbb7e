"""How the review stands: what waits, what was answered, how far people agree, and how good the detector is by their word."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

from feedback.desk import Desk
from feedback.opinions import PANEL, cohen_kappa, contradicted, krippendorff_alpha, opinions, ratings
from ndd.data.queue import QueuedPair
from ndd.files import atomic_path
from ndd.home import home
from ndd.types import Decision, Draw, Verdict

__all__ = ["Precision", "Status", "pairs_per_hour", "precision", "status", "to_html", "to_json", "to_text", "wilson"]

_PAUSE = timedelta(minutes=5)
"""A longer silence of a reviewer is a pause, not work."""
_Z = 1.959964


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """Share of true duplicates among the pairs a run accepted, by the audit draws alone, with a 95 % interval.

    draws: audit draws that were accepted and have been answered; unsure: those a person could not tell (left out).
    """

    estimate: float
    low: float
    high: float
    draws: int
    unsure: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What `python -m feedback status` says. Absent figures are None: too little is known.

    answered: pairs with a standing decision, by verdict. reviewers: answers by person. conflicts: pairs on which reviewers
    are evenly divided. agreement: raw share of pairs with several opinions on which all are the same.
    """

    waiting: int
    answered: Mapping[str, int]
    reviewers: Mapping[str, int]
    twice: int
    agreement: float | None
    kappa: float | None
    alpha: float | None
    conflicts: int
    pairs_per_hour: float | None
    precision: Precision | None
    last_retraining: Mapping[str, Any] | None


def status(desk: Desk) -> Status:
    """Read the stores. Raises StoreError, SchemaError."""
    decisions, standing = desk.decisions.load(), desk.decisions.current()
    said = opinions(decisions)
    rated = [values for values in ratings(said) if len(values) > 1]
    people = [d for d in decisions if d.reviewer != PANEL and d.verdict is not Verdict.WITHDRAWN]
    names = sorted({word.reviewer for words in said.values() for word in words.values()})
    return Status(
        waiting=len(desk.queue.waiting()),
        answered=dict(sorted(Counter(str(d.verdict) for d in standing.values()).items())),
        reviewers=dict(sorted(Counter(r for words in said.values() for r in words).items())),
        twice=len(rated),
        agreement=sum(len(set(values)) == 1 for values in rated) / len(rated) if rated else None,
        kappa=_kappa(said) if len(names) == 2 else None,
        alpha=krippendorff_alpha(rated),
        conflicts=sum(contradicted(words.values()) for words in said.values()),
        pairs_per_hour=pairs_per_hour(people),
        precision=precision(standing, desk.queue.asked()),
        last_retraining=_last_retraining(home() / "retrain" / "last.json"),
    )


def pairs_per_hour(decisions: Sequence[Decision]) -> float | None:
    """Answers per hour of work: silences of more than five minutes are not counted. None below two answers in a row."""
    by_reviewer: dict[str, list[datetime]] = {}
    for decision in decisions:
        by_reviewer.setdefault(decision.reviewer, []).append(decision.time)
    gaps = [after - before for times in by_reviewer.values() for before, after in pairwise(sorted(times))]
    work = [gap for gap in gaps if gap <= _PAUSE]
    seconds = sum(work, timedelta()).total_seconds()
    return 3600.0 * len(work) / seconds if seconds > 0 else None


def precision(standing: Mapping[str, Decision], asked: Mapping[str, QueuedPair]) -> Precision | None:
    """Precision of the pairs accepted by the newest model asked about: audit draws weighted by 1/p_draw (Hájek 1971).

    The interval is Wilson's, for as many independent draws as the weighted ones are worth (Kish 1965: (Σw)² / Σw²).
    None where no accepted audit draw has been answered.
    """
    audits = [(asked[pair], d) for pair, d in standing.items() if d.draw is Draw.AUDIT and pair in asked]
    # What an earlier model accepted tells nothing of this one.
    newest = _made_by(max(audits, key=lambda of: of[0].enqueued)[0]) if audits else None
    drawn = [d for pair, d in audits if pair.evidence.get("duplicate") is True and _made_by(pair) == newest]
    told = [(1.0 / d.p_draw, d.verdict is Verdict.DUPLICATE) for d in drawn if d.verdict is not Verdict.UNSURE]
    if not told:
        return None
    total = sum(weight for weight, _ in told)
    share = sum(weight for weight, good in told if good) / total
    low, high = wilson(share, total**2 / sum(weight**2 for weight, _ in told))
    return Precision(estimate=share, low=low, high=high, draws=len(told), unsure=len(drawn) - len(told))


def _made_by(pair: QueuedPair) -> tuple[str, str]:
    return pair.embedding_digest, pair.scorer_digest


def wilson(share: float, draws: float) -> tuple[float, float]:
    """95 % interval of a share seen in `draws` independent draws (Wilson 1927)."""
    centre = (share + _Z**2 / (2 * draws)) / (1 + _Z**2 / draws)
    half = _Z / (1 + _Z**2 / draws) * math.sqrt(share * (1 - share) / draws + _Z**2 / (4 * draws**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def to_json(found: Status) -> str:
    """Indented JSON."""
    return json.dumps(asdict(found), indent=2, sort_keys=True)


def to_text(found: Status) -> str:
    """Lines for a person."""
    return "\n".join(f"{name + ':':<18} {value}" for name, value in _lines(found))


def to_html(found: Status, path: str | os.PathLike[str]) -> None:
    """A small page that needs nothing else. Raises StoreError."""
    rows = "\n".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in _lines(found))
    page = _PAGE.replace("ROWS", rows)
    with atomic_path(Path(path)) as temporary:
        temporary.write_text(page, encoding="utf-8")


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>ndd review</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 44rem; padding: 0 1rem }
th { text-align: left; font-weight: 600; padding: .3rem 2rem .3rem 0; vertical-align: top } td { padding: .3rem 0 }
</style></head><body><h1>Review</h1><table>
ROWS
</table></body></html>
"""


def _lines(found: Status) -> list[tuple[str, str]]:
    total = sum(found.answered.values())
    lines = [
        ("waiting", f"{found.waiting} pairs wait for an answer"),
        ("answered", f"{total} pairs{_counts(found.answered)}"),
        ("answers by", ", ".join(f"{name} ({count})" for name, count in found.reviewers.items()) or "nobody yet"),
        ("agreement", _agreement(found)),
        ("disagreement", f"{found.conflicts} pairs wait for somebody to break the tie"),
        ("pace", "not known yet" if found.pairs_per_hour is None else f"{found.pairs_per_hour:.0f} pairs per hour"),
    ]
    p = found.precision
    said = "not known yet: no random check of an accepted pair is answered"
    if p is not None:
        said = (
            f"of the pairs that a search accepts {p.estimate:.1%} are duplicates ({p.low:.1%} to {p.high:.1%} with 95 % "
            f"confidence; {p.draws} random checks answered, {p.unsure} more unsure)"
        )
    return [*lines, ("precision", said), ("last retraining", _retraining(found.last_retraining))]


def _agreement(found: Status) -> str:
    if found.agreement is None:
        return "no pair has two opinions yet"
    words = f"{found.agreement:.0%} of {found.twice} pairs with several opinions"
    if found.kappa is not None:
        words += f", Cohen's kappa {found.kappa:.2f}"
    return words if found.alpha is None else words + f", Krippendorff's alpha {found.alpha:.2f}"


def _retraining(last: Mapping[str, Any] | None) -> str:
    if last is None:
        return "none yet"
    promoted = "" if "promoted" not in last else "promoted" if last["promoted"] else "not promoted"
    gained = last.get("gain")
    words = [str(last.get("time", "")).replace("T", " "), promoted]
    said = ", ".join(word for word in words if word) or "done"
    gains = ", ".join(_gained(gained)) if isinstance(gained, Mapping) else ""
    return f"{said}; against the model before: {gains}" if gains else said


def _gained(gain: Mapping[str, Any]) -> Iterator[str]:
    """What the newer model has over the one before, on pictures and pairs that neither learnt from."""
    for name, said in (("average_precision", "average precision"), ("recall", "recall")):
        of = gain.get(name)
        if of is not None:
            yield f"{said} {of['difference']:+.3f} ({of['low']:+.3f} to {of['high']:+.3f}, 95 %)"
    labels = gain.get("label_log_loss")
    if labels is not None:
        yield f"log loss on {labels['pairs']} labels held out of the refit {labels['before']:.3f} → {labels['after']:.3f}"
    audits = gain.get("audit_roc_auc")
    if audits is not None:
        yield f"ROC-AUC on {audits['pairs']} audited pairs {audits['difference']:+.3f}"


def _counts(counts: Mapping[str, int]) -> str:
    return f" ({', '.join(f'{count} {name}' for name, count in counts.items())})" if counts else ""


def _kappa(said: Mapping[str, Mapping[str, Decision]]) -> float | None:
    both = [values for values in ratings(said) if len(values) == 2]
    return cohen_kappa([(a, b) for a, b in both])


def _last_retraining(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
