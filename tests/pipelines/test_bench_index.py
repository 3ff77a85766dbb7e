"""The index's bench measures what it says, on few vectors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ndd.errors import UsageError
from pipelines.bench_index import measure
from pipelines.cli import main


@pytest.mark.parametrize("clustered", [True, False])
def test_few_vectors_are_compared_exactly(tmp_path: Path, clustered: bool) -> None:
    figures = measure(tmp_path, images=500, dim=16, clustered=clustered, queries=20)
    assert figures["recall"] == 1.0
    assert figures["search"] == {"kind": "exact"}
    assert all(figures[name]["p50"] > 0 for name in ("query_ms", "query_cpu_ms", "exact_ms", "add_one_ms"))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UsageError, match="--images 3"):
        measure(tmp_path, images=3)


def test_the_command_says_it_in_words_and_in_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    arguments = ["bench", "index", "--images", "300", "--dim", "16", "--queries", "5", "--work", str(tmp_path)]
    assert main([*arguments, "--json", str(out)]) == 0
    assert "recall@10 1.0000" in capsys.readouterr().out
    assert json.loads(out.read_text())["images"] == 300
