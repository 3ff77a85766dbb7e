"""The public sets: averages over groups, the N-S score by hand, and other tools that may be missing."""

from __future__ import annotations

import argparse
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ndd.errors import UsageError
from ndd.metrics.retrieval import evaluate_groups
from pipelines import bench, bench_peers, bench_public
from pipelines.album import Album, AlbumImage
from pipelines.bench_peers import Neighbours, PeerMissing, neighbour_rows


def symmetric(scores: list[list[float]]) -> NDArray[np.float32]:
    half = np.array(scores, np.float32)
    return half + half.T


def test_a_group_counts_once_however_large_it_is(tmp_path: Path) -> None:
    # Pictures 0–2 are one group, found perfectly; 3 and 4 the other, and each prefers picture 0.
    scores = symmetric(
        [[0, 9, 9, 5, 5, 0], [0, 0, 9, 0, 0, 0], [0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 1, 0], [0] * 6, [0] * 6]
    )
    rows = tuple(AlbumImage(f"{i}.jpg", group, "") for i, group in enumerate(("a", "a", "a", "b", "b", "c")))
    album = Album(tmp_path, rows)
    result = evaluate_groups(lambda start, stop: scores[start:stop], [row.group for row in rows])
    found = bench_public.by_group(album, result)
    assert found["groups"]["a"] == {"map": 1.0, "recall": 1.0, "pairs": 3}
    assert found["groups"]["b"] == {"map": 0.5, "recall": 0.0, "pairs": 1}
    assert found["map"] == 0.75 and found["recall"] == 0.5


def test_the_ns_score_by_hand() -> None:
    groups = ["x"] * 4 + ["y"] * 4
    perfect = np.kron(np.eye(2), np.ones((4, 4))).astype(np.float32)
    assert bench_public.ns_score(lambda start, stop: perfect[start:stop], groups) == 4.0
    # Among seven equal answers three are right: three places hold 9/7 of them on average, and the query itself is one.
    nothing = np.zeros((8, 8), np.float32)
    assert bench_public.ns_score(lambda start, stop: nothing[start:stop], groups) == pytest.approx(1 + 9 / 7)
    assert bench_public.ns_score(lambda start, stop: -perfect[start:stop], groups) == 1.0


def test_scene_is_learnt_on_one_half_and_reported_on_the_other() -> None:
    """Eight objects; the odd ones' strangers score as high as the even ones' own sides: what was learnt must not know that."""
    groups = [f"object-{at // 4}" for at in range(32)]
    names = np.asarray(groups)
    same = names[:, None] == names[None, :]
    scores = np.where(same, 0.8, 0.1) + 0.001 * np.arange(32)[:, None] + 0.001 * np.arange(32)[None, :]
    learnt, judged = bench_public.halves(groups)
    assert set(names[learnt]) == {"object-0", "object-2", "object-4", "object-6"}
    assert len(judged) == 16 and not set(learnt) & set(judged)
    within = np.ix_(judged, judged)
    found = bench_public.scene(lambda start, stop: scores[start:stop].astype(np.float32), groups)
    assert found["precision"] == found["recall"] == found["map"] == 1.0
    assert found["calibration_error"] < 0.01
    scores[within] = np.where(same[within], scores[within], scores[within] + 0.75)
    found = bench_public.scene(lambda start, stop: scores[start:stop].astype(np.float32), groups)
    assert found["images"] == 16 and found["threshold"] > 0.9
    # All 120 pairs are above what the first half calls a scene, 24 of them rightly.
    assert found["recall"] == 1.0 and found["precision"] == pytest.approx(24 / 120)
    assert found["calibration_error"] == pytest.approx(96 / 120, abs=0.01)


def test_no_threshold_where_no_precision_is_enough() -> None:
    groups = [f"object-{at // 4}" for at in range(16)]
    found = bench_public.scene(lambda start, stop: np.zeros((stop - start, 16), np.float32), groups)
    assert found["threshold"] == 2.0 and found["recall"] == 0.0


def test_the_sets_are_measured_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data" / "bench").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, per_group in (("hashtools", 2), ("oxford_affine", 2), ("ukbench1000", 4)):
        (tmp_path / name / "images").mkdir(parents=True)
        lines = ["image,group,note"]
        for group in range(3):
            pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            picture = Image.fromarray(pixels).resize((120, 120), Image.Resampling.BICUBIC)
            for member in range(per_group):
                picture.save(tmp_path / name / "images" / f"{group}-{member}.jpg", quality=90 - 20 * member)
                lines.append(f"images/{group}-{member}.jpg,{group},saved again")
        (tmp_path / name / "groups.csv").write_text("\n".join(lines) + "\n")
        with tarfile.open(tmp_path / "data" / "bench" / f"{name}.tar", "w") as tar:
            tar.add(tmp_path / name, arcname=".")
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    given = ["accuracy", "--public", "--data", tmp_path / "data", "--methods", "pdq,sift", "--work", tmp_path / "work"]
    assert bench.run(parser.parse_args([str(g) for g in [*given, "--json", tmp_path / "out.json"]])) == 0
    got = json.loads((tmp_path / "out.json").read_text())
    assert list(got) == ["hashtools", "oxford_affine", "ukbench1000"]
    assert got["hashtools"]["methods"]["pdq"]["map"] == 1.0, "the same picture, saved again"
    assert got["ukbench1000"]["methods"]["pdq"]["ns_score"] == 4.0
    assert got["oxford_affine"]["methods"]["sift"]["median_keypoints"] > 20
    printed = capsys.readouterr().out
    assert "N-S" in printed and printed.count("sift") == 4, "a line in each set, and one for `scene`"
    with pytest.raises(UsageError, match="leave --album out"):
        bench.run(
            parser.parse_args(["accuracy", "--public", "--album", str(tmp_path), "--data", str(tmp_path / "data")])
        )


def test_pairs_a_tool_is_silent_about_come_last() -> None:
    found = Neighbours(
        left=np.array([0, 1, 2]), right=np.array([1, 0, 1]), score=np.array([0.9, 0.8, 0.5], np.float32), seconds=1.0
    )
    scores = neighbour_rows(found, 4)(0, 4)
    np.testing.assert_allclose(scores[0, 1], 0.9)
    np.testing.assert_array_equal(scores, scores.T)
    silent = [scores[0, 2], scores[0, 3], scores[1, 3], scores[2, 3]]
    assert max(silent) < -1, "below every cosine"


def test_a_missing_peer_is_an_error_with_exit_code_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NDD_PEERS", raising=False)
    with pytest.raises(PeerMissing, match="peer missing: fastdup; set NDD_PEERS") as missing:
        bench_peers.fastdup([tmp_path / "a.jpg"])
    assert missing.value.exit_code == 1
    monkeypatch.setenv("NDD_PEERS", str(tmp_path / "nowhere"))
    with pytest.raises(PeerMissing, match="peer missing.*nowhere"):
        bench_peers.interpreter(wanted="fastdup")
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setenv("NDD_PEERS", str(tmp_path))
    with pytest.raises(PeerMissing, match="fastdup is not installed"):
        bench_peers.interpreter(wanted="fastdup")


def test_what_a_peer_reports_is_read_by_position(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script in the place of fastdup's interpreter writes the table that fastdup writes."""
    python = tmp_path / "python"
    python.write_text(
        "#!/bin/sh\n"
        'case "$2" in *find_spec*) exit 0;; esac\n'
        '[ "$SENTRY_OPT_OUT" = 1 ] || exit 9\n'
        'mkdir -p "$4"; first=$(sed -n 1p "$3"); third=$(sed -n 3p "$3")\n'
        'printf "from,to,distance\\n%s,%s,0.75\\n" "$third" "$first" > "$4/similarity.csv"\n'
    )
    python.chmod(0o755)
    monkeypatch.setenv("NDD_PEERS", str(python))
    found = bench_peers.fastdup([tmp_path / name for name in ("a.jpg", "b.jpg", "c.jpg")])
    assert (found.left.tolist(), found.right.tolist(), found.score.tolist()) == ([2], [0], [0.75])
