"""The bench of the whole search: figures against hand-counted answers, and one real search with its cost."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from ndd.errors import InputError
from ndd.tables import GroupRow, PairRow
from ndd.types import Relation
from pipelines import accuracy, bench
from pipelines.album import Album, AlbumImage, Photo, build_album
from pipelines.album_copies import UNLISTED, relabelled
from pipelines.bench_find import judge, measure, table
from pipelines.bench_find_others import beside
from pipelines.cli import main
from tests.samples import photographs, small_model


def row(left: str, right: str, score: float, *, duplicate: bool = True, aligned: bool = True) -> PairRow:
    evidence = {"transform": [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]] if aligned else None}
    return PairRow(
        left=left,
        right=right,
        score=score,
        duplicate=duplicate,
        relation=Relation.EDITED,
        distance=0.1,
        evidence=evidence,
    )


def test_figures_are_those_counted_by_hand() -> None:
    """Truth: a = {a0, a1, a2, a3} and b = {b0, b1}, so seven true pairs; c is alone."""
    notes = {
        "a0": "original",
        "a1": "crop",
        "a2": "mirror",
        "a3": "mixture: crop + wave",
        "b0": "original",
        "b1": "wave",
    }
    images = [AlbumImage(f"images/{name}", name[0], note) for name, note in notes.items()]
    album = Album(Path("nowhere"), (*images, AlbumImage("images/c0", "c", "single")))
    pairs = [
        row("a0", "a1", 1.0),
        row("a0", "a2", 0.9),
        row("a1", "a2", 0.8, duplicate=False),
        row("a0", "a3", 0.3, duplicate=False, aligned=False),
        row("b0", "c0", 0.7),
        row("b0", "b1", 0.6),
    ]
    groups = [GroupRow(group=1, path=path, keep=path == "a0", reason="") for path in ("a0", "a1", "a2")]
    groups += [GroupRow(group=2, path=path, keep=path == "b0", reason="") for path in ("b0", "c0")]
    got = judge(album, pairs, groups)
    assert got["accepted"] == {"precision": 3 / 4, "recall": 3 / 7, "false": 1}
    assert got["grouped"] == {"groups": 2, "precision": 3 / 4, "recall": 3 / 7, "false": 1}
    assert (got["candidates"]["pairs"], got["candidates"]["recall"]) == (6, pytest.approx(5 / 7))
    gaps = (1.0 - 1.0, 1 - 0.9, 1 - 0.8, 1 - 0.3, 0.7 - 0.0, 1 - 0.6)
    assert got["candidates"]["calibration_error"] == pytest.approx(sum(gaps) / 6)
    fates = {"found": 0, "not a candidate": 0, "no alignment": 0, "score too low": 0, "group split": 0}
    assert got["true_pairs"] == {
        "all": fates | {"found": 3, "not a candidate": 2, "no alignment": 1, "group split": 1},
        "crop": fates | {"found": 1},
        "mirror": fates | {"found": 1},
        "mixture": fates | {"no alignment": 1},
        "wave": fates | {"group split": 1},
    }
    # True pairs at 1, .9, .8, .6 (behind the false .7) and .3; the last two share the score 0 with all other pairs.
    steps = (1, 1, 1, 4 / 5, 5 / 6, 7 / 21, 7 / 21)
    assert got["ranking"]["micro_ap"] == pytest.approx(sum(steps) / 7)
    assert got["ranking"]["recall"]["0.99"] == {"recall": pytest.approx(3 / 7), "threshold": pytest.approx(0.8)}


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Album:
    photos = [Photo.of_array(name, pixels[:160, :200]) for name, pixels in sorted(photographs().items())[:3]]
    return build_album(photos, tmp_path_factory.mktemp("album"), copies=2, families=("mirror", "compression"), seed=1)


def test_one_search_gives_its_accuracy_and_its_cost(album: Album, tmp_path: Path) -> None:
    model = small_model(tmp_path / "model")
    command = argparse.ArgumentParser()
    bench.add_arguments(command)
    given = ["--album", album.root, "--model", model, "--work", tmp_path / "work", "--json", tmp_path / "out.json"]
    given.append("--no-peer")
    assert bench.run(command.parse_args(["find", *map(str, given)])) == 0
    got = json.loads((tmp_path / "out.json").read_text())
    assert got["album"]["digest"] == album.digest()
    assert got["accepted"]["recall"] == 1.0
    assert got["neighbours"]["12"] == got["neighbours"]["50"] | {"cpu_seconds": got["neighbours"]["12"]["cpu_seconds"]}
    assert got["neighbours"]["12"]["recall"] == got["candidates"]["recall"] == 1.0
    assert got["cost"]["cpu_seconds"] > 0
    assert got["cost"]["peak_mib"] > 50
    assert not list((tmp_path / "work").iterdir()), "the search is removed"
    assert len(table(got).splitlines()) > 8


def test_a_search_that_fails_says_why(album: Album, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"exit code 1: ndd: .*no-model"):
        measure(album, work=tmp_path, model=tmp_path / "no-model")


def test_other_methods_rank_the_same_album(album: Album, tmp_path: Path) -> None:
    got = beside(album, ["pdq"], data=None, work=tmp_path)
    alone = accuracy.measure(album, methods=["pdq"], model=None, data=None, work=tmp_path)["methods"]["pdq"]
    assert got == {"pdq": {"ranking": alone, "relabelled": alone}}, "no picture of this album is on the list of copies"


def test_copies_that_an_album_does_not_list_are_told_apart(tmp_path: Path) -> None:
    """Two strangers by the album's truth, copies by the list: one false pair in the first figures, none in the second."""
    left, right = next(iter(UNLISTED))
    images = [AlbumImage(f"images/{name}.webp", name, "single") for name in (left, right)]
    images += [AlbumImage("images/a.webp", "a", "original"), AlbumImage("images/b.webp", "a", "crop")]
    album = Album(tmp_path, tuple(images))
    pairs = [row(f"{left}.webp", f"{right}.webp", 0.99), row("a.webp", "b.webp", 0.9)]
    assert judge(album, pairs, [])["accepted"] == {"precision": 0.5, "recall": 1.0, "false": 1}
    assert judge(relabelled(album), pairs, [])["accepted"] == {"precision": 1.0, "recall": 1.0, "false": 0}


def test_a_peer_that_is_missing_is_told_before_the_search(
    album: Album, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("NDD_PEERS", raising=False)
    given = ["bench", "find", "--album", album.root, "--data", tmp_path, "--work", tmp_path / "work"]
    assert main([str(g) for g in given]) == 1
    assert "peer missing: fastdup" in capsys.readouterr().err
    assert not (tmp_path / "work").exists()
