"""The calls, over HTTP on loopback."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from ndd.data.decisions import DecisionStore
from ndd.detector import Detector
from ndd.home import home
from ndd.index.store import Entry
from ndd.types import Verdict, image_id
from serve.client import Refused
from tests.serve.running import KEYS, Running

Pictures = Mapping[str, bytes]


def inline(content: bytes) -> dict[str, str]:
    return {"base64": base64.b64encode(content).decode()}


def test_compare_is_the_body_of_the_command_line(shared: Running, pictures: Pictures, detector: Detector) -> None:
    for a, b in (("cat", "cat-mirrored"), ("cat", "coffee"), ("rocket", "rocket"), ("rocket-jpeg", "rocket")):
        expected = json.loads(json.dumps(detector.answer(detector.compare(pictures[a], pictures[b]))))
        form = shared.post("/v1/compare", files={"a": pictures[a], "b": pictures[b]})
        plain = shared.post("/v1/compare", json={"a": inline(pictures[a]), "b": inline(pictures[b])})
        assert form.status_code == plain.status_code == 200
        assert form.json() == plain.json() == expected  # every digit of score and distance


def test_answers_do_not_depend_on_who_else_asks(shared: Running, pictures: Pictures, detector: Detector) -> None:
    names = sorted(pictures)
    pairs = [(a, b) for a in names for b in names][::11]
    alone = {(a, b): detector.compare(pictures[a], pictures[b]).score for a, b in pairs}
    with ThreadPoolExecutor(16) as pool, shared.client("read") as client:
        found = list(pool.map(lambda pair: client.compare(pictures[pair[0]], pictures[pair[1]]).score, pairs))
    assert found == [alone[pair] for pair in pairs]


def test_an_added_picture_is_found_and_a_removed_one_is_not(server: Running, pictures: Pictures) -> None:
    with server.client("write") as client:
        for name in ("cat", "coffee", "rocket"):
            assert client.add(pictures[name], id=f"of/{name} ä?#%", metadata={"name": name}).status == "added"
        found = client.query(pictures["cat"], k=2)
        assert (found.duplicate, found.score, found.relation) == (True, 1.0, "exact")
        assert found.matches[0].id == "of/cat ä?#%"
        assert found.matches[0].metadata == {"name": "cat"}
        assert len(found.matches) == 2
        assert client.get("of/cat ä?#%") == {
            "id": "of/cat ä?#%",
            "image_id": image_id(pictures["cat"]),
            "metadata": {"name": "cat"},
        }
        assert client.remove("of/cat ä?#%") is True
        assert client.remove("of/cat ä?#%") is False
        assert "of/cat ä?#%" not in [match.id for match in client.query(pictures["cat"]).matches]
        with pytest.raises(Refused) as refused:
            client.get("of/cat ä?#%")
        assert (refused.value.status, refused.value.code) == (404, "unknown_id")


def test_adding_again_changes_nothing_and_another_picture_is_a_conflict(server: Running, pictures: Pictures) -> None:
    with server.client() as client:
        assert client.add(pictures["cat"], id="x").status == "added"
        assert client.add(pictures["cat"], id="x").status == "unchanged"
        with pytest.raises(Refused) as refused:
            client.add(pictures["coffee"], id="x")
        assert (refused.value.status, refused.value.code) == (409, "conflict")
        assert client.get("x")["image_id"] == image_id(pictures["cat"])
        assert client.add(pictures["coffee"], id="x", replace=True).status == "replaced"
        assert client.get("x")["image_id"] == image_id(pictures["coffee"])


def test_many_add_at_once_and_one_bad_one_costs_no_other(server: Running, pictures: Pictures) -> None:
    names = sorted(pictures)

    def add(at: int) -> int:
        body = {"id": f"p{at % 20}"}
        return server.post("/v1/images", files={"image": pictures[names[at % 20 % len(names)]]}, data=body).status_code

    with ThreadPoolExecutor(16) as pool:
        codes = list(pool.map(add, range(40)))
        clash = server.post("/v1/images", files={"image": pictures["cat"]}, data={"id": "p0"})
    assert sorted(codes) == [200] * 20 + [201] * 20
    assert clash.status_code == (409 if names[0] != "cat" else 200)
    assert (
        server.http.get("/v1/model", headers={"Authorization": f"Bearer {KEYS['read']}"}).json()["index"]["images"]
        == 20
    )


def test_a_persons_word_is_obeyed(server: Running, pictures: Pictures) -> None:
    with server.client() as client:
        client.add(pictures["cat"], id="cat")
        client.add(pictures["coffee"], id="coffee")
        assert client.decide("cat", "coffee", verdict="duplicate")["recorded"] is True
        found = client.query(pictures["coffee"])
        assert [(m.id, m.duplicate, m.decided) for m in found.matches] == [
            ("cat", True, "duplicate"),
            ("coffee", True, None),
        ]
        assert client.compare(pictures["coffee"], pictures["cat"]).duplicate
        client.decide("coffee", "cat", verdict="distinct")
        compared = client.compare(pictures["cat"], pictures["coffee"])
        assert (compared.duplicate, compared.evidence["decision"]) == (False, "distinct")
        (item,) = client.batch([(pictures["cat"], pictures["coffee"])])
        assert item["result"]["evidence"]["decision"] == "distinct"
        found = client.query(pictures["coffee"])
        assert [(m.id, m.duplicate, m.decided) for m in found.matches] == [
            ("coffee", True, None),
            ("cat", False, "distinct"),
        ]
    (pair,) = DecisionStore(home().decisions).current().values()
    assert (pair.verdict, pair.source) == (Verdict.DISTINCT, "serve")


def test_the_same_word_at_the_same_time_is_recorded_once(server: Running, pictures: Pictures) -> None:
    said = {
        "left_id": image_id(pictures["cat"]),
        "right_id": image_id(pictures["coffee"]),
        "verdict": "distinct",
        "time": "2026-01-02T03:04:05Z",
    }
    first, again = (server.post("/v1/decisions", json=said) for _ in range(2))
    assert [first.json()["recorded"], again.json()["recorded"]] == [True, False]
    assert first.json()["decision_id"] == again.json()["decision_id"]


def test_a_vector_is_looked_up_if_its_model_is_named(server: Running, pictures: Pictures, detector: Detector) -> None:
    with server.client() as client:
        for name in ("cat", "coffee", "rocket"):
            client.add(pictures[name], id=name)
        vector = detector.embed([pictures["coffee"]])[0].tolist()
        digest = detector.model.embedding_digest
        found = client.query_vector(vector, embedding_digest=digest, k=1)
        assert [match.id for match in found.matches] == ["coffee"]
        assert found.matches[0].distance == 0.0
        for bad, code in (
            ({"vector": vector, "embedding_digest": "0" * 64}, 409),
            ({"vector": vector}, 422),
            ({"vector": vector[:-1], "embedding_digest": digest}, 422),
            ({"vector": [1e30] * len(vector), "embedding_digest": digest}, 422),
        ):
            assert server.post("/v1/query", json=bad).status_code == code
        zero = client.query_vector([0.0] * len(vector), embedding_digest=digest)
        assert np.isfinite([match.score for match in zero.matches]).all()


def test_a_batch_answers_in_order_and_errors_stay_with_their_item(server: Running, pictures: Pictures) -> None:
    with server.client() as client:
        client.add(pictures["cat"], id="cat")
        items: list[Any] = [(pictures["cat"], pictures["coffee"]), pictures["cat"], b"no picture"] * 20
        found = list(client.batch(items, k=1))
    assert [line["index"] for line in found] == list(range(60))
    assert [line["status"] for line in found] == [200, 200, 422] * 20
    assert (
        found[0]["result"] == server.post("/v1/compare", files={"a": pictures["cat"], "b": pictures["coffee"]}).json()
    )
    assert found[1]["result"]["matches"][0]["id"] == "cat"
    assert found[2]["error"]["code"] == "unreadable_picture"


def test_a_batch_in_one_json_and_its_bad_lines(server: Running, pictures: Pictures) -> None:
    pair = {"a": inline(pictures["cat"]), "b": inline(pictures["cat"]), "ref": "mine"}
    whole = server.post("/v1/batch", json={"items": [pair, 3, {"a": inline(pictures["cat"])}]})
    lines = [json.loads(line) for line in whole.text.splitlines()]
    assert [(line.get("ref"), line["status"]) for line in lines] == [("mine", 200), (None, 422), (None, 422)]
    body = json.dumps(pair).encode() + b"\n\n{broken\n[1]\n" + json.dumps(pair).encode()
    answer = server.post("/v1/batch", content=body, kind="application/x-ndjson")
    assert [json.loads(line)["status"] for line in answer.text.splitlines()] == [200, 400, 422, 200]


@pytest.mark.parametrize("encode", [bytes, base64.b64encode])
def test_a_picture_of_a_form_needs_no_file_name(shared: Running, pictures: Pictures, encode: Any) -> None:
    """Some clients name only what comes from a disk; the bytes must not be taken for text."""
    parts = [
        b'--x\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % (side, encode(pictures[name]))
        for side, name in ((b"a", "cat"), (b"b", "cat-jpeg"))
    ]
    answer = shared.post(
        "/v1/compare", content=b"".join([*parts, b"--x--\r\n"]), kind="multipart/form-data; boundary=x"
    )
    files = {"a": pictures["cat"], "b": pictures["cat-jpeg"]}
    assert answer.status_code == 200
    assert answer.json() == shared.post("/v1/compare", files=files).json()


def test_a_field_of_a_form_may_be_a_file(server: Running, pictures: Pictures) -> None:
    files = {"image": pictures["cat"], "id": ("id.txt", "käse".encode()), "metadata": ("of.json", b'{"a": 1}')}
    assert server.post("/v1/images", files=files).status_code == 201
    with server.client() as client:
        assert client.get("käse")["metadata"] == {"a": 1}
    unknown = server.post("/v1/compare", files={"a": pictures["cat"], "b": pictures["cat"], "c": b"?"})
    assert (unknown.status_code, unknown.json()["error"]["message"]) == (422, "c: Extra inputs are not permitted")
    latin = server.post("/v1/images", files={"image": pictures["cat"], "id": ("id.txt", b"\xe4")})
    assert (latin.status_code, latin.json()["error"]["code"]) == (400, "bad_form")


@pytest.mark.parametrize(
    ("metadata", "status", "said"),
    [
        ('{"x": "\\ud800"}', 422, "no valid Unicode"),
        ('{"\\udfff": 1}', 422, "no valid Unicode"),
        ('{"x": NaN}', 422, "not finite"),
        ('{"x": 1e400}', 422, "not finite"),
        ('{{"x": {}1{}}}'.format("[" * 32, "]" * 32), 422, "nested more than 32 deep"),
        ('{"x": "%s"}' % ("y" * 16384), 413, "16384 bytes"),
    ],
)
def test_metadata_that_would_spoil_other_answers_is_refused(
    server: Running, pictures: Pictures, metadata: str, status: int, said: str
) -> None:
    body = '{{"id": "x", "image": {}, "metadata": {}}}'.format(json.dumps(inline(pictures["cat"])), metadata)
    answer = server.post("/v1/images", content=body, kind="application/json")
    assert answer.status_code == status
    assert said in answer.json()["error"]["message"]
    form = server.post("/v1/images", files={"image": pictures["cat"]}, data={"id": "x", "metadata": metadata})
    assert form.status_code == status
    assert server.post("/v1/query", files={"image": pictures["cat"]}).json()["matches"] == []


def test_names_of_a_disk_that_are_no_unicode_do_not_spoil_a_query(
    server: Running, pictures: Pictures, detector: Detector
) -> None:
    id = b"caf\xe9.png".decode(errors="surrogateescape")
    service = server.service
    assert service.shelf is not None
    picture = detector.look(pictures["cat"])
    service.shelf.read().add([Entry(id="plain", picture=picture, metadata={"name": id})])
    found = server.post("/v1/query", files={"image": pictures["cat"]})
    assert [match["metadata"] for match in found.json()["matches"]] == [{"name": id}]


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00"])
def test_a_time_beyond_the_calendar_is_refused(shared: Running, time: str) -> None:
    body = {"left_id": "0" * 64, "right_id": "1" * 64, "verdict": "distinct", "time": time}
    answer = shared.post("/v1/decisions", json=body)
    assert (answer.status_code, answer.json()["error"]["message"]) == (422, "time: out of the calendar of UTC")


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/v1/compare", {"json": {}}, 422, "missing_picture"),
        ("/v1/compare", {"json": {"a": {"base64": "!"}, "b": {"base64": ""}}}, 422, "bad_base64"),
        ("/v1/compare", {"json": {"a": {"base64": ""}, "b": {"base64": ""}}}, 422, "unreadable_picture"),
        ("/v1/compare", {"json": {"a": {"url": "http://127.0.0.1/"}, "b": {"base64": ""}}}, 422, "urls_off"),
        ("/v1/compare", {"json": {"a": 1, "b": 2}}, 422, "bad_picture"),
        ("/v1/compare", {"json": [1]}, 422, "bad_json"),
        ("/v1/compare", {"content": b"{"}, 415, "media_type"),
        ("/v1/compare", {"json": {"a": {"base64": ""}, "b": {"base64": ""}, "c": 1}}, 422, "bad_field"),
        ("/v1/query", {"json": {"k": 0}}, 422, "bad_field"),
        ("/v1/query", {"json": {"k": 101, "image": {"base64": ""}}}, 422, "bad_field"),
        ("/v1/images", {"json": {"image": {"base64": ""}}}, 422, "bad_field"),
        ("/v1/images", {"json": {"id": "a\nb", "image": {"base64": ""}}}, 422, "bad_field"),
        ("/v1/decisions", {"json": {"verdict": "perhaps"}}, 422, "bad_field"),
        ("/v1/decisions", {"json": {"verdict": "distinct", "left": "nobody", "right": "nothing"}}, 404, "unknown_id"),
        ("/v1/decisions", {"content": b"{"}, 415, "media_type"),
        ("/v1/nothing", {"json": {}}, 404, "not_found"),
        ("/healthz", {"json": {}}, 405, "method"),
    ],
)
def test_wrong_requests_are_told_what_is_wrong(
    shared: Running, path: str, body: dict[str, Any], status: int, code: str
) -> None:
    answer = shared.post(path, **body)
    said = answer.json()
    assert (answer.status_code, said["error"]["code"]) == (status, code)
    assert said["request_id"] == answer.headers["x-request-id"]
    assert "Traceback" not in answer.text and "/" not in said["error"]["message"].replace(
        "application/json", ""
    ).replace("multipart/form-data", "")


def test_health_readiness_numbers_and_the_description_need_no_key(shared: Running) -> None:
    assert shared.http.get("/healthz").json() == {"status": "ok"}
    assert shared.http.get("/readyz").json() == {"status": "ready"}
    assert "ndd_requests_total" in shared.http.get("/metrics").text
    assert shared.http.get("/openapi.json").json()["info"]["title"] == "ndd"
    assert shared.http.get("/v1/model").status_code == 401
