"""`python -m pipelines retrain` where there is nothing to be gained: said, and no error."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ndd.data.decisions import DecisionStore
from ndd.home import home
from ndd.model.directory import resolve
from ndd.types import Verdict, image_id
from pipelines.champions import publish
from pipelines.retrain import add_arguments, run
from pipelines.tracking import content_digest
from tests.mlflow import MLFLOW_WARNINGS
from tests.pipelines.test_retrain_due import said
from tests.samples import small_model

pytestmark = MLFLOW_WARNINGS


def test_a_library_too_small_to_compare_on_keeps_its_champion_and_is_no_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    champion = publish(small_model(tmp_path / "old"), version=None)
    library = tmp_path / "library"
    library.mkdir()
    ids = []
    for number in range(30):
        pixels = np.random.default_rng(number).integers(0, 255, (40, 48, 3), np.uint8)
        Image.fromarray(pixels).save(library / f"{number}.png")
        ids.append(image_id((library / f"{number}.png").read_bytes()))
    store = DecisionStore(home().decisions)
    for at in range(0, 30, 2):
        left, right = sorted(ids[at : at + 2])
        verdict = Verdict.DUPLICATE if at % 4 else Verdict.DISTINCT
        store.extend([replace(said(at, verdict), left_id=left, right_id=right)])

    parser = argparse.ArgumentParser()
    add_arguments(parser)
    options = ["--data", str(library), "--least", "4", "--few", "2", "--engine", "local"]
    assert run(parser.parse_args(options)) == 0
    told = capsys.readouterr().out
    assert "12 are needed to compare two models; give more pictures; the champion stays" in told
    assert content_digest(resolve(None)) == content_digest(champion)
    assert not (home() / "retrain" / "attempt").exists()
    assert not (home() / "retrain" / "last.json").exists()
