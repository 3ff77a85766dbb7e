"""What is published is whole at every moment, and the way back leads to what was there before."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ndd.errors import ModelError, StoreError
from ndd.home import home
from ndd.model.directory import CONFIG, WEIGHTS, describe, resolve, shipped
from pipelines.champions import KEPT, publish, published, rollback
from pipelines.tracking import content_digest


def model_at(directory: Path, seed: int) -> Path:
    """A directory that says all that a model directory says, with a few bytes for weights."""
    directory.mkdir(parents=True)
    (directory / CONFIG).write_text("{}")
    (directory / WEIGHTS).write_bytes(b"%d" % seed * 1000)
    return directory


def test_publish_and_back(tmp_path: Path) -> None:
    first, second = (model_at(tmp_path / str(seed), seed) for seed in (1, 2))
    assert published() is None
    publish(first, version="2")
    assert content_digest(resolve()) == content_digest(first)
    publish(second, version="3")
    assert content_digest(resolve()) == content_digest(second)
    assert published() is not None
    assert published().version == "3"  # type: ignore[union-attr]
    assert content_digest(rollback()) == content_digest(first) == content_digest(resolve())
    publish(second, version="3")
    assert content_digest(resolve()) == content_digest(second), "forth again after back"
    rollback()
    assert rollback() == shipped() == resolve()
    with pytest.raises(StoreError, match="nothing to go back to"):
        rollback()


def test_publishing_the_champion_again_changes_nothing(tmp_path: Path) -> None:
    model = model_at(tmp_path / "m", 1)
    place = publish(model, version=None)
    assert publish(model, version="7") == place
    assert len(list((home() / "champions").glob("0*"))) == 1
    assert rollback() == shipped()


def test_a_few_earlier_ones_are_kept(tmp_path: Path) -> None:
    models = [model_at(tmp_path / str(seed), seed) for seed in range(KEPT + 2)]
    for model in models:
        publish(model, version=None)
    assert len(list((home() / "champions").glob("0*"))) == KEPT
    for model in reversed(models[-KEPT:-1]):
        assert content_digest(rollback()) == content_digest(model)


def test_what_is_no_model_is_not_published(tmp_path: Path) -> None:
    model = model_at(tmp_path / "m", 1)
    publish(model, version=None)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / CONFIG).write_text("{}")
    with pytest.raises(ModelError):
        publish(tmp_path / "broken", version=None)
    assert content_digest(resolve()) == content_digest(model)


def test_a_directory_put_there_by_hand_is_set_aside(tmp_path: Path) -> None:
    by_hand = model_at(home().champion, 4)
    digest = content_digest(by_hand)
    publish(model_at(tmp_path / "m", 5), version=None)
    (kept,) = (home() / "champions").glob("put-there-by-hand-*/model")
    assert content_digest(kept) == digest


def test_a_reader_never_sees_half_a_model(tmp_path: Path) -> None:
    """Weights and settings read through one `resolve` belong together, while models are swapped as quickly as can be."""
    models = [model_at(tmp_path / str(seed), seed) for seed in (1, 2)]
    digests = {describe(model).embedding_digest for model in models}
    publish(models[0], version=None)
    seen: list[str] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            seen.append(describe(resolve()).embedding_digest)

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(30):
        publish(models[turn % 2], version=None)
    stop.set()
    reader.join()
    assert seen
    assert set(seen) <= digests


def test_killed_at_any_moment_there_is_a_champion(tmp_path: Path) -> None:
    models = [model_at(tmp_path / str(seed), seed) for seed in (1, 2)]
    wanted = {content_digest(model) for model in models}
    publish(models[0], version=None)
    code = (
        "import itertools, sys\nfrom pathlib import Path\nfrom pipelines.champions import publish\n"
        "print('ready', flush=True)\n"
        "for turn in itertools.count():\n    publish(Path(sys.argv[1 + turn % 2]), version=None)\n"
    )
    for delay in (0.02, 0.05, 0.09, 0.13):
        child = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, models)], stdout=subprocess.PIPE, env=os.environ
        )
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        time.sleep(delay)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        held = resolve()
        assert content_digest(held) in wanted
        assert {CONFIG, WEIGHTS} <= {path.name for path in held.iterdir()}
        publish(models[1], version=None)
        publish(models[0], version=None)
        assert content_digest(resolve()) == content_digest(models[0])
        assert content_digest(rollback()) == content_digest(models[1])
