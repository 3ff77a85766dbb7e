"""A small client of the server: typed, and it asks again when an answer was lost. Needs httpx; imports neither Ray nor torch.

    from serve.client import Client

    with Client("http://127.0.0.1:8000", key=KEY) as client:
        client.add("a.jpg", id="a", metadata={"album": "holidays"})
        client.query("b.jpg", k=3).matches[0].score
        client.compare("a.jpg", "b.jpg").duplicate

Every call may be repeated without harm, and is: when the connection breaks or the replica that worked on it dies.
"""

from __future__ import annotations

import base64
import json
import os
import random
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx

__all__ = ["Added", "Client", "Comparison", "Match", "Query", "Refused", "ServerError", "Unreachable"]

Picture = str | os.PathLike[str] | bytes
"""A path, or the bytes of a file."""

_AGAIN = (429, 502, 503, 504)
T = TypeVar("T")


class ServerError(Exception):
    """The server could not be asked, or refused."""


class Unreachable(ServerError):
    """No answer, however often it was asked."""


class Refused(ServerError):
    """The server answered with an error. status: of HTTP; code: for programs; request_id: what its log has it under."""

    def __init__(self, status: int, code: str, message: str, request_id: str) -> None:
        super().__init__(f"{status} {code}: {message} (request {request_id})")
        self.status, self.code, self.message, self.request_id = status, code, message, request_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What two pictures are to each other."""

    score: float
    distance: float
    duplicate: bool
    relation: str | None
    threshold: float
    evidence: Mapping[str, Any]
    digests: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A picture of the index. decided: what a person said of the pair."""

    id: str
    image_id: str
    score: float
    duplicate: bool
    relation: str | None
    distance: float
    decided: str | None
    evidence: Mapping[str, Any]
    metadata: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Matches, likeliest first; the other fields are those of the first."""

    duplicate: bool
    score: float | None
    relation: str | None
    threshold: float
    digests: Mapping[str, str]
    matches: tuple[Match, ...] = field(default=())


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """A stored picture. status: `added`, `unchanged` or `replaced`."""

    id: str
    image_id: str
    status: str
    digests: Mapping[str, str]


class Client:
    """Talks to one server; safe to share between threads. Methods raise Refused and Unreachable."""

    def __init__(
        self,
        address: str = "http://127.0.0.1:8000",
        *,
        key: str | None = None,
        timeout: float = 60.0,
        attempts: int = 5,
    ) -> None:
        """key: default NDD_KEY. timeout: seconds for one attempt. attempts: how often a call is tried in all."""
        secret = key or os.environ.get("NDD_KEY", "")
        headers = {"Authorization": f"Bearer {secret}"} if secret else {}
        self._http = httpx.Client(base_url=address, headers=headers, timeout=timeout, trust_env=False)
        self._attempts = attempts

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the connections go."""
        self._http.close()

    def compare(self, a: Picture, b: Picture) -> Comparison:
        """What two pictures are to each other."""
        return _as(Comparison, self._ask("POST", "/v1/compare", files={"a": _bytes(a), "b": _bytes(b)}))

    def query(self, image: Picture, *, k: int = 10) -> Query:
        """The likeliest duplicates in the index."""
        return _query(self._ask("POST", "/v1/query", files={"image": _bytes(image)}, data={"k": str(k)}))

    def query_vector(self, vector: Sequence[float], *, embedding_digest: str, k: int = 10) -> Query:
        """The nearest in the index to an embedding that the model of that digest made."""
        body = {"vector": [float(x) for x in vector], "embedding_digest": embedding_digest, "k": k}
        return _query(self._ask("POST", "/v1/query", json=body))

    def add(
        self, image: Picture, *, id: str, metadata: Mapping[str, Any] | None = None, replace: bool = False
    ) -> Added:
        """Put a picture into the index; on the server's disk when this returns."""
        data = {"id": id, "metadata": json.dumps(dict(metadata or {})), "replace": json.dumps(replace)}
        return _as(Added, self._ask("POST", "/v1/images", files={"image": _bytes(image)}, data=data))

    def get(self, id: str) -> Mapping[str, Any]:
        """id, image_id and metadata of a picture in the index."""
        return self._ask("GET", f"/v1/images/{quote(id, safe='')}")

    def remove(self, id: str) -> bool:
        """Take a picture out of the index; False if it was not there."""
        return bool(self._ask("DELETE", f"/v1/images/{quote(id, safe='')}")["removed"])

    def decide(
        self, left: str, right: str, *, verdict: str, relation: str | None = None, reviewer: str = "client"
    ) -> Mapping[str, Any]:
        """Record what a person says of two pictures of the index, named by their ids there."""
        said = {"left": left, "right": right, "verdict": verdict, "reviewer": reviewer}
        said["time"] = datetime.now(UTC).isoformat()  # asked twice, it is recorded once
        return self._ask("POST", "/v1/decisions", json=said | ({"relation": relation} if relation else {}))

    def batch(self, items: Iterable[tuple[Picture, Picture] | Picture], *, k: int = 10) -> Iterator[Mapping[str, Any]]:
        """Compare pairs and query pictures, many at once: an answer for each, in order, as they come.

        Each has `index`, `status`, and `result` or `error`. Not repeated by itself: some answers may have been used.
        """
        lines = b"".join(json.dumps(_item(item, k)).encode() + b"\n" for item in items)
        headers = {"Content-Type": "application/x-ndjson"}
        with self._http.stream("POST", "/v1/batch", content=lines, headers=headers) as answer:
            if answer.status_code != 200:
                answer.read()
                raise _refusal(answer)
            for line in answer.iter_lines():
                yield json.loads(line)

    def model(self) -> Mapping[str, Any]:
        """Which model answers, on which index."""
        return self._ask("GET", "/v1/model")

    def ready(self) -> bool:
        """True if the server would answer now; asks once."""
        try:
            return self._http.get("/readyz").status_code == 200
        except httpx.HTTPError:
            return False

    def _ask(self, method: str, path: str, **body: Any) -> Mapping[str, Any]:
        for attempt in range(1, self._attempts + 1):
            try:
                answer = self._http.request(method, path, **body)
            except httpx.TransportError as error:
                if attempt == self._attempts:
                    raise Unreachable(f"{method} {path}: {type(error).__name__}: {error}") from error
                _wait(attempt, None)
                continue
            if answer.is_success:
                return dict(answer.json())
            if attempt == self._attempts or not _lost(answer):
                raise _refusal(answer)
            _wait(attempt, answer.headers.get("Retry-After"))
        raise AssertionError("unreachable")


def _lost(answer: httpx.Response) -> bool:
    """True where the answer is not the last word: not now, or the proxy's in place of a replica that is gone."""
    return answer.status_code in _AGAIN or (answer.status_code == 500 and _code(answer) != "internal")


def _wait(attempt: int, retry_after: str | None) -> None:
    if retry_after is not None and retry_after.isdigit():
        time.sleep(min(float(retry_after), 30.0))
    else:
        time.sleep(min(5.0, 0.1 * 2**attempt) * random.uniform(0.5, 1.0))


def _code(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return ""


def _refusal(answer: httpx.Response) -> Refused:
    try:
        said = answer.json()
        return Refused(answer.status_code, said["error"]["code"], said["error"]["message"], said["request_id"])
    except (ValueError, KeyError, TypeError):
        request = answer.headers.get("x-request-id", "unknown")
        return Refused(answer.status_code, "proxy", "answered in place of the server", request)


def _as(kind: type[T], said: Mapping[str, Any]) -> T:
    """A record of the fields that are known here; a newer server may say more."""
    return kind(**{f.name: said[f.name] for f in fields(kind)})  # type: ignore[arg-type]


def _query(said: Mapping[str, Any]) -> Query:
    return _as(Query, {**said, "matches": tuple(_as(Match, match) for match in said["matches"])})


def _bytes(picture: Picture) -> bytes:
    return picture if isinstance(picture, bytes) else Path(picture).read_bytes()


def _item(item: tuple[Picture, Picture] | Picture, k: int) -> dict[str, Any]:
    def inline(picture: Picture) -> dict[str, str]:
        return {"base64": base64.b64encode(_bytes(picture)).decode()}

    if isinstance(item, tuple):
        return {"a": inline(item[0]), "b": inline(item[1])}
    return {"image": inline(item), "k": k}
