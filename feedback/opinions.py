"""What several reviewers say together: agreement, majority, and who contradicts whom. Pure.

A reviewer's word on a pair is the newest thing they said (`ndd.data.decisions.words`). Duplicate and distinct are
opinions; `unsure` abstains.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from itertools import combinations

from feedback.tasks import is_ours, project_source
from ndd.data.decisions import settle, words
from ndd.types import Decision, Verdict

__all__ = [
    "PANEL",
    "cohen_kappa",
    "contradicted",
    "krippendorff_alpha",
    "opinions",
    "outcome",
    "panel",
    "ratings",
]

PANEL = "panel"
"""Reviewer of the decision that says what several people's answers come to."""


def opinions(decisions: Iterable[Decision]) -> dict[str, dict[str, Decision]]:
    """pair_id → reviewer → their word, people's only, pairs in order."""
    by_pair = {
        pair: {word.reviewer: word for word in said if word.reviewer != PANEL}
        for pair, said in words(decisions).items()
    }
    return {pair: said for pair, said in sorted(by_pair.items()) if said}


def outcome(said: Iterable[Decision]) -> Verdict:
    """What most reviewers say; `unsure` where they are evenly divided, or all are unsure."""
    votes = Counter(word.verdict for word in said)
    for_, against = votes[Verdict.DUPLICATE], votes[Verdict.DISTINCT]
    if for_ == against:
        return Verdict.UNSURE
    return Verdict.DUPLICATE if for_ > against else Verdict.DISTINCT


def contradicted(said: Iterable[Decision]) -> bool:
    """True if as many call the pair duplicate as call it distinct."""
    votes = Counter(word.verdict for word in said)
    return votes[Verdict.DUPLICATE] == votes[Verdict.DISTINCT] > 0


def panel(decisions: Sequence[Decision], *, project: str) -> list[Decision]:
    """Decisions to add so that the majority stands in the store, where the newest word would stand otherwise.

    A pair whose reviewers are evenly divided becomes `unsure`, which links in neither way until somebody breaks the tie.
    A word from elsewhere that is newer than the project's (`ndd decide`, say) is somebody's last word and stays.
    """
    standing, fresh = settle(decisions), []
    by_pair: dict[str, list[Decision]] = {}
    for decision in decisions:
        by_pair.setdefault(decision.pair_id, []).append(decision)
    for pair, said in opinions(decisions).items():
        current, majority = standing[pair], outcome(said.values())
        if len(said) < 2 or current.verdict is majority or not is_ours(current, project):
            continue
        ours = [word for word in said.values() if is_ours(word, project)]
        example = max(
            (word for word in ours if word.verdict is majority),
            key=lambda word: (word.time, word.decision_id),
            default=ours[0],
        )
        earlier = [d for d in by_pair[pair] if d.reviewer == PANEL]
        fresh.append(
            Decision(
                left_id=example.left_id,
                right_id=example.right_id,
                verdict=majority,
                relation=example.relation if example.verdict is majority else None,
                reviewer=PANEL,
                time=max(d.time for d in by_pair[pair]) + timedelta(microseconds=1),
                embedding_digest=example.embedding_digest,
                scorer_digest=example.scorer_digest,
                draw=example.draw,
                p_draw=example.p_draw,
                source=project_source(project) + PANEL,
                supersedes=earlier[-1].decision_id if earlier else None,
            )
        )
    return fresh


def cohen_kappa(pairs: Sequence[tuple[str, str]]) -> float | None:
    """Agreement of two raters beyond chance (Cohen 1960); None without items, 1 where both say one and the same always."""
    if not pairs:
        return None
    total = len(pairs)
    observed = sum(a == b for a, b in pairs) / total
    left, right = Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
    chance = sum(left[value] * right[value] for value in left) / total**2
    return 1.0 if chance == 1.0 else (observed - chance) / (1.0 - chance)


def krippendorff_alpha(items: Iterable[Sequence[str]]) -> float | None:
    """Agreement of any number of raters on nominal values (Krippendorff 2011, "Computing Krippendorff's alpha-reliability").

    items: for each item the values it was given; those with fewer than two say nothing. None if no item has two.
    """
    weights: dict[tuple[str, str], float] = {}
    for values in items:
        if len(values) < 2:
            continue
        share = 1.0 / (len(values) - 1)
        for a, b in combinations(values, 2):
            for key in ((a, b), (b, a)):
                weights[key] = weights.get(key, 0.0) + share
    total = sum(weights.values())
    if not total:
        return None
    margins: dict[str, float] = {}
    for (a, _), weight in weights.items():
        margins[a] = margins.get(a, 0.0) + weight
    observed = sum(weight for (a, b), weight in weights.items() if a != b) / total
    expected = sum(margins[a] * margins[b] for a in margins for b in margins if a != b) / (total * (total - 1))
    return 1.0 if expected == 0.0 else 1.0 - observed / expected


def ratings(said: Mapping[str, Mapping[str, Decision]]) -> list[list[str]]:
    """For each pair the opinions given, abstentions left out."""
    return [
        [str(word.verdict) for _, word in sorted(words_.items()) if word.verdict is not Verdict.UNSURE]
        for words_ in said.values()
    ]
