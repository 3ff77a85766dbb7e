"""From Label Studio to the decisions: every answer once, edits and deletions followed, contradictions sent back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from feedback.desk import Desk
from feedback.labelstudio import Server
from feedback.opinions import contradicted, opinions, panel
from feedback.tasks import CONFLICT, follow, notes_of, question_of
from ndd.types import Verdict

__all__ = ["Pulled", "pull"]


@dataclass(frozen=True, kw_only=True)
class Pulled:
    """What a pull did. answers: new or changed; withdrawn: taken back; conflicts: pairs on which reviewers disagree."""

    answers: int = 0
    withdrawn: int = 0
    conflicts: int = 0


def pull(desk: Desk, server: Server, *, tasks: Iterable[int] | None = None) -> Pulled:
    """Bring the decisions up to what the project's annotations say now; durable when this returns.

    tasks: look at these alone (a webhook named them); None for all. Stopped at any point, the same call goes on: a
    decision is stored before its pair leaves the queue. Raises LabelStudioError, StoreError.
    """
    with desk.held():
        tag = desk.project_tag
        project = server.project(f"ndd:{tag}")
        if project is None:
            return Pulled()
        listed = server.tasks(project) if tasks is None else _read(server, project, tasks)
        before = desk.decisions.load()
        fresh = follow(listed, before, project=tag, users=server.users())
        desk.decisions.extend(fresh)
        desk.note(notes_of(listed, desk.decisions.load(), project=tag))
        desk.decisions.extend(panel(desk.decisions.load(), project=tag))
        asked = {question.pair_id for task in listed if (question := question_of(task))}
        decided = desk.decisions.current().keys()
        desk.queue.answered(sorted(asked & decided))
        conflicts = _flag(desk, server, listed)
        withdrawn = sum(decision.verdict is Verdict.WITHDRAWN for decision in fresh)
        return Pulled(answers=len(fresh) - withdrawn, withdrawn=withdrawn, conflicts=conflicts)


def _read(server: Server, project: int, tasks: Iterable[int]) -> list[dict[str, Any]]:
    found = (server.task(task) for task in sorted(set(tasks)))
    return [task for task in found if task is not None and task["project"] == project]


def _flag(desk: Desk, server: Server, listed: Iterable[dict[str, Any]]) -> int:
    """Have each task say whether its reviewers contradict one another; how many do."""
    said = opinions(desk.decisions.load())
    conflicts = 0
    for task in listed:
        question = question_of(task)
        if question is None:
            continue
        state = CONFLICT if contradicted(said.get(question.pair_id, {}).values()) else ""
        conflicts += bool(state)
        if task["data"].get("state", "") != state:
            server.update_task(task["id"], {**task["data"], "state": state})
    return conflicts
