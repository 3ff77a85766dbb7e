"""The measurement of Ray's gRPC ingress beside HTTP: the same bytes come back by both ways, and nothing listens outside."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.bench_serve_grpc import measure
from pipelines.bench_serve_load import table


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_both_ways_give_back_what_they_are_sent() -> None:
    figures = measure(seconds=0.5, rounds=1)
    assert list(figures) == ["http", "grpc"]
    for measured in figures.values():
        assert list(measured) == ["empty", "empty, 32 clients", "two pictures", "two pictures, 32 clients"]
        for of in measured.values():
            assert set(of["statuses"]) == {200} and of["requests"] >= 1 and of["p50"] > 0.0
    assert "two pictures, 32 clients" in table(figures)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray's own, at its first import
def test_the_port_for_all_interfaces_becomes_one_of_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.serve._private import default_impl

    from pipelines.bench_serve_grpc import inside

    seen: list[Any] = []
    monkeypatch.setattr(default_impl, "add_grpc_address", lambda server, address: seen.append((server, address)))
    assert inside() == []
    default_impl.add_grpc_address("server", "[::]:9000")
    assert seen == [("server", "127.0.0.1:9000")]
