"""The receiver of webhooks: who may knock, and what is made of what they say."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedback.desk import Desk
from feedback.webhook import HEADER, application, secret_of, tasks_of

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["task", "annotation", "annotations", "id", "x"]), inner, max_size=4)
    ),
    max_leaves=12,
)


def post(body: bytes | None = None, *, json: Any = None, key: str | None = "secret") -> tuple[int, list[list[int]]]:
    looked: list[list[int]] = []

    async def send() -> int:
        transport = httpx.ASGITransport(app=application("secret", look_at=looked.append))
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            headers = {} if key is None else {HEADER: key}
            answer = await client.post("/events", content=body, json=json, headers=headers)
            return answer.status_code

    return asyncio.run(send()), looked


@pytest.mark.parametrize("key", [None, "", "secre", "secret ", "SECRET", "secretsecret"])
def test_without_the_secret_nothing_is_looked_at(key: str | None) -> None:
    assert post(json={"task": {"id": 1}}, key=key) == (401, [])


def test_the_tasks_that_are_named_are_looked_at() -> None:
    assert post(json={"action": "ANNOTATION_CREATED", "task": {"id": 4}, "annotation": {"id": 9, "task": 4}}) == (
        202,
        [[4]],
    )
    assert post(json={"action": "ANNOTATIONS_DELETED", "annotations": [{"id": 9}]}) == (202, [[]])  # hence at all
    assert post(json=[1, 2]) == (202, [[]])


def test_nonsense_and_floods_are_refused() -> None:
    assert post(b"no json") == (400, [])
    assert post(b"[" + b" " * (2 << 20) + b"]") == (413, [])


@given(JSON)
def test_any_event_names_numbers_of_tasks_or_none(event: Any) -> None:
    assert all(type(number) is int and number > 0 for number in tasks_of(event))


def test_the_secret_is_the_owners_alone() -> None:
    desk = Desk()
    secret = secret_of(desk)
    assert len(secret) >= 40
    assert secret_of(desk) == secret
    assert (desk.root / "webhook-secret").stat().st_mode & 0o077 == 0
