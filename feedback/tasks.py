"""Pairs → tasks of Label Studio, and its annotations → decisions. Pure: no server, no files, no clock.

A task carries in its `meta` all that a decision needs, so answers can be fetched without the queue that asked. A decision
made of an annotation says so in its source, `label-studio/PROJECT/TASK.ANNOTATION`: what follows (an edit, a deletion)
finds its predecessor by it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from ndd.data.decision_rows import sha256_id
from ndd.data.queue import QueuedPair
from ndd.select import urgency
from ndd.types import Decision, Draw, Relation, Verdict, pair_id

__all__ = [
    "CONFLICT",
    "Answer",
    "Links",
    "Question",
    "answers_of",
    "conflicts_view",
    "follow",
    "is_ours",
    "notes_of",
    "prediction_of",
    "project_source",
    "question_of",
    "result_of",
    "task_of",
    "view_of",
]

_ASKED = ("left_id", "right_id", "draw", "p_draw", "embedding_digest", "scorer_digest")
CONFLICT = "conflict"
"""`data.state` of a task whose reviewers contradict one another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Links:
    """Where the browser finds the pictures of a pair."""

    left: str
    right: str
    aligned: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a task asks: the fields that a decision takes over unchanged."""

    left_id: str
    right_id: str
    draw: Draw
    p_draw: float
    embedding_digest: str
    scorer_digest: str

    @property
    def pair_id(self) -> str:
        """Identity of the pair."""
        return pair_id(sha256_id(self.left_id), sha256_id(self.right_id))


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one annotation says. key: `TASK.ANNOTATION`; user: the number of whoever gave it."""

    key: str
    verdict: Verdict
    relation: Relation | None
    note: str
    user: int
    time: datetime


def task_of(pair: QueuedPair, links: Links, *, suggest: bool = False) -> dict[str, Any]:
    """The task of a pair, as Label Studio imports it.

    Its prediction has the pair's urgency as score, for the order, and no result: an answer chosen in advance anchors
    reviewers. suggest: choose in advance all the same, except in audit draws, which do not show the score either.
    """
    audit = pair.draw is Draw.AUDIT
    result = [_chosen("duplicate" if pair.score >= 0.5 else "distinct")] if suggest and not audit else []
    return {
        "data": {
            "pair_id": pair.pair_id,
            "left": links.left,
            "right": links.right,
            "aligned": links.aligned,
            "left_about": _about_side(pair, "left"),
            "right_about": _about_side(pair, "right"),
            "about": _about(pair, audit=audit),
            "state": "",
        },
        "meta": {"ndd": 1, **{name: getattr(pair, name) for name in _ASKED}},
        "predictions": [prediction_of(pair, result)],
    }


def prediction_of(pair: QueuedPair, result: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """The prediction that puts a task in its place in the order."""
    place = urgency(pair.score, draw=pair.draw, pair_id=pair.pair_id)
    return {"model_version": "urgency", "score": place, "result": list(result)}


def view_of(*, reviewers: int) -> dict[str, Any]:
    """The tab a reviewer works in: tasks that want an answer, most uncertain first."""
    return _tab(
        "Most uncertain first",
        {
            "filter": "filter:tasks:total_annotations",
            "operator": "less" if reviewers > 1 else "equal",
            "type": "Number",
            "value": reviewers if reviewers > 1 else 0,
        },
    )


def conflicts_view() -> dict[str, Any]:
    """The tab of whoever settles contradictions."""
    return _tab(
        "Reviewers disagree",
        {"filter": "filter:tasks:data.state", "operator": "equal", "type": "String", "value": CONFLICT},
    )


def question_of(task: Mapping[str, Any]) -> Question | None:
    """What the task asks; None for one that ndd did not make, or that somebody has damaged."""
    meta = task["meta"]
    try:
        question = Question(
            left_id=sha256_id(meta["left_id"]),
            right_id=sha256_id(meta["right_id"]),
            draw=Draw(meta["draw"]),
            p_draw=float(meta["p_draw"]),
            embedding_digest=str(meta["embedding_digest"]),
            scorer_digest=str(meta["scorer_digest"]),
        )
    except (KeyError, TypeError, ValueError):
        return None
    good = question.left_id < question.right_id and 0.0 < question.p_draw <= 1.0
    return question if good and question.pair_id == task["data"].get("pair_id") else None


def answers_of(task: Mapping[str, Any]) -> list[Answer]:
    """The answers on a task, by number; annotations that were skipped or say no verdict are none."""
    answers = []
    for annotation in task["annotations"]:
        said = {r.get("from_name"): r.get("value", {}) for r in annotation.get("result") or []}
        verdict = _choice(said.get("verdict"), Verdict)
        if annotation.get("was_cancelled") or verdict is None or verdict is Verdict.WITHDRAWN:
            continue
        duplicate = verdict is Verdict.DUPLICATE  # a relation chosen before the verdict was changed means nothing
        answers.append(
            Answer(
                key=f"{task['id']}.{annotation['id']}",
                verdict=verdict,
                relation=_choice(said.get("relation"), Relation) if duplicate else None,
                note=" ".join(said.get("note", {}).get("text") or []).strip(),
                user=_user(annotation),
                time=_moment(annotation["updated_at"]),
            )
        )
    return sorted(answers, key=lambda answer: answer.key)


def follow(
    tasks: Iterable[Mapping[str, Any]],
    decisions: Iterable[Decision],
    *,
    project: str,
    users: Mapping[int, str],
) -> list[Decision]:
    """The decisions that bring the store up to what the tasks say now; none if it is up to date.

    decisions: all that the store holds, oldest record first. An annotation that changed supersedes what it said before;
    one that is gone from a task that is still there, or was skipped after all, is withdrawn. A task that is gone takes
    nothing back: clearing a project is no change of mind.
    """
    source = project_source(project)
    last = _by_key(decisions, project)
    fresh: list[Decision] = []
    for task in tasks:
        question, there = question_of(task), answers_of(task)
        if question is None:
            continue
        for answer in there:
            before = last.get(answer.key)
            said = (answer.verdict, answer.relation, users.get(answer.user, f"user-{answer.user}"))
            if before is None or (before.verdict, before.relation, before.reviewer) != said:
                fresh.append(_decision(question, answer, said[2], source, before))
        gone = {key for key in last if key.startswith(f"{task['id']}.")} - {answer.key for answer in there}
        for key in sorted(gone):
            if last[key].verdict is not Verdict.WITHDRAWN and last[key].pair_id == question.pair_id:
                fresh.append(_withdrawn(last[key]))
    return fresh


def notes_of(
    tasks: Iterable[Mapping[str, Any]], decisions: Iterable[Decision], *, project: str
) -> list[tuple[str, str]]:
    """(decision_id, what is written beside it now) of every answer that the store holds as it stands, "" for nothing.

    Of all and not only of fresh ones: a note may come or change after its answer, and a pull may have been killed between
    the two.
    """
    last = _by_key(decisions, project)
    there = (answer for task in tasks if question_of(task) is not None for answer in answers_of(task))
    return [(last[answer.key].decision_id, answer.note) for answer in there if answer.key in last]


def _by_key(decisions: Iterable[Decision], project: str) -> dict[str, Decision]:
    """The latest record of each annotation of a project, by `Answer.key`."""
    source = project_source(project)
    return {d.source.removeprefix(source): d for d in decisions if is_ours(d, project)}


def project_source(project: str) -> str:
    """How the source of every decision from a project begins."""
    return f"label-studio/{project}/"


def is_ours(decision: Decision, project: str) -> bool:
    """True if the decision was made of an annotation of this project."""
    return decision.source.startswith(project_source(project))


def _decision(question: Question, answer: Answer, reviewer: str, source: str, before: Decision | None) -> Decision:
    return Decision(
        left_id=sha256_id(question.left_id),
        right_id=sha256_id(question.right_id),
        verdict=answer.verdict,
        relation=answer.relation,
        reviewer=reviewer,
        time=answer.time,
        embedding_digest=question.embedding_digest,
        scorer_digest=question.scorer_digest,
        draw=question.draw,
        p_draw=question.p_draw,
        source=source + answer.key,
        supersedes=None if before is None else before.decision_id,
    )


def _withdrawn(before: Decision) -> Decision:
    # Nobody knows when it was deleted. Were it now, it would also silence what the reviewer has said since.
    return Decision(
        left_id=before.left_id,
        right_id=before.right_id,
        verdict=Verdict.WITHDRAWN,
        relation=None,
        reviewer=before.reviewer,
        time=before.time + timedelta(microseconds=1),
        embedding_digest=before.embedding_digest,
        scorer_digest=before.scorer_digest,
        draw=before.draw,
        p_draw=before.p_draw,
        source=before.source,
        supersedes=before.decision_id,
    )


def _tab(title: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "title": title,
        "type": "list",
        "target": "tasks",
        "filters": {"conjunction": "and", "items": [dict(wanted)]},
        "ordering": ["-tasks:predictions_score"],
        "hiddenColumns": {"explore": ["tasks:data.pair_id", "tasks:data.aligned", "tasks:data.state"], "labeling": []},
    }


def _about_side(pair: QueuedPair, side: str) -> str:
    facts = pair.evidence.get(side)
    return str(facts) if facts else getattr(pair, f"{side}_uri").rsplit("/", 1)[-1]


def _about(pair: QueuedPair, *, audit: bool) -> str:
    if audit:
        return "A random check: what the model thinks is not shown."
    words = [f"score {pair.score:.3f}"]
    if "distance" in pair.evidence:
        words.append(f"distance {pair.evidence['distance']:.3f}")
    if pair.evidence.get("inliers"):
        words.append(f"{pair.evidence['inliers']} keypoints agree")
    if pair.evidence.get("relation"):
        words.append(f"it may be {pair.evidence['relation']}")
    return " · ".join(words)


def result_of(verdict: Verdict) -> list[dict[str, Any]]:
    """What the labelling screen writes for an answer."""
    return [_chosen(verdict)]


def _chosen(verdict: str) -> dict[str, Any]:
    return {"from_name": "verdict", "to_name": "left", "type": "choices", "value": {"choices": [str(verdict)]}}


def _choice(value: Any, kind: Any) -> Any:
    chosen = (value or {}).get("choices") or []
    try:
        return kind(chosen[0]) if len(chosen) == 1 else None
    except ValueError:
        return None


def _user(annotation: Mapping[str, Any]) -> int:
    for name in ("completed_by", "updated_by"):
        value = annotation.get(name)
        value = value.get("id") if isinstance(value, dict) else value
        if value is not None:
            return int(value)
    return 0


def _moment(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=UTC)
