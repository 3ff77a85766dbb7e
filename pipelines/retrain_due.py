"""Is it time to retrain, and on what? Pure: decisions in, an answer out."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from ndd.data.decisions import settle, words
from ndd.types import Decision, Draw, ImageId, Verdict

__all__ = ["Due", "Rules", "due", "usable"]


@dataclass(frozen=True, kw_only=True)
class Rules:
    """When to retrain.

    least: new decisions that are reason enough. days: after so many, `few` new ones are. contradicted: largest share of the
    pairs with several reviewers on which they may disagree, judged from `judged` such pairs on.
    """

    least: int = 50
    days: float = 30.0
    few: int = 10
    contradicted: float = 0.25
    judged: int = 8


@dataclass(frozen=True, kw_only=True)
class Due:
    """What there is to learn from.

    train: decisions that may teach (audit draws never do), oldest first. audit: those that measure. fresh: ids of the
    teaching ones that the last retraining did not know. absent: decisions about pictures that are not there. kept_out:
    those that would teach, were their pictures not held out. why_not: one sentence if it is not time.
    """

    train: tuple[Decision, ...]
    audit: tuple[Decision, ...]
    fresh: frozenset[str]
    absent: int
    kept_out: int
    disagreed: int
    judged_twice: int
    why_not: str | None


def usable(decision: Decision) -> bool:
    """Does it say whether the two are duplicates?"""
    return decision.verdict in (Verdict.DUPLICATE, Verdict.DISTINCT)


def due(
    decisions: Iterable[Decision],
    *,
    there: Collection[ImageId],
    trainable: Collection[ImageId] | None = None,
    known: Collection[str],
    last: datetime | None,
    now: datetime,
    rules: Rules,
) -> Due:
    """there: pictures at hand. trainable: those of them that may be trained on (None: all). known: decision ids of
    the last retraining. last: when it was, None if never: then the oldest answer counts."""
    held = list(decisions)
    standing = sorted((d for d in settle(held).values() if usable(d)), key=lambda d: (d.time, d.decision_id))
    here = [d for d in standing if d.left_id in there and d.right_id in there]
    teaching = [d for d in here if d.draw is not Draw.AUDIT]
    among = there if trainable is None else trainable
    train = tuple(d for d in teaching if d.left_id in among and d.right_id in among)
    fresh = frozenset(d.decision_id for d in train) - frozenset(known)
    twice = [said for said in (list(filter(usable, word)) for word in words(held).values()) if len(said) > 1]
    disagreed = sum(len({d.verdict for d in said}) > 1 for said in twice)
    # Before the first retraining the oldest answer is what has waited.
    since = last or min((d.time for d in train), default=now)
    late = now - since >= timedelta(days=rules.days)
    return Due(
        train=train,
        audit=tuple(d for d in here if d.draw is Draw.AUDIT),
        fresh=fresh,
        absent=len(standing) - len(here),
        kept_out=len(teaching) - len(train),
        disagreed=disagreed,
        judged_twice=len(twice),
        why_not=_too_few(train, fresh, late, rules) or _contradictory(disagreed, len(twice), rules),
    )


def _too_few(train: tuple[Decision, ...], fresh: frozenset[str], late: bool, rules: Rules) -> str | None:
    wanted = rules.few if late else rules.least
    if len(fresh) < wanted:
        return f"{len(fresh)} new decisions since the last retraining, {wanted} are wanted"
    for verdict in (Verdict.DUPLICATE, Verdict.DISTINCT):
        if not any(d.verdict is verdict for d in train):
            return f"all {len(train)} decisions are of one kind, none is {verdict}: there is nothing to tell apart"
    return None


def _contradictory(disagreed: int, twice: int, rules: Rules) -> str | None:
    if twice >= rules.judged and disagreed > rules.contradicted * twice:
        return (
            f"reviewers contradict one another on {disagreed} of the {twice} pairs that several of them judged, more than "
            f"{100 * rules.contradicted:g} %; settle those first (`python -m feedback status` counts them)"
        )
    return None
