"""The command line: exit codes, one-line errors, and what is printed where."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ndd.cli import main
from ndd.data.decisions import DecisionStore
from ndd.home import home
from ndd.tables import read_failures, read_groups, read_pairs, read_vectors
from ndd.types import Relation, Verdict
from tests.samples import small_album


@pytest.fixture(autouse=True)
def _model_of_the_environment(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NDD_MODEL", str(model))


def find(*arguments: object) -> int:
    return main(["find", *map(str, arguments)])


def groups_of(out: Path) -> list[set[str]]:
    found: dict[int, set[str]] = {}
    for row in read_groups(out / "groups.parquet"):
        found.setdefault(row.group, set()).add(row.path)
    return list(found.values())


def test_find_writes_everything_and_prints_run_json_alone(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "found"
    assert find(pictures, "--out", out, "--json") == 0
    printed = capsys.readouterr()
    run = json.loads(printed.out)
    assert run == json.loads((out / "run.json").read_text())
    assert printed.err == ""
    assert {
        "images",
        "failed",
        "pairs",
        "groups",
        "threshold",
        "precision",
        "prior",
        "digests",
        "seconds",
    } <= run.keys()
    assert (run["images"], run["failed"], run["embedded"], run["reused"]) == (19, 1, 18, 0)
    assert [row.path for row in read_failures(out / "failures.parquet")] == ["cut.jpg"]
    assert {"cat.png", "crops/cat-again.png"} <= next(g for g in groups_of(out) if "cat.png" in g)
    assert run["groups"] == len(groups_of(out))
    assert (out / "report.html").stat().st_size < 15_000_000
    assert not any("blank.png" in g for g in groups_of(out))


def test_a_complete_output_is_used_again(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "found"
    arguments = (pictures, "--out", out, "--json", "--verify", "none")
    assert find(*arguments) == 0
    first, written = capsys.readouterr().out, (out / "pairs.parquet").stat().st_mtime_ns
    assert find(*arguments) == 0
    assert capsys.readouterr().out == first
    assert (out / "pairs.parquet").stat().st_mtime_ns == written


def test_other_settings_need_overwrite_and_embed_nothing_anew(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "found"
    assert find(pictures, "--out", out, "--verify", "none") == 0
    capsys.readouterr()
    assert find(pictures, "--out", out, "--verify", "none", "--precision", "0.9") == 1
    assert one_line(capsys).count("--overwrite") == 1
    assert find(pictures, "--out", out, "--verify", "none", "--precision", "0.9", "--overwrite", "--json") == 0
    run = json.loads(capsys.readouterr().out)
    assert (run["embedded"], run["reused"], run["precision"]) == (0, 18, 0.9)


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.endswith("\n")
    assert printed.err.count("\n") == 1
    return printed.err


def test_the_output_directory_is_not_part_of_the_album(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    album = small_album(tmp_path / "album")
    assert find(album, "--out", album / "found", "--verify", "none") == 0
    (album / "found" / "report").mkdir(exist_ok=True)
    (album / "found" / "report" / "thumb.png").write_bytes((album / "cat.png").read_bytes())
    capsys.readouterr()
    assert find(album, "--out", album / "found", "--verify", "none", "--json") == 0
    assert json.loads(capsys.readouterr().out)["images"] == 19


def test_against_compares_across_and_never_within(tmp_path: Path) -> None:
    album, others = small_album(tmp_path / "album"), tmp_path / "others"
    others.mkdir()
    for name in ("cat-small.jpg", "rocket.png"):
        (others / name).write_bytes((album / name).read_bytes())
    (others / "cut.jpg").write_bytes(b"not a picture")
    out = tmp_path / "found"
    assert find(album, "--against", others, "--out", out, "--floor", "0") == 0
    rows = read_pairs(out / "pairs.parquet")
    assert all((str(others) in row.left) != (str(others) in row.right) for row in rows)
    exact = {frozenset((row.left, row.right)) for row in rows if row.relation is Relation.EXACT}
    assert exact == {frozenset((f"{album}/{name}", f"{others}/{name}")) for name in ("cat-small.jpg", "rocket.png")}
    assert any(row.duplicate and row.relation is not Relation.EXACT for row in rows)


def test_relation_exact_accepts_exact_copies_alone(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "found"
    assert find(pictures, "--out", out, "--relation", "exact") == 0
    assert groups_of(out) == [{"cat.png", "crops/cat-again.png"}]
    assert {row.relation for row in read_pairs(out / "pairs.parquet") if row.duplicate} == {Relation.EXACT}


def test_a_persons_word_holds_against_the_evidence(pictures: Path, tmp_path: Path) -> None:
    say = ["decide", "--reviewer", "mira", "--verdict"]
    assert main([*say, "distinct", str(pictures / "cat.png"), str(pictures / "cat-small.jpg")]) == 0
    assert main([*say, "duplicate", str(pictures / "blank.png"), str(pictures / "rocket.png")]) == 0
    out = tmp_path / "found"
    assert find(pictures, "--out", out) == 0
    for group in groups_of(out):
        assert not {"cat.png", "cat-small.jpg"} <= group
        assert ("blank.png" in group) == ("rocket.png" in group)
    rows = {(row.left, row.right): row for row in read_pairs(out / "pairs.parquet")}
    assert not rows["cat-small.jpg", "cat.png"].duplicate
    assert rows["blank.png", "rocket.png"].duplicate


def test_decide_records_who_said_what_of_which_bytes(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = str(pictures / "cat.png"), str(pictures / "rocket.png")
    assert main(["decide", b, a, "--verdict", "duplicate", "--relation", "scene", "--reviewer", "mira"]) == 0
    (decision,) = DecisionStore(home().decisions).load()
    assert (decision.verdict, decision.relation, decision.reviewer) == (Verdict.DUPLICATE, Relation.SCENE, "mira")
    assert decision.left_id < decision.right_id
    capsys.readouterr()
    assert main(["decide", a, str(pictures / "crops" / "cat-again.png"), "--verdict", "distinct"]) == 1
    assert "same bytes" in one_line(capsys)


def test_compare_prints_what_it_found(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["compare", str(pictures / "cat.png"), str(pictures / "cat-small.jpg")]
    assert main([*arguments, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer.keys() == {"score", "distance", "duplicate", "relation", "evidence", "threshold", "digests"}
    assert main([*arguments, "--explain", str(tmp_path / "why.png")]) == 0
    assert f"{answer['score']:.4f}" in capsys.readouterr().out
    assert (tmp_path / "why.png").read_bytes().startswith(b"\x89PNG")


def test_compare_obeys_what_a_person_decided(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cat, small, rocket = (str(pictures / name) for name in ("cat.png", "cat-small.jpg", "rocket.png"))

    def compared(a: str, b: str) -> dict[str, Any]:
        assert main(["compare", a, b, "--json"]) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    for other, verdict in ((small, "distinct"), (rocket, "duplicate")):
        before = compared(other, cat)
        assert main(["decide", cat, other, "--verdict", verdict]) == 0
        capsys.readouterr()
        after = compared(other, cat)
        assert (after["duplicate"], after["evidence"].pop("decision")) == (verdict == "duplicate", verdict)
        assert {**before, "duplicate": after["duplicate"]} == after  # what was measured stays as it is
        assert main(["compare", cat, other]) == 0
        assert capsys.readouterr().out.startswith(f"{verdict}, as a person decided: ")
        assert main(["decide", cat, other, "--verdict", "withdrawn"]) == 0
        capsys.readouterr()
        assert compared(other, cat) == before


def test_embed_writes_the_vectors_of_the_search(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "vectors.parquet"
    assert main(["embed", str(pictures), "--out", str(file), "--workers", "2"]) == 0
    printed = capsys.readouterr()
    assert printed.err.startswith("cut.jpg: ")
    vectors = read_vectors(file)
    assert len(vectors.paths) == 18
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vectors.parquet"]


@pytest.mark.parametrize("names", [["cat.png"], ["cat.png", "rocket.png"], ["blank.png", "coffee.png", "rocket.png"]])
def test_an_album_without_copies_has_empty_tables(names: list[str], pictures: Path, tmp_path: Path) -> None:
    album = tmp_path / "album"
    album.mkdir()
    for name in names:
        (album / name).write_bytes((pictures / name).read_bytes())
    assert find(album, "--out", tmp_path / "found") == 0
    assert groups_of(tmp_path / "found") == []
    assert not any(row.duplicate for row in read_pairs(tmp_path / "found" / "pairs.parquet"))
    assert (tmp_path / "found" / "report.html").is_file()


def test_nothing_readable_is_exit_code_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty, damaged = tmp_path / "empty", tmp_path / "damaged"
    empty.mkdir()
    damaged.mkdir()
    (damaged / "a.jpg").write_bytes(b"no picture")
    assert find(empty, "--out", tmp_path / "out-1") == 3
    assert str(empty) in one_line(capsys)
    assert find(damaged, "--out", tmp_path / "out-2") == 3
    assert "a.jpg" in one_line(capsys)
    assert [row.path for row in read_failures(tmp_path / "out-2" / "failures.parquet")] == ["a.jpg"]
    assert main(["embed", str(damaged), "--out", str(tmp_path / "v.parquet")]) == 3
    assert "a.jpg" in one_line(capsys)


@pytest.mark.parametrize(
    "arguments",
    [
        ["find"],
        ["find", "x", "--out", "y", "--relation", "similar"],
        ["find", "x", "--out", "y", "--workers", "0"],
        ["compare", "a"],
        ["no-such-command"],
        [],
    ],
)
def test_wrong_arguments_are_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert capsys.readouterr().out == ""


def test_a_value_out_of_range_is_exit_code_2_in_one_line(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert find(pictures, "--out", tmp_path / "out", "--precision", "1.5") == 2
    assert "precision" in one_line(capsys)
    assert find(tmp_path / "nowhere", "--out", tmp_path / "out") == 2
    assert "nowhere" in one_line(capsys)


def test_the_unforeseen_is_one_line_too(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose weights are another network's: whatever is raised, a person gets one line and a hint."""
    (tmp_path / "file").write_text("not a directory")
    command = [sys.executable, "-m", "ndd.cli", "find", str(pictures), "--out", str(tmp_path / "file" / "below")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ})
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("ndd: ")


def test_help_is_quick_because_it_imports_nothing_heavy() -> None:
    script = (
        "import sys\nfrom ndd.cli import main\n"
        "try: main(['find', '--help'])\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'numpy', 'cv2', 'faiss', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]"
