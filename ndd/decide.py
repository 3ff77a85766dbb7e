"""Recording what a person says of two picture files."""

from __future__ import annotations

import getpass
import os
from datetime import UTC, datetime

from ndd.config import DecodeLimits
from ndd.data.decisions import DecisionStore
from ndd.errors import DecodeError, InputError
from ndd.home import home
from ndd.images import read_file
from ndd.model.directory import describe, resolve
from ndd.types import Decision, ImageId, Relation, Verdict, image_id

__all__ = ["record"]


def record(
    left: str | os.PathLike[str],
    right: str | os.PathLike[str],
    *,
    verdict: Verdict | str,
    relation: Relation | str | None = None,
    reviewer: str | None = None,
    model: str | os.PathLike[str] | None = None,
) -> Decision:
    """Append a decision about two files to the store of `$NDD_HOME` and return it; durable when this returns.

    The files need not be pictures that can be decoded: a decision is about bytes. reviewer: default the user logged in.
    model: whose digests the decision carries (the person may have seen its score).
    Raises InputError if a file cannot be read or both have the same bytes, ModelError, StoreError.
    """
    a, b = sorted((_id(left), _id(right)))
    if a == b:
        raise InputError(f"{left} and {right}: the same bytes; a decision is about two different pictures")
    said = describe(resolve(model))
    decision = Decision(
        left_id=a,
        right_id=b,
        verdict=Verdict(verdict),
        relation=None if relation is None else Relation(relation),
        reviewer=reviewer or _user(),
        time=datetime.now(UTC),
        embedding_digest=said.embedding_digest,
        scorer_digest=said.scorer_digest,
    )
    DecisionStore(home().decisions).append(decision)
    return decision


def _id(path: str | os.PathLike[str]) -> ImageId:
    try:
        return image_id(read_file(path, limits=DecodeLimits()))
    except DecodeError as error:
        raise InputError(f"{os.fspath(path)}: {error.reason}; name a picture file") from None


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # no such user, as in some containers
        return f"uid-{os.getuid()}"
