"""What requests and answers hold, beside pictures."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field

__all__ = [
    "SHA256",
    "AddFields",
    "Added",
    "Answer",
    "BatchCompare",
    "BatchQuery",
    "CompareFields",
    "Decided",
    "DecisionFields",
    "Digests",
    "Found",
    "ModelSaid",
    "Problem",
    "QueryAnswer",
    "QueryFields",
    "Removed",
    "Status",
    "Stored",
]

SHA256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$", description="sha256 of a picture's bytes")]
_ONE_LINE = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]+$"
Id = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]+$")]
"""The caller's name of a picture; percent-encoded where it is part of an address."""
RelationName = Literal["exact", "reencoded", "edited", "scene"]
VerdictName = Literal["duplicate", "distinct", "unsure", "withdrawn"]


def _from_text(value: object) -> object:
    """A form knows only text: an object or a list is its JSON."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except RecursionError:
        raise ValueError("nested too deeply") from None


FormJson = BeforeValidator(_from_text)
_DEPTH = 32


def _storable(metadata: dict[str, Any]) -> dict[str, Any]:
    """What was stored must be readable again by everybody: it is part of other people's answers."""
    level: list[Any] = [metadata]
    for _ in range(_DEPTH):
        level = [value for one in level for value in (one.values() if isinstance(one, dict) else one)]
        level = [value for value in level if isinstance(value, (dict, list))]
    if level:
        raise ValueError(f"nested more than {_DEPTH} deep")
    try:
        json.dumps(metadata, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        raise ValueError("a text is no valid Unicode") from None
    except ValueError:
        raise ValueError("a number is not finite") from None
    return metadata


def _moment(time: datetime) -> datetime:
    """A time that can be told in UTC: the first and the last day of the calendar cannot, in some zones."""
    try:
        return time.astimezone(UTC)
    except OverflowError:
        raise ValueError("out of the calendar of UTC") from None


class Strict(BaseModel):
    """A request: an unknown field is an error, not silence."""

    model_config = ConfigDict(extra="forbid")


class CompareFields(Strict):
    """Beside `a` and `b`: nothing."""


class QueryFields(Strict):
    """Beside `image`, or instead of it `vector` and `embedding_digest`."""

    k: Annotated[int, Field(ge=1, le=10_000)] = 10
    vector: Annotated[list[float], Field(min_length=1, max_length=4096), FormJson] | None = None
    embedding_digest: SHA256 | None = None


class BatchCompare(Strict):
    """Beside `a` and `b`. ref: comes back with the answer."""

    ref: Annotated[str, Field(max_length=256)] | None = None


class BatchQuery(BatchCompare):
    """Beside `image`."""

    k: Annotated[int, Field(ge=1, le=10_000)] = 10


class AddFields(Strict):
    """Beside `image`."""

    id: Id
    metadata: Annotated[dict[str, Any], AfterValidator(_storable), FormJson] = Field(default_factory=dict)
    replace: bool = False


class DecisionFields(Strict):
    """A person's word about two pictures, named by content (`left_id`, `right_id`) or by their ids in the index."""

    left_id: SHA256 | None = None
    right_id: SHA256 | None = None
    left: Id | None = None
    right: Id | None = None
    verdict: VerdictName
    relation: RelationName | None = None
    reviewer: Annotated[str, Field(min_length=1, max_length=100, pattern=_ONE_LINE)] = "api"
    time: (
        Annotated[
            AwareDatetime,
            AfterValidator(_moment),
            Field(description="when; the same word at the same time is recorded once"),
        ]
        | None
    ) = None


class Digests(BaseModel):
    """Which model spoke."""

    embedding: str
    scorer: str


class Answer(BaseModel):
    """What two pictures are to each other: the body of `ndd compare --json`."""

    score: Annotated[float, Field(description="P(duplicate | evidence)")]
    distance: Annotated[float, Field(description="1 − cosine of the embeddings")]
    duplicate: bool
    relation: RelationName | None
    evidence: dict[str, Any]
    threshold: float
    digests: Digests


class Found(BaseModel):
    """One match of a query."""

    id: str
    image_id: str
    score: float
    duplicate: bool
    relation: RelationName | None
    distance: float
    evidence: dict[str, Any]
    metadata: dict[str, Any]
    decided: Literal["duplicate", "distinct"] | None = Field(description="a person's standing word on the pair")


class QueryAnswer(BaseModel):
    """Matches, likeliest first; score, duplicate and relation of the likeliest at the top."""

    duplicate: bool
    score: float | None
    relation: RelationName | None
    matches: list[Found]
    threshold: float
    digests: Digests


class Added(BaseModel):
    """A stored picture."""

    id: str
    image_id: SHA256
    status: Literal["added", "unchanged", "replaced"]
    digests: Digests


class Stored(BaseModel):
    """What is kept of a picture."""

    id: str
    image_id: SHA256
    metadata: dict[str, Any]


class Removed(BaseModel):
    """Removing twice is no error."""

    id: str
    removed: bool


class Decided(BaseModel):
    """A recorded decision."""

    decision_id: str
    pair_id: str
    left_id: SHA256
    right_id: SHA256
    verdict: VerdictName
    recorded: bool


class ModelSaid(BaseModel):
    """What answers here."""

    model_config = ConfigDict(protected_namespaces=())

    digests: Digests
    architecture: str
    runtime: str
    relation: str
    threshold: float
    index: dict[str, Any]
    challenger: dict[str, Any] | None
    refused: str | None = Field(description="why a newly promoted model is not used")
    fetches_urls: bool


class ProblemBody(BaseModel):
    """code: for programs; message: for people."""

    code: str
    message: str


class Problem(BaseModel):
    """Any answer that is not 2xx."""

    error: ProblemBody
    request_id: str


class Status(BaseModel):
    """A word."""

    status: str
