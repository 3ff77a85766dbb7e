"""Another model comes: it is taken up, refused, or the index moves with it; no request is lost. Canary and review."""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ndd.config import json_digest
from ndd.data.decisions import DecisionStore
from ndd.data.queue import QueueStore
from ndd.detector import Detector
from ndd.errors import ConfigError
from ndd.home import home
from ndd.types import Draw, image_id
from ndd.verify.score import DEFAULT_CALIBRATION
from serve.review import drawn
from serve.settings import Settings
from tests.samples import small_model
from tests.serve.running import Running, running

Pictures = Mapping[str, bytes]


def promote(model: Path) -> None:
    """What a promotion does to $NDD_HOME/champion, in one step."""
    target = home() / "champion"
    copy = target.with_name("next")
    shutil.copytree(model, copy)
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        os.rename(target, target.with_name(f"old-{time.monotonic_ns()}"))
    os.rename(copy, target)


def recalibrated(model: Path, folder: Path) -> Path:
    """The same network with another calibration."""
    copy = Path(shutil.copytree(model, folder / "recalibrated"))
    table: dict[str, Any] = {**DEFAULT_CALIBRATION, "bias": -30.0}
    (copy / "calibration.json").write_text(json.dumps(table))
    return copy


def until(true: Callable[[], bool], *, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def start(folder: Path, **settings: Any) -> Any:
    return running(folder, home() / "champion", {"model": None, "watch_seconds": 0.1, **settings})


def digests(server: Running) -> Mapping[str, str]:
    with server.client() as client:
        said: Mapping[str, str] = client.model()["digests"]
        return said


def test_a_recalibrated_model_is_taken_up_without_a_lost_request(
    tmp_path: Path, model: Path, pictures: Pictures
) -> None:
    promote(model)
    with start(tmp_path) as server:
        before = digests(server)
        with server.client() as client:
            client.add(pictures["cat"], id="cat")
        statuses, ended = list[int](), threading.Event()

        def ask() -> None:
            while not ended.is_set():
                files = {"a": pictures["cat"], "b": pictures["cat-mirrored"]}
                statuses.append(server.post("/v1/compare", files=files).status_code)
                statuses.append(server.post("/v1/query", files={"image": pictures["cat"]}).status_code)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        until(lambda: len(statuses) > 10)
        promote(recalibrated(model, tmp_path))
        until(lambda: digests(server)["scorer"] != before["scorer"])
        seen = len(statuses)
        until(lambda: len(statuses) > seen + 10)
        ended.set()
        for thread in threads:
            thread.join()
        assert set(statuses) == {200}
        assert digests(server)["embedding"] == before["embedding"]
        expected = json_digest({"calibration": {**DEFAULT_CALIBRATION, "bias": -30.0}})
        assert digests(server)["scorer"] == expected
        with server.client() as client:
            assert client.query(pictures["cat"]).matches[0].id == "cat"  # the index stays


def test_vectors_of_another_meaning_are_refused(tmp_path: Path, model: Path, pictures: Pictures) -> None:
    promote(model)
    with start(tmp_path) as server:
        before = digests(server)
        with server.client() as client:
            client.add(pictures["cat"], id="cat")
            promote(small_model(tmp_path / "other", seed=1))
            until(lambda: client.model()["refused"] is not None)
            assert digests(server) == before
            assert client.query(pictures["cat"]).score == 1.0
            promote(model)
    promote(tmp_path / "other")
    with start(tmp_path) as server, server.client() as client:  # nothing else is at hand now
        assert client.compare(pictures["cat"], pictures["cat"]).duplicate
        answer = server.post("/v1/query", files={"image": pictures["cat"]})
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "other_embedding")


def test_an_index_moves_to_another_embedding(tmp_path: Path, model: Path, pictures: Pictures) -> None:
    promote(model)
    other = small_model(tmp_path / "other", seed=1)
    with start(tmp_path, new_embedding="migrate") as server, server.client() as client:
        for name, content in pictures.items():
            client.add(content, id=name, metadata={"name": name})
        client.remove("rocket")
        ended, added = threading.Event(), list[str]()

        def add() -> None:
            while not ended.is_set():
                added.append(f"late-{len(added)}")
                client.add(pictures["coffee"], id=added[-1])

        thread = threading.Thread(target=add)
        thread.start()
        promote(other)
        wanted = Detector(other).model.embedding_digest
        until(lambda: digests(server)["embedding"] == wanted)
        ended.set()
        thread.join()
        said = client.model()
        assert (said["index"]["embedding_digest"], said["refused"]) == (wanted, None)
        assert said["index"]["images"] == len(pictures) - 1 + len(added)
        assert client.get(added[0])["image_id"] == client.get(added[-1])["image_id"] == image_id(pictures["coffee"])
        assert client.get("cat")["metadata"] == {"name": "cat"}
        vector = Detector(other).embed([pictures["cat"]])[0]
        found = client.query_vector(vector.tolist(), embedding_digest=wanted, k=1)
        assert found.matches[0].id == "cat"
        assert found.matches[0].distance < 1e-9


def test_a_damaged_promotion_changes_nothing(tmp_path: Path, model: Path, pictures: Pictures) -> None:
    promote(model)
    with start(tmp_path) as server, server.client() as client:
        before = digests(server)
        broken = Path(shutil.copytree(model, tmp_path / "broken"))
        (broken / "weights.safetensors").write_bytes(b"nothing")
        promote(broken)
        until(lambda: client.model()["refused"] is not None)
        assert digests(server) == before
        assert client.compare(pictures["cat"], pictures["cat"]).duplicate


def test_the_challenger_scores_too_and_both_are_logged(
    tmp_path: Path, model: Path, pictures: Pictures, caplog: pytest.LogCaptureFixture
) -> None:
    other = small_model(tmp_path / "other", seed=1)
    caplog.set_level(logging.INFO, logger="ndd.serve")
    with running(tmp_path, model, {"challenger": str(other), "canary": 1.0}) as server, server.client() as client:
        score = client.compare(pictures["cat"], pictures["coffee"]).score
        until(lambda: any(record.getMessage() == "canary" for record in caplog.records))
        assert client.model()["challenger"]["share"] == 1.0
    (said,) = [record.fields for record in caplog.records if record.getMessage() == "canary"]  # type: ignore[attr-defined]
    assert said["champion"]["score"] == score
    assert said["challenger"]["score"] == Detector(other).compare(pictures["cat"], pictures["coffee"]).score
    assert said["challenger"]["embedding"] != said["champion"]["embedding"]


def test_uncertain_pairs_wait_for_a_person_once(tmp_path: Path, model: Path, pictures: Pictures) -> None:
    review = {"review.rate": 1.0, "review.low": 0.0, "review.high": 0.999999}
    queue = QueueStore(home().queue, decisions=DecisionStore(home().decisions))
    with running(tmp_path, model, review) as server, server.client() as client:
        client.add(pictures["cat"], id="cat")
        for _ in range(3):
            match = client.compare(pictures["cat"], pictures["coffee"])
            client.query(pictures["coffee"])
        client.compare(pictures["cat"], pictures["cat"])
        until(lambda: len(queue.waiting()) == 1)
    (pair,) = queue.waiting()
    assert {pair.left_id, pair.right_id} == {image_id(pictures["cat"]), image_id(pictures["coffee"])}
    assert (pair.draw, pair.p_draw, pair.source, pair.score) == (Draw.UNCERTAIN, 1.0, "serve", match.score)
    assert [image_id(Path(uri).read_bytes()) for uri in (pair.left_uri, pair.right_uri)] == [
        pair.left_id,
        pair.right_id,
    ]


def test_the_share_drawn_is_the_rate() -> None:
    keys = [json_digest(at) for at in range(5000)]
    for rate in (0.0, 0.1, 0.5, 1.0):
        share = np.mean([drawn(key, rate=rate) for key in keys])
        assert abs(share - rate) < 0.02
        assert rate not in (0.0, 1.0) or share == rate


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"modell": "x"}, "modell: unknown setting"),
        ({"limits.kk": "1"}, "limits.kk: unknown setting"),
        ({"limits": {"kk": 1}}, "limits.kk: unknown setting"),
        ({"limits.k": "many"}, "limits.k: expected int"),
        ({"canary": 0.5}, "canary wants a challenger"),
        ({"new_embedding": "migrate", "replicas": 2}, "replicas=1"),
        ({"review.rate": 2}, "review.rate"),
    ],
)
def test_settings_are_strict(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Settings.of(given)


def test_settings_come_from_a_command_line_or_a_yaml() -> None:
    assert Settings.of({"model": "3", "limits.k": "7", "urls": {"enabled": True}}) == Settings.from_dict(
        {"model": "3", "limits": {"k": 7}, "urls": {"enabled": True}}
    )
