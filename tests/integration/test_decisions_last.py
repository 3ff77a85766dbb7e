"""A decision outlives all that can change around it: the names of the files, the scan, the embedding, the trained model."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from ndd.cli import main
from ndd.home import home
from ndd.model import checkpoint
from ndd.model.directory import describe, shipped
from ndd.tables import read_groups
from ndd.types import Verdict
from pipelines.album import Album
from tests.integration.retraining import CAREFUL, library_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

Two = tuple[str, str]


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Album:
    """Some photographs with a copy of each that any model would recognise, some without."""
    return library_of(tmp_path_factory.mktemp("lasting") / "album", severity=(0.0, 0.2))


@pytest.fixture
def ndd(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The command, in this process; what it printed."""

    def run(*arguments: object) -> str:
        capsys.readouterr()
        code = main([*map(str, arguments)])
        said = capsys.readouterr()
        assert code == 0, said.err
        return said.out

    return run


def test_both_words_are_obeyed_after_renaming_another_embedding_and_a_retraining(
    album: Album, tmp_path: Path, ndd: Callable[..., str]
) -> None:
    images = album.root / "images"
    by_group = [[Path(name).name for name in names] for names in album.groups().values() if len(names) > 1]
    apart = [(names[0], names[1]) for names in by_group[:6]]  # copies that a person calls distinct
    together = [(a[0], b[0]) for a, b in zip(by_group[6:9], by_group[9:12], strict=True)]  # strangers called duplicates
    before = found(ndd, images, tmp_path / "before")
    assert obeyed(before, apart, together) == {"apart": 0, "together": 0}, "nothing would be shown by obeying"

    for two, verdict in [(two, Verdict.DISTINCT) for two in apart] + [(two, Verdict.DUPLICATE) for two in together]:
        ndd("decide", images / two[0], images / two[1], "--verdict", verdict)
    everything = {"apart": len(apart), "together": len(together)}
    assert obeyed(found(ndd, images, tmp_path / "after"), apart, together) == everything

    # Renamed, and scanned anew from another place.
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in sorted(images.iterdir()):
        shutil.copyfile(path, moved / renamed(path.name))
    apart, together = ([(renamed(a), renamed(b)) for a, b in pairs] for pairs in (apart, together))
    assert obeyed(found(ndd, moved, tmp_path / "renamed"), apart, together) == everything

    # Indexed by a model whose vectors mean something else.
    other = shaken(tmp_path / "other")
    assert describe(other).embedding_digest != describe(shipped()).embedding_digest
    assert looked_up(ndd, moved, tmp_path / "index", apart, together, model=other) == everything
    assert obeyed(found(ndd, moved, tmp_path / "by-other", "--model", other), apart, together) == everything

    # After a retraining on these very decisions.
    last = retrained(moved)
    assert last["promoted"], last["reasons"]
    assert describe(home().champion).embedding_digest != describe(shipped()).embedding_digest
    assert obeyed(found(ndd, moved, tmp_path / "retrained"), apart, together) == everything
    assert looked_up(ndd, moved, tmp_path / "index-now", apart, together, model=home().champion) == everything


def renamed(name: str) -> str:
    """Another name, in another order of the alphabet."""
    stem, _, suffix = name.rpartition(".")
    return f"{stem[::-1]}.{suffix}"


def found(ndd: Callable[..., str], images: Path, out: Path, *more: object) -> list[set[str]]:
    """The groups of a search."""
    ndd("find", images, "--out", out, *more)
    groups: dict[int, set[str]] = {}
    for row in read_groups(out / "groups.parquet"):
        groups.setdefault(row.group, set()).add(Path(row.path).name)
    return list(groups.values())


def obeyed(groups: Sequence[set[str]], apart: Sequence[Two], together: Sequence[Two]) -> dict[str, int]:
    """How many pairs are as people said."""

    def one(two: Two) -> bool:
        return any(set(two) <= group for group in groups)

    return {"apart": sum(not one(two) for two in apart), "together": sum(one(two) for two in together)}


def looked_up(
    ndd: Callable[..., str], images: Path, index: Path, apart: Sequence[Two], together: Sequence[Two], *, model: Path
) -> dict[str, int]:
    """The same for pictures looked up in an index made anew, and for two compared, from either side."""
    ndd("index", "create", index, "--model", model)
    ndd("index", "add", index, images, "--model", model)
    said = {"apart": 0, "together": 0}
    for name, pairs in (("apart", apart), ("together", together)):
        for a, b in [*pairs, *((b, a) for a, b in pairs)]:
            answer = json.loads(ndd("index", "query", index, images / a, "--k", "5", "--json", "--model", model))
            hits = {match["id"]: match for match in answer["matches"]}
            two = json.loads(ndd("compare", images / a, images / b, "--json", "--model", model))
            word = name == "together"
            told = [two["duplicate"], hits[b]["duplicate"] if word or b in hits else False]
            said[name] += told == [word, word]
    return {name: count // 2 for name, count in said.items()}


def shaken(place: Path) -> Path:
    """The shipped model with weights somewhat moved: another embedding, and a worse one."""
    held = checkpoint.load(shipped())
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in held.model.parameters():
            scale = 0.02 * float(parameter.std()) if parameter.numel() > 1 else 0.0
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return checkpoint.save(place, held.model, card={"note": "shaken"})


def retrained(images: Path) -> dict[str, Any]:
    """What `python -m pipelines retrain` made of the decisions."""
    command = [sys.executable, "-m", "pipelines", "retrain", "--data", str(images), "--least", "2", *CAREFUL]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr
    assert (home() / "retrain" / "last.json").is_file(), done.stdout
    last: dict[str, Any] = json.loads((home() / "retrain" / "last.json").read_text(encoding="utf-8"))
    return last
