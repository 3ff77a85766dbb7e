"""Schemathesis against the server's own description: no 5xx, and calls that follow the description mostly succeed."""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

from tests.serve.running import KEYS, Running, running

EXAMPLES = 25


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("described"), model, {"review.rate": 0}) as started:
        # What the examples of the description name.
        described = started.http.get("/openapi.json").json()["paths"]["/v1/images"]["post"]["requestBody"]["content"]
        for example in described["application/json"]["examples"].values():
            assert started.post("/v1/images", json=example["value"]).status_code == 201
        yield started


def _try(operation: Any, mode: GenerationMode, headers: dict[str, str], counts: collections.Counter[int]) -> None:
    @settings(
        max_examples=EXAMPLES,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        database=None,
        deadline=None,
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def once(case: Any) -> None:
        answer = case.call(headers=headers, timeout=60)
        counts[answer.status_code] += 1
        assert answer.status_code < 500, (case.as_curl_command(), answer.text)

    once()


def statuses(server: Running, mode: GenerationMode) -> dict[str, collections.Counter[int]]:
    """operation → statuses of generated cases."""
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    seen: dict[str, collections.Counter[int]] = {}
    headers = {"Authorization": f"Bearer {KEYS['admin']}"}
    for found in schema.get_all_operations():
        operation = found.ok()
        counts = seen.setdefault(operation.label, collections.Counter())

        with contextlib.suppress(Unsatisfiable):  # a call without parameters cannot be made wrongly
            _try(operation, mode, headers, counts)
    return seen


def test_calls_that_follow_the_description_succeed(described: Running) -> None:
    for label, counts in statuses(described, GenerationMode.POSITIVE).items():
        good = sum(n for status, n in counts.items() if 200 <= status < 300)
        assert good >= 0.3 * counts.total(), (label, counts)


def test_calls_that_do_not_are_refused(described: Running) -> None:
    statuses(described, GenerationMode.NEGATIVE)
