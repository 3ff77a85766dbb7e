"""What is put into an index is found in it, whoever looks, and after any mixture of writes, snapshots and compactions."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ndd.errors import ConflictError, DigestMismatch, InputError, SchemaError, StoreError
from ndd.index.ann import Limits
from ndd.index.base import cosine_distance
from ndd.index.store import Added, Entry, IndexStore, Settings
from tests.ndd.index.builders import DIGEST, DIM, entry, picture, store_at

SMALL = Settings(limits=Limits(exact=20, scalar=40), log_bytes=4000, frame_bytes=1500, call_bytes=2500, tail_bytes=9000)
"""Everything happens early: new logs, snapshots, all three kinds of search."""


def outcomes(added: list[Added]) -> list[str]:
    return [one.outcome for one in added]


def test_what_is_added_is_found_and_what_is_removed_is_not(tmp_path: Path) -> None:
    with store_at(tmp_path / "index") as store:
        assert outcomes(store.add([entry(f"p{i}", i=i) for i in range(5)])) == ["added"] * 5
        assert store.query(picture("p3").vector, k=1)[0][0].id == "p3"
        assert store.query(picture("p3").vector, k=1)[0][0].distance == 0.0
        assert store.get("p3") == Entry(id="p3", picture=picture("p3").pack(), metadata={"i": 3})
        assert store.known("p3").pack() == picture("p3").pack()
        assert store.remove(["p3", "never", "p3"]) == [True, False, False]
        assert (len(store), "p3" in store, store.get("p3")) == (4, False, None)
        assert "p3" not in [hit.id for hit in store.query(picture("p3").vector, k=10)[0]]
        assert store.near_hashes(picture("p3").hashes, bits=30, k=9) == []
        with pytest.raises(InputError, match="'p3': no such picture"):
            store.known("p3")


def test_adding_again_changes_nothing_and_another_picture_is_a_conflict(tmp_path: Path) -> None:
    with store_at(tmp_path / "index") as store:
        store.add([entry("a", note="first")])
        before = store.info()["bytes"]
        assert outcomes(store.add([entry("a", note="second")])) == ["unchanged"]
        assert store.info()["bytes"] == before
        with pytest.raises(ConflictError, match="'a': another picture"):
            store.add([entry("b"), entry("a", "other")])
        assert store.ids() == ["a"]  # all or nothing
        assert outcomes(store.add([entry("a", "other", note="third")], replace=True)) == ["replaced"]
        got = store.get("a")
        assert got is not None
        assert (got.picture, got.metadata) == (picture("other").pack(), {"note": "third"})
        assert len(store) == 1


def test_one_call_may_name_an_id_twice(tmp_path: Path) -> None:
    with store_at(tmp_path / "index") as store:
        assert outcomes(store.add([entry("a"), entry("a")])) == ["added", "unchanged"]
        with pytest.raises(ConflictError):
            store.add([entry("b"), entry("b", "other")])
        assert outcomes(store.add([entry("c"), entry("c", "other")], replace=True)) == ["added", "replaced"]
        assert store.known("c").id == picture("other").id
        assert store.ids() == ["a", "c"]


def test_numbers_are_never_given_twice(tmp_path: Path) -> None:
    """Not even the highest one, of a picture that is gone with its log."""
    with store_at(tmp_path / "index") as store:
        store.add([entry("a"), entry("b")])
        first = store.info()["next_number"]
        store.remove(["b"])
        store.compact()
        store.remove(["a"])
        store.compact()
    with IndexStore.open(tmp_path / "index") as store:
        assert store.info()["next_number"] == first
        store.add([entry("b")])
        assert store.info()["next_number"] == first + 1


def test_an_index_of_another_model_is_refused(tmp_path: Path) -> None:
    store_at(tmp_path / "index").close()
    with pytest.raises(DigestMismatch, match=r"eeeeeeeeeeee….*ffffffffffff….*new index"):
        IndexStore.open(tmp_path / "index", embedding_digest="f" * 64)
    with IndexStore.open(tmp_path / "index", embedding_digest=DIGEST) as store:
        with pytest.raises(SchemaError, match="8 numbers, this index keeps 16"):
            store.add([Entry(id="a", picture=picture("a", dim=8))])
        with pytest.raises(ValueError, match=r"\(Q, 16\) float16"):
            store.query(np.zeros((1, DIM), np.float32), k=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("id", ["", "a\nb", "\0", "x" * 1025, "\udc80"])
def test_ids_that_cannot_be_kept_are_named(tmp_path: Path, id: str) -> None:
    with store_at(tmp_path / "index") as store:
        with pytest.raises(SchemaError, match="id '"):
            store.add([entry("fine"), entry(id, "p")])
        assert len(store) == 0


@pytest.mark.parametrize("metadata", [{"a": {1}}, {"a": float("nan")}, {"a": "x" * 70_000}])
def test_metadata_that_cannot_be_kept_is_named(tmp_path: Path, metadata: dict[str, object]) -> None:
    with store_at(tmp_path / "index") as store, pytest.raises(SchemaError, match="metadata of 'a'"):
        store.add([entry("a", None, **metadata)])


def test_places_that_hold_no_index_or_something_else_are_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no index there"):
        IndexStore.open(tmp_path / "nothing")
    store_at(tmp_path / "index").close()
    with pytest.raises(StoreError, match="already"):
        store_at(tmp_path / "index")
    (tmp_path / "index" / "photo.jpg").write_bytes(b"mine")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "photo.jpg").write_bytes(b"mine")
    with pytest.raises(StoreError, match=r"not empty \(photo.jpg\)"):
        store_at(tmp_path / "other")
    with IndexStore.open(tmp_path / "index") as store:
        store.add([entry("a")])
        store.compact()
    assert (tmp_path / "index" / "photo.jpg").read_bytes() == b"mine"
    with pytest.raises(StoreError, match="was closed"):
        store.ids()


def test_a_reader_cannot_write_and_follows_who_can(tmp_path: Path) -> None:
    with store_at(tmp_path / "index", settings=SMALL) as writer:
        reader = IndexStore.open(tmp_path / "index", read_only=True, settings=SMALL)
        with pytest.raises(StoreError, match="reading only"):
            reader.add([entry("a")])
        assert reader.refresh() is False
        for i in range(60):
            writer.add([entry(f"p{i}")])
            if i % 7 == 3:
                writer.remove([f"p{i - 2}"])
            if i % 20 == 11:
                writer.compact()
            assert reader.refresh() is True
            assert reader.refresh() is False
            assert reader.ids() == writer.ids()
            assert reader.query(picture("p0").vector, k=5) == writer.query(picture("p0").vector, k=5)
        assert reader.info()["search"]["kind"] != "exact"


def test_two_writers_take_turns(tmp_path: Path) -> None:
    one = store_at(tmp_path / "index", settings=SMALL)
    two = IndexStore.open(tmp_path / "index", settings=SMALL)

    def work(store: IndexStore, name: str) -> None:
        for i in range(30):
            store.add([entry(f"{name}{i}"), entry(f"shared{i}")])
            if i % 10 == 9:
                store.compact()
            store.remove([f"{name}{i - 1}"])

    threads = [threading.Thread(target=work, args=(s, n)) for s, n in ((one, "a"), (two, "b"), (one, "c"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wanted = {f"shared{i}" for i in range(30)} | {"a29", "b29", "c29"}
    for store in (one, two, IndexStore.open(tmp_path / "index", read_only=True)):
        store.refresh()
        assert set(store.ids()) == wanted
        assert store.check() == len(wanted)
    assert one.info()["next_number"] == two.info()["next_number"] == 121


def test_searches_go_on_while_pictures_are_added_and_removed(tmp_path: Path) -> None:
    store = store_at(tmp_path / "index", settings=SMALL)
    store.add([entry(f"stays{i}") for i in range(10)])
    done, wrong = threading.Event(), []

    def search() -> None:
        while not done.is_set():
            for i in range(10):
                hits = store.query(picture(f"stays{i}").vector, k=3)[0]
                if hits[0].id != f"stays{i}" or store.known(hits[0].id).id != picture(f"stays{i}").id:
                    wrong.append(hits)

    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    for i in range(60):
        store.add([entry(f"p{i}")])
        store.remove([f"p{i - 5}"])
        if i % 25 == 24:
            store.compact()
    done.set()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_long_write_keeps_no_reader_of_the_same_process_waiting(tmp_path: Path) -> None:
    """Even when it has changed the list of files already."""
    store = store_at(tmp_path / "index")
    store.add([entry("a")])
    found: list[object] = []

    def read() -> None:
        found.extend((store.refresh(), store.query(picture("a").vector, k=1)[0][0].id))

    with store.sealed():
        (tmp_path / "index" / "index.json").rename(tmp_path / "index" / "old")
        (tmp_path / "index" / "index.json").write_bytes((tmp_path / "index" / "old").read_bytes())
        thread = threading.Thread(target=read)
        thread.start()
        thread.join(60)
        assert found == [False, "a"]
    assert store.refresh() is True
    assert store.ids() == ["a"]


class AsADictionary(RuleBasedStateMachine):
    """Any order of calls leaves what a dictionary would hold, in this process, after opening anew, and for a follower."""

    ids = st.sampled_from([f"p{i}" for i in range(12)])

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.root = Path(self.folder.name) / "index"
        self.settings = Settings(
            limits=Limits(exact=3, scalar=6),
            log_bytes=2500,
            frame_bytes=900,
            call_bytes=1500,
            tail_bytes=5000,
            waste_bytes=0,
        )
        self.store = store_at(self.root, settings=self.settings)
        self.reader = IndexStore.open(self.root, read_only=True, settings=self.settings)
        self.model: dict[str, str] = {}

    @rule(ids=st.lists(ids, min_size=1, max_size=6, unique=True), name=st.sampled_from("xyz"))
    def add(self, ids: list[str], name: str) -> None:
        entries = [entry(id, id + name, by=name) for id in ids]
        if any(self.model.get(id, name) != name for id in ids):
            with pytest.raises(ConflictError):
                self.store.add(entries)
        else:
            self.store.add(entries)
            for id in ids:
                self.model.setdefault(id, name)

    @rule(id=ids, name=st.sampled_from("xyz"))
    def replace(self, id: str, name: str) -> None:
        (added,) = self.store.add([entry(id, id + name, by=name)], replace=True)
        assert added.outcome == ("replaced" if id in self.model else "added")
        self.model.pop(id, None)
        self.model[id] = name

    @rule(ids=st.lists(ids, min_size=1, max_size=3, unique=True))
    def remove(self, ids: list[str]) -> None:
        assert self.store.remove(ids) == [id in self.model for id in ids]
        for id in ids:
            self.model.pop(id, None)

    @rule()
    def snapshot(self) -> None:
        self.store.snapshot()

    @rule()
    def compact(self) -> None:
        self.store.compact()

    @rule()
    def open_anew(self) -> None:
        self.store.close()
        self.store = IndexStore.open(self.root, embedding_digest=DIGEST, settings=self.settings)

    @invariant()
    def holds_what_the_dictionary_holds(self) -> None:
        self.reader.refresh()
        for store in (self.store, self.reader):
            assert store.ids() == list(self.model)
            for id, name in self.model.items():
                got = store.get(id)
                assert got is not None
                assert (got.picture, got.metadata) == (picture(id + name).pack(), {"by": name})
            query = picture("a question").vector
            pictures = [picture(id + name) for id, name in self.model.items()]
            distances = [float(cosine_distance(query, p.vector)[0]) for p in pictures]
            wanted = sorted(zip(distances, range(len(pictures)), self.model, strict=True))[:4]
            found = store.query(query, k=4)[0]
            assert [(hit.distance, hit.id) for hit in found] == [(d, id) for d, _, id in wanted]

    def teardown(self) -> None:
        self.store.close()
        self.reader.close()
        self.folder.cleanup()


TestAsADictionary = AsADictionary.TestCase
TestAsADictionary.settings = settings(max_examples=12, stateful_step_count=16, deadline=None)
