"""Ingest: every file is a row of the manifest or of the failures, and splits do not leak."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ndd.data.manifest import ManifestRow, Split, read_manifest
from ndd.data.pack import load_pack
from ndd.data.parts import join_parts
from ndd.tables import read_failures
from ndd.types import image_id
from pipelines.cli import main
from pipelines.ingest import _groups_of
from tests.samples import photographs, small_album


def test_every_file_is_listed_once_with_what_it_holds(tmp_path: Path) -> None:
    album, out = small_album(tmp_path / "album"), tmp_path / "out"
    groups = tmp_path / "groups.csv"
    groups.write_text("image,group\nblank.png,one\ncat.png,one\n", encoding="utf-8")
    settings = ["--out", str(out), "--pack", "32", "--parts", "--test", "0.5", "--workers", "2", "--json"]
    settings += ["--groups", str(groups)]
    command = [sys.executable, "-m", "pipelines", "ingest", str(album), *settings]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=280).stdout
    run = json.loads(printed)
    rows = {row.path: row for row in read_manifest(out / "manifest.parquet")}
    assert [failure.path for failure in read_failures(out / "failures.parquet")] == ["cut.jpg"]
    assert len(rows) == run["readable"] == run["images"] - run["failed"] == 18
    for path, row in rows.items():
        content = (album / path).read_bytes()
        assert (row.id, row.size, row.uri) == (image_id(content), len(content), str(album / path))
    height, width = photographs()["cat"].shape[:2]
    assert (rows["cat.png"].width, rows["cat.png"].height, rows["cat.png"].format) == (width, height, "PNG")
    assert {row.split for row in rows.values()} == {Split.TRAIN, Split.TEST}
    assert rows["cat.png"].split == rows["crops/cat-again.png"].split
    assert {rows[path].group for path in ("blank.png", "cat.png", "crops/cat-again.png")} == {"one"}
    assert rows["blank.png"].split == rows["cat.png"].split
    assert run["blocks"] >= 8
    assert run["parts"] == 1
    assert join_parts(out / "parts", tmp_path / "joined").ids == load_pack(out / "pack").ids
    pack = load_pack(out / "pack")
    assert pack.images.shape == (17, 32, 32, 3)
    assert set(pack.ids) == {row.id for row in rows.values()}
    assert np.abs(pack.images[list(pack.paths).index("blank.png")].astype(int) - 200).max() <= 1
    # Complete and unchanged: told again, not done again.
    written = (out / "manifest.parquet").stat().st_mtime_ns
    assert subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout == printed
    assert (out / "manifest.parquet").stat().st_mtime_ns == written


@pytest.mark.parametrize("wrong", [["--test", "1.5"], ["--pack", "4"], ["--parts"], ["--groups", "no.csv"]])
def test_wrong_settings_are_named(wrong: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    assert main(["ingest", str(tmp_path), "--out", str(tmp_path / "out"), *wrong]) in (1, 2)
    assert wrong[0] in capsys.readouterr().err


def test_a_tar_by_url_is_listed_by_the_workers(tmp_path: Path) -> None:
    album, out = small_album(tmp_path / "album"), tmp_path / "out"
    with tarfile.open(tmp_path / "album.tar", "w") as tar:
        tar.add(album / "cat.png", "cat.png")
        tar.add(album / "cut.jpg", "cut.jpg")
    command = [sys.executable, "-m", "pipelines", "ingest", f"file://{tmp_path / 'album.tar'}", "--out", str(out)]
    subprocess.run([*command, "--pack", "32", "--workers", "2"], check=True, timeout=280)
    (row,) = read_manifest(out / "manifest.parquet")
    content = (album / "cat.png").read_bytes()
    assert (row.path, row.id, row.size) == ("cat.png", image_id(content), len(content))
    assert load_pack(out / "pack").ids == (row.id,)
    assert [failure.path for failure in read_failures(out / "failures.parquet")] == ["cut.jpg"]


def test_the_same_bytes_join_the_groups_they_are_in() -> None:
    facts: dict[str, Any] = {"size": 1, "width": 1, "height": 1, "format": "PNG"}
    ids = {"a": "a", "b": "b", "b again": "b", "c": "c", "d": "d", "d again": "d"}
    rows = [ManifestRow(id=image_id(content.encode()), uri=path, path=path, **facts) for path, content in ids.items()]
    found = _groups_of(rows, {"a": "zebra", "b": "zebra", "d": "two", "d again": "one"})
    alone = image_id(b"c")
    assert found == {"a": "zebra", "b": "zebra", "b again": "zebra", "c": alone, "d": "one", "d again": "one"}
