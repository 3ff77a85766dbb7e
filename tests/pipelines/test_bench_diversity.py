"""The diversity benchmark: what it trains on, and that it says what the models make of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ndd.errors import InputError, UsageError
from pipelines.album import Photo, build_album
from pipelines.bench_diversity import MIXED, WHOLE, kinds_of, measure, sets, table
from pipelines.demo import photographs


def noise(name: str, count: int) -> list[Photo]:
    random = np.random.default_rng([len(name), count])
    return [
        Photo.of_array(f"{name}-{at}", random.integers(0, 255, (40, 48, 3)).astype(np.uint8)) for at in range(count)
    ]


def test_sets_differ_in_kind_and_not_in_number() -> None:
    kinds = {"many": noise("many", 12), "some": noise("some", 8), "few": noise("few", 2)}
    found = sets(kinds, pictures=7, alone=1)
    assert list(found) == ["some", MIXED, WHOLE]
    assert [len(photos) for photos in found.values()] == [7, 7, 22]
    drawn = [photo.name.partition("-")[0] for photo in found[MIXED]]
    assert {kind: drawn.count(kind) for kind in kinds} == {"many": 3, "some": 2, "few": 2}
    assert sets(kinds, pictures=7, alone=1) == found
    with pytest.raises(UsageError, match="--pictures 13: no kind has so many, the largest has 12"):
        sets(kinds, pictures=13, alone=1)
    with pytest.raises(UsageError, match="--pictures 1 --alone 1"):
        sets(kinds, pictures=1, alone=1)


def test_kinds_are_the_folders_of_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere: there is no such folder"):
        kinds_of(tmp_path / "nowhere")
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a.png").write_bytes(noise("a", 1)[0].content)
    with pytest.raises(UsageError, match="at least two, got 1"):
        kinds_of(tmp_path)
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "b.png").write_bytes(noise("b", 1)[0].content)
    assert {kind: [photo.name for photo in photos] for kind, photos in kinds_of(tmp_path).items()} == {
        "one": ["a"],
        "two": ["b"],
    }


def test_each_seed_is_trained_once_and_judged_by_the_album(tmp_path: Path) -> None:
    photos = photographs()
    album = build_album(photos[:6], tmp_path / "album", copies=2, singles=photos[6:10])
    options = ["--recipe", "smoke_cpu", "--set", "epochs=1", "--set", "examples=8"]
    found = measure({"rest": photos[10:]}, album, work=tmp_path / "work", options=options, seeds=2)
    of = found["sets"]["rest"]
    values = [run["map"] for run in of["runs"]]
    assert of["pictures"] == len(photos) - 10
    assert len(set(values)) == 2 and all(0.0 < value <= 1.0 for value in values)
    assert of["map"]["mean"] == pytest.approx(np.mean(values))
    assert of["map"]["spread"] == pytest.approx(np.std(values, ddof=1))
    assert "± is the standard deviation over 2 seeds" in table(found)
    once = {
        **found,
        "seeds": 1,
        "sets": {"rest": of | {key: of[key] | {"spread": None} for key in ("map", "micro_ap", "recall_at_p90")}},
    }
    assert "±" not in table(once) and f"{of['map']['mean']:.3f}" in table(once)
    models = sorted((tmp_path / "work").glob("run-*/model/weights.safetensors"))
    before = [model.stat().st_mtime_ns for model in models]
    assert len(models) == 2
    assert measure({"rest": photos[10:]}, album, work=tmp_path / "work", options=options, seeds=2) == found
    assert [model.stat().st_mtime_ns for model in models] == before


def test_a_training_that_fails_is_named(tmp_path: Path) -> None:
    photos = photographs()
    album = build_album(photos[:2], tmp_path / "album", copies=1)
    with pytest.raises(InputError, match="run-.*training ended with exit code 2"):
        measure({"rest": photos[2:]}, album, work=tmp_path / "work", options=["--recipe", "none"], seeds=1)
