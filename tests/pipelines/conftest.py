"""Fixtures that the tests of several pipelines share."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of an MLflow of the module's own."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@pytest.fixture
def tracked(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test does is tracked at `uri`."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
