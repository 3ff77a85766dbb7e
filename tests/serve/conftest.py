"""One server for the tests that only ask it, and its pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from ndd.detector import Detector
from tests.samples import photographs, small_model
from tests.serve.running import Running, encoded, running


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory with random weights."""
    return small_model(tmp_path_factory.mktemp("serve") / "model")


@pytest.fixture(scope="session")
def detector(model: Path) -> Detector:
    """The same model without a server."""
    return Detector(model)


@pytest.fixture(scope="session")
def pictures() -> Mapping[str, bytes]:
    """Files by name: four photographs, each upright and mirrored."""
    found = {}
    for name, pixels in photographs().items():
        found[name] = encoded(pixels)
        found[f"{name}-mirrored"] = encoded(pixels[:, ::-1])
        found[f"{name}-jpeg"] = encoded(pixels, ".jpg")
    return found


@pytest.fixture
def server(tmp_path: Path, model: Path) -> Iterator[Running]:
    """A server with an empty index."""
    with running(tmp_path, model) as started:
        yield started


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[Running]:
    """A server for tests that leave nothing behind."""
    with running(tmp_path_factory.mktemp("shared"), model, {"review.rate": 0}) as started:
        yield started
