"""What a run trains on: whole groups on one side, folds that cover everything once, decisions that do not leak."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ndd.data.decisions import DecisionStore
from ndd.data.manifest import ManifestRow, Split, write_manifest
from ndd.data.pack import load_pack
from ndd.data.parts import write_parts
from ndd.errors import SchemaError
from ndd.types import Decision, ImageId, Verdict, image_id
from pipelines.train_data import TrainData, prepare
from tests.ndd.training.builders import tiny, tiny_pictures

COUNT = 24


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[ManifestRow]:
    folder = tmp_path_factory.mktemp("album")
    found = []
    for i, pixels in enumerate(tiny_pictures(COUNT, 48)):
        path = folder / f"{i:02}.png"
        Image.fromarray(pixels).save(path)
        content = path.read_bytes()
        facts: dict[str, Any] = {"size": len(content), "width": 48, "height": 48, "format": "PNG"}
        found.append(ManifestRow(id=image_id(content), uri=str(path), path=path.name, group=f"g{i // 3}", **facts))
    return found


def prepared(tmp_path: Path, rows: list[ManifestRow], *, run: str = "run", **settings: Any) -> TrainData:
    manifest = write_manifest(tmp_path / f"{run}.parquet", rows)
    given = {name: settings.pop(name) for name in ("decode", "decisions") if name in settings}
    return prepare(manifest, tmp_path / run, tiny(**settings), **given)


@pytest.mark.parametrize("decode", ["once", "stream"])
def test_groups_stay_together(tmp_path: Path, rows: list[ManifestRow], decode: str) -> None:
    data = prepared(tmp_path, rows, decode=decode, holdout=0.3)
    training, held = set(data.split.training), set(data.split.held)
    assert training | held == set(range(COUNT))
    assert not training & held
    assert held
    assert not {row // 3 for row in training} & {row // 3 for row in held}  # rows are in the order of the paths


def test_each_picture_is_held_out_by_one_fold(tmp_path: Path, rows: list[ManifestRow]) -> None:
    cut = [replace(r, split=Split.TRAIN) for r in rows]
    held: list[int] = []
    for fold in range(3):
        split = prepared(tmp_path, cut, run=f"{fold}", folds=3, fold=fold).split
        assert not {r // 3 for r in split.training} & {r // 3 for r in split.held}
        assert len(split.training) + len(split.held) == COUNT
        held += map(int, split.held)
    assert sorted(held) == list(range(COUNT))


def test_a_limit_takes_the_same_pictures_whatever_the_order(tmp_path: Path, rows: list[ManifestRow]) -> None:
    data = prepared(tmp_path, rows, holdout=0.0, limit=10)
    first = sorted(range(COUNT), key=lambda i: rows[i].id)[:10]
    assert data.split.training.tolist() == sorted(first)
    assert prepared(tmp_path, rows, run="more", holdout=0.0, limit=1000).split.training.tolist() == list(range(COUNT))


def decide(store: DecisionStore, rows: list[ManifestRow], a: int, b: int, verdict: Verdict) -> None:
    low, high = sorted((rows[a].id, rows[b].id))
    store.append(
        Decision(
            left_id=ImageId(low), right_id=ImageId(high), verdict=verdict, relation=None, reviewer="a",
            time=datetime.now(UTC), embedding_digest="0" * 64, scorer_digest="0" * 64,
        )
    )  # fmt: skip


def test_decisions_are_mixed_in_and_do_not_cross_the_cut(tmp_path: Path, rows: list[ManifestRow]) -> None:
    single = [replace(r, group=None) for r in rows]
    cut = [replace(r, split=Split.TEST if i >= 18 else Split.TRAIN) for i, r in enumerate(single)]
    store = DecisionStore(tmp_path / "decisions")
    decide(store, rows, 0, 1, Verdict.DUPLICATE)
    decide(store, rows, 2, 3, Verdict.DISTINCT)
    decide(store, rows, 4, 20, Verdict.DUPLICATE)  # across the cut: 20 must go
    decide(store, rows, 5, 21, Verdict.DISTINCT)  # across the cut: no harm, and no use
    store.export(tmp_path / "decisions.csv")
    for i, place in enumerate((tmp_path / "decisions", tmp_path / "decisions.csv")):
        data = prepared(tmp_path, cut, run=f"{i}", decisions=place, sampling__decisions=0.5)
        assert data.decided is not None
        assert data.decided.duplicates.tolist() == [[0, 1]]
        assert data.decided.distinct.tolist() == [[2, 3]]
        assert data.facts()["decisions"] == {"duplicate": 1, "distinct": 1, "not_used": 2}
        assert data.split.held.tolist() == [18, 19, 21, 22, 23]
    drawn = prepared(tmp_path, single, run="drawn", decisions=tmp_path / "decisions", holdout=0.5).split
    for side in (set(drawn.training), set(drawn.held)):
        assert len(side & {0, 1}) in (0, 2)
        assert len(side & {4, 20}) in (0, 2)


def test_decisions_about_other_pictures_are_told(tmp_path: Path, rows: list[ManifestRow]) -> None:
    store = DecisionStore(tmp_path / "decisions")
    strangers = [replace(r, id=image_id(r.id.encode())) for r in rows]
    decide(store, strangers, 0, 1, Verdict.DUPLICATE)
    with pytest.raises(SchemaError, match="none of the 1 decisions"):
        prepared(tmp_path, rows, decisions=tmp_path / "decisions", sampling__decisions=0.5)


def test_parts_are_put_together(tmp_path: Path, rows: list[ManifestRow]) -> None:
    data = prepared(tmp_path, rows)
    write_parts(load_pack(tmp_path / "run" / "pack"), tmp_path / "parts")
    carried = prepare(tmp_path / "parts", tmp_path / "elsewhere", tiny())
    assert (carried.pictures, carried.store.size) == (COUNT, data.store.size)
    assert load_pack(tmp_path / "elsewhere" / "pack").ids == load_pack(tmp_path / "run" / "pack").ids
