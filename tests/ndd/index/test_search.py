"""Which kept pictures may be this one: copies found by vector or hash, decisions obeyed, the same matches as comparing."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ndd.cli import main
from ndd.config import FindConfig
from ndd.data.decisions import DecisionStore
from ndd.detector import Detector
from ndd.errors import DigestMismatch
from ndd.home import home
from ndd.index.store import Entry, IndexStore
from ndd.tables import read_failures
from ndd.types import Decision, Relation, Verdict


@pytest.fixture(scope="module")
def detector(model: Path) -> Detector:
    return Detector(model)


@pytest.fixture(autouse=True)
def _model_of_the_environment(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NDD_MODEL", str(model))


def kept(detector: Detector, root: Path, pictures: Path, names: list[str]) -> IndexStore:
    store = IndexStore.create(root, embedding_digest=detector.model.embedding_digest, dim=detector.embedder.dim)
    store.add([Entry(id=name, picture=detector.look(pictures / name)) for name in names])
    return store


def test_copies_come_first_with_the_matches_of_comparing(detector: Detector, pictures: Path, tmp_path: Path) -> None:
    names = ["astronaut.png", "cat.png", "coffee.png", "rocket.png", "cat-mirrored.png"]
    with kept(detector, tmp_path / "index", pictures, names) as store:
        query = pictures / "crops" / "cat.png"
        found = detector.search(store, detector.look(query), k=3)
        assert {id for id, _ in found[:2]} == {"cat.png", "cat-mirrored.png"}
        assert [match for _, match in found] == [detector.compare(query, pictures / id) for id, _ in found]
        assert [match.score for _, match in found] == sorted((match.score for _, match in found), reverse=True)
        ((id, match), *_) = detector.search(store, detector.look(pictures / "crops" / "cat-again.png"), k=1)
        assert (id, match.relation, match.score) == ("cat.png", "exact", 1.0)
        store.remove(["cat.png"])
        assert "cat.png" not in [id for id, _ in detector.search(store, detector.look(query), k=9)]
        assert detector.search(store, detector.look(query), k=0) == []


def test_a_persons_word_settles_duplicate_and_place(detector: Detector, pictures: Path, tmp_path: Path) -> None:
    names = ["cat.png", "rocket.png", "cat-mirrored.png"]
    decisions = DecisionStore(tmp_path / "decisions")
    with kept(detector, tmp_path / "index", pictures, names) as store:
        query = detector.look(pictures / "crops" / "cat.png")
        before = detector.search(store, query, k=3, decisions=decisions)
        assert before == detector.search(store, query, k=3)
        for name, verdict in (("cat.png", Verdict.DISTINCT), ("rocket.png", Verdict.DUPLICATE)):
            left, right = sorted((query.id, detector.look(pictures / name).id))
            about = {"reviewer": "ada", "time": datetime.now(UTC), "embedding_digest": "e", "scorer_digest": "s"}
            decisions.append(Decision(left_id=left, right_id=right, verdict=verdict, relation=None, **about))  # type: ignore[arg-type]
        found = detector.search(store, query, k=3, decisions=decisions)
        assert [(id, match.duplicate, match.evidence.get("decision")) for id, match in found] == [
            ("rocket.png", True, "duplicate"),
            ("cat-mirrored.png", dict(before)["cat-mirrored.png"].duplicate, None),
            ("cat.png", False, "distinct"),
        ]
        assert dict(found)["cat.png"].score == dict(before)["cat.png"].score


def test_what_a_person_called_a_duplicate_is_found_however_far_it_lies(
    model: Path, pictures: Path, tmp_path: Path
) -> None:
    near = Detector(model, config=FindConfig(max_distance=1e-6, hash_bits=0))
    decisions = DecisionStore(tmp_path / "decisions")
    with kept(near, tmp_path / "index", pictures, ["coffee.png", "rocket.png"]) as store:
        query = near.look(pictures / "cat.png")
        assert near.search(store, query, k=5, decisions=decisions) == []
        about = {"reviewer": "ada", "time": datetime.now(UTC), "embedding_digest": "e", "scorer_digest": "s"}
        for name, relation in (("coffee.png", Relation.SCENE), ("rocket.png", None)):
            left, right = sorted((query.id, near.look(pictures / name).id))
            said = Decision(left_id=left, right_id=right, verdict=Verdict.DUPLICATE, relation=relation, **about)  # type: ignore[arg-type]
            decisions.append(said)
        found = near.search(store, query, k=5, decisions=decisions)  # a scene is no duplicate here
        assert [(id, match.duplicate, match.evidence["decision"]) for id, match in found] == [
            ("rocket.png", True, "duplicate")
        ]
        assert near.search(store, query, k=0, decisions=decisions) == []
        store.remove(["rocket.png"])
        assert near.search(store, query, k=5, decisions=decisions) == []


def test_a_store_of_another_model_is_not_searched(detector: Detector, pictures: Path, tmp_path: Path) -> None:
    with (
        IndexStore.create(tmp_path / "index", embedding_digest="f" * 64, dim=detector.embedder.dim) as store,
        pytest.raises(DigestMismatch),
    ):
        detector.search(store, detector.look(pictures / "cat.png"))


def run(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> dict[str, object]:
    assert main(["index", *map(str, arguments), "--json"]) == code
    said: dict[str, object] = json.loads(capsys.readouterr().out)
    return said


def test_an_index_from_the_command_line(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index, rows = tmp_path / "index", tmp_path / "failures.parquet"
    assert run(capsys, "create", index)["images"] == 0
    added = run(capsys, "add", index, pictures, "--failures", rows)
    assert (added["added"], added["unchanged"], added["failed"], added["images"]) == (18, 0, 1, 18)
    assert [failure.path for failure in read_failures(rows)] == ["cut.jpg"]
    again = run(capsys, "add", index, pictures)
    assert (again["added"], again["unchanged"], again["failed"], again["images"]) == (0, 18, 1, 18)

    found = run(capsys, "query", index, pictures / "cat.png", "--k", "4")
    matches = found["matches"]
    assert isinstance(matches, list)
    assert {match["id"] for match in matches[:2]} == {"cat.png", "crops/cat-again.png"}
    assert all(match["relation"] == "exact" and match["score"] == 1.0 for match in matches[:2])
    assert len(matches) == 4

    assert run(capsys, "remove", index, "cat.png", "nothing") == {"removed": 1, "missing": ["nothing"], "images": 17}
    assert "cat.png" not in json.dumps(run(capsys, "query", index, pictures / "cat.png")["matches"]).replace(
        "crops/cat", ""
    )
    assert run(capsys, "remove", index, "nothing", code=1)["removed"] == 0
    info = run(capsys, "info", index, "--check")
    assert (info["images"], info["checked"], info["removed"]) == (17, 17, 1)
    assert run(capsys, "compact", index)["removed"] == 0


def test_another_picture_under_a_taken_id_fails_alone(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index, folder = tmp_path / "index", tmp_path / "photos"
    folder.mkdir()
    (folder / "a.png").write_bytes((pictures / "cat.png").read_bytes())
    run(capsys, "create", index)
    run(capsys, "add", index, folder)
    (folder / "a.png").write_bytes((pictures / "rocket.png").read_bytes())
    (folder / "b.png").write_bytes((pictures / "coffee.png").read_bytes())
    added = run(capsys, "add", index, folder)
    assert (added["added"], added["failed"]) == (1, 1)
    assert "another picture is kept under this id" in json.dumps(added["failures"])
    assert run(capsys, "add", index, folder, "--prefix", "new/")["added"] == 2
    assert run(capsys, "add", index, folder, "--replace")["replaced"] == 1
    assert run(capsys, "info", index)["images"] == 4


def test_exit_codes_and_errors_are_one_line(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index, empty = tmp_path / "index", tmp_path / "empty"
    empty.mkdir()
    assert main(["index", "create", str(index)]) == 0
    capsys.readouterr()
    for arguments, code, word in (
        (["add", index, empty], 3, "no picture there"),
        (["add", index, pictures / "cut.jpg"], 3, "no picture there that can be read"),
        (["add", index, tmp_path / "nowhere"], 2, "no such file or folder"),
        (["create", index], 1, "already"),
        (["info", tmp_path / "other"], 1, "no index there"),
        (["query", index, pictures / "cut.jpg"], 1, "cut.jpg"),
    ):
        assert main(["index", *map(str, arguments)]) == code
        (line, *more) = capsys.readouterr().err.splitlines()[::-1]
        assert word in line
        assert len(more) <= 1
    with pytest.raises(SystemExit) as stopped:
        main(["index", "query", str(index), "a.jpg", "--k", "0"])
    assert stopped.value.code == 2


def test_decisions_of_the_home_are_obeyed_by_the_command(
    detector: Detector, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = tmp_path / "index"
    run(capsys, "create", index)
    run(capsys, "add", index, pictures / "cat.png")
    assert main(["decide", str(pictures / "crops/cat.png"), str(pictures / "cat.png"), "--verdict", "distinct"]) == 0
    capsys.readouterr()
    assert DecisionStore(home().decisions).load()
    matches = run(capsys, "query", index, pictures / "crops/cat.png")["matches"]
    assert isinstance(matches, list)
    assert [(match["duplicate"], match["evidence"]["decision"]) for match in matches] == [(False, "distinct")]
