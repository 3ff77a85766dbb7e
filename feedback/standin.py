"""A stand-in for people: answers every waiting task by the truth of an album, through the same API as a browser.

For demonstrations and tests of the loop where nobody sits at the screen. Its answers carry a reviewer of its own, so that
nobody takes them for a person's.
"""

from __future__ import annotations

import csv
from pathlib import Path

from feedback.desk import Desk
from feedback.labelstudio import Server
from feedback.tasks import question_of, result_of
from ndd.config import DecodeLimits
from ndd.errors import DecodeError, InputError, SchemaError
from ndd.images import read_file
from ndd.types import ImageId, Verdict, image_id

__all__ = ["REVIEWER", "answer_by_truth", "groups_of"]

REVIEWER = "ground-truth@localhost.localdomain"


def answer_by_truth(desk: Desk, server: Server, album: Path) -> int:
    """Answer the tasks without an answer whose pictures are both in `album` (a folder with groups.csv); how many.

    Raises InputError, SchemaError, LabelStudioError.
    """
    project = server.project(f"ndd:{desk.project_tag}")
    if project is None:
        return 0
    group, who, done = groups_of(album), server.reviewer(REVIEWER), 0
    for task in server.tasks(project):
        question = question_of(task)
        if question is None or task["annotations"] or not {question.left_id, question.right_id} <= group.keys():
            continue
        same = group[ImageId(question.left_id)] == group[ImageId(question.right_id)]
        server.answer(task["id"], result_of(Verdict.DUPLICATE if same else Verdict.DISTINCT), reviewer=who)
        done += 1
    return done


def groups_of(album: Path) -> dict[ImageId, str]:
    """Content → its group, from `album/groups.csv` (columns image, group; paths below `album`)."""
    table = album / "groups.csv"
    if not table.is_file():
        raise InputError(f"{table}: no such file; give an album with its truth, columns image and group")
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if rows and not {"image", "group"} <= rows[0].keys():
        raise SchemaError(f"{table}, line 1: columns image and group are wanted, got {', '.join(rows[0])}")
    groups: dict[ImageId, str] = {}
    for row in rows:
        try:
            groups[image_id(read_file(album / row["image"], limits=DecodeLimits()))] = row["group"]
        except DecodeError:
            continue  # a picture that cannot be read is in no pair
    return groups
