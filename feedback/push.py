"""From the queue to Label Studio: one task for each waiting pair, however often and wherever this is interrupted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import resources
from typing import Any

import numpy as np

from feedback.desk import Desk
from feedback.labelstudio import Server
from feedback.pictures import PictureRefused, Previews
from feedback.tasks import Links, conflicts_view, prediction_of, question_of, task_of, view_of
from ndd.candidates import FindRun
from ndd.data.queue import QueuedPair
from ndd.select import Candidates, select
from ndd.types import Draw

__all__ = ["Pushed", "choose", "label_config", "of_queue", "open_project", "open_store", "push"]

_BATCH = 25
TITLE = "Near-duplicates"


@dataclass(kw_only=True)
class Pushed:
    """What a push did. refused: why pairs could not be shown; view: the reviewers' tab."""

    project: int
    view: int
    tasks: int = 0
    there: int = 0
    removed: int = 0
    refused: list[str] = field(default_factory=list)


def choose(desk: Desk, run: FindRun, *, count: int, audit_share: float, seed: int) -> int:
    """Put up to `count` pairs of a run into the queue; how many were new."""
    decided = desk.decisions.current().keys()
    queued = {pair.pair_id for pair in desk.queue.waiting()}
    choices = select(
        run.candidates,
        count=count,
        audit_share=audit_share,
        seed=seed,
        strata=run.strata,
        exclude=decided | queued,
    )
    now = datetime.now(UTC)
    return desk.queue.put(run.queued(choice, now=now) for choice in choices)


def push(
    desk: Desk,
    server: Server,
    *,
    previews: Previews,
    limit: int | None = None,
    pictures: str = "local",
    reviewers: int | None = None,
    suggest: bool = False,
) -> Pushed:
    """Make the tasks of waiting pairs that have none. Stopped at any point, the same call goes on.

    limit: most new tasks; None for all. pictures: how they reach the browser: `local` (the server reads the previews'
    folder), `upload`, or the address below which that folder can be reached (`s3://bucket/folder`, `https://…`).
    reviewers: answers wanted for each pair; None for as many as before.
    A pair whose pictures cannot be shown stays in the queue and is reported. Raises LabelStudioError, StoreError.
    """
    with desk.held():
        project, view = open_project(desk, server, reviewers=reviewers)
        store = open_store(desk, server) if pictures == "upload" else 0
        if pictures == "local":
            server.serve_folder(project, previews.folder.resolve())
        waiting = desk.queue.waiting()
        done = Pushed(project=project, view=view)
        known = _tidy(server, project, {pair.pair_id: pair for pair in waiting}, done)
        fresh = [pair for pair in waiting if pair.pair_id not in known]
        done.there = len(waiting) - len(fresh)
        batch: list[dict[str, Any]] = []
        for pair in _most_urgent(fresh, limit):
            try:
                links = _links(pair, previews, server, store, pictures)
            except PictureRefused as error:
                done.refused.append(str(error))
                continue
            batch.append(task_of(pair, links, suggest=suggest))
            if len(batch) == _BATCH:
                server.add_tasks(project, batch)
                done.tasks, batch = done.tasks + len(batch), []
        if batch:
            server.add_tasks(project, batch)
            done.tasks += len(batch)
        return done


def open_project(desk: Desk, server: Server, *, reviewers: int | None = None) -> tuple[int, int]:
    """This home's project and its reviewers' tab; both are made where they are missing.

    reviewers: answers wanted for each pair; None for as many as before, one in a new project.
    """
    tag = f"ndd:{desk.project_tag}"
    project = server.project(tag)
    if project is None:
        wanted = reviewers or 1
        project = server.create_project(
            title=TITLE,
            description=f"Which of these pairs are the same picture? [{tag}]",
            label_config=label_config(),
            reviewers=wanted,
        )
    else:
        wanted = server.update_project(project, label_config=label_config(), reviewers=reviewers)
    view = server.view(project, view_of(reviewers=wanted))
    server.view(project, conflicts_view())
    return project, view


def open_store(desk: Desk, server: Server) -> int:
    """The project that holds uploaded pictures, made if it is missing: without tasks, and of no interest to reviewers."""
    tag = f"ndd-pictures:{desk.project_tag}"
    return server.project(tag) or server.create_project(
        title=f"{TITLE}: pictures",
        description=f"Holds the pictures of the project {TITLE}; there is nothing to label here. [{tag}]",
        label_config='<View><Image name="picture" value="$picture"/></View>',
        reviewers=1,
    )


def label_config() -> str:
    """The labelling screen."""
    return resources.files("feedback").joinpath("label_config.xml").read_text(encoding="utf-8")


def _tidy(server: Server, project: int, waiting: Mapping[str, QueuedPair], done: Pushed) -> set[str]:
    """pair_ids that have a task. What a push that was cut off left behind is put right: a request whose answer was lost may
    have been carried out after the next one had looked, so a pair can have two tasks; and a task can lack its prediction."""
    by_pair: dict[str, list[dict[str, Any]]] = {}
    for task in server.tasks(project):
        question = question_of(task)
        if question is not None:
            by_pair.setdefault(question.pair_id, []).append(task)
    for pair_id, tasks in by_pair.items():
        first, *extra = sorted(tasks, key=lambda task: (not task["annotations"], not task["drafts"], task["id"]))
        for task in extra:
            now = server.task(task["id"])
            if now is not None and not now["annotations"] and not now["drafts"]:
                server.delete_task(task["id"])
                done.removed += 1
        if not first["predictions"] and pair_id in waiting:
            server.add_prediction(first["id"], prediction_of(waiting[pair_id]))
    return set(by_pair)


def _most_urgent(pairs: Sequence[QueuedPair], limit: int | None) -> Iterable[QueuedPair]:
    """At most `limit` of the pairs: every audit draw that fits, then the best of the others."""
    if limit is None or len(pairs) <= limit:
        return pairs
    audits = [pair for pair in pairs if pair.draw is Draw.AUDIT][:limit]
    others = [pair for pair in pairs if pair.draw is not Draw.AUDIT]
    rows = select(of_queue(others), count=limit - len(audits), audit_share=0.0)
    return [*audits, *(others[choice.row] for choice in rows)]


def of_queue(pairs: Sequence[QueuedPair]) -> Candidates:
    """Queued pairs, from whatever source, as candidates."""
    names = sorted({name for pair in pairs for name in (pair.left_id, pair.right_id)})
    at = {name: row for row, name in enumerate(names)}
    return Candidates(
        pictures=names,
        left=np.array([at[pair.left_id] for pair in pairs], np.int64),
        right=np.array([at[pair.right_id] for pair in pairs], np.int64),
        score=np.array([pair.score for pair in pairs], np.float64),
    )


def _links(pair: QueuedPair, previews: Previews, server: Server, store: int, pictures: str) -> Links:
    ends = ((pair.left_id, pair.left_uri), (pair.right_id, pair.right_uri))
    files = [previews.picture(id, uri) for id, uri in ends] + [previews.together(pair.pair_id, ends)]
    if pictures == "upload":
        left, right, aligned = (server.upload(store, file.name, file.read_bytes()) for file in files)
    else:
        base = "/data/local-files/?d=pictures" if pictures == "local" else pictures.rstrip("/")
        left, right, aligned = (f"{base}/{file.name}" for file in files)
    return Links(left=left, right=right, aligned=aligned)
