"""Learning the visual words."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from ndd.verify.keypoints import extract
from pipelines.cli import main
from tests.samples import photographs


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for name, pixels in photographs().items():
        cv2.imwrite(str(folder / f"{name}.png"), np.ascontiguousarray(pixels[:, :, ::-1]))
    return folder


def test_words_lie_among_the_keypoints(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "words.npy"
    assert main(["words", str(photos), "--out", str(out), "--words", "3"]) == 0
    words = np.load(out)
    assert (words.shape, words.dtype) == ((3, 128), np.uint8)
    seen = np.concatenate([extract(pixels).descriptors for pixels in photographs().values()]).astype(float)
    near = ((seen[:, None] - words) ** 2).sum(axis=2).min(axis=1)
    anyhow = ((seen - seen.mean(axis=0)) ** 2).sum(axis=1)
    assert near.mean() < anyhow.mean(), "three words tell more than their mean"


def test_too_few_keypoints(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["words", str(photos), "--out", str(tmp_path / "words.npy")]) == 1
    assert "for 512 words, at least 20480 are needed; give more photographs" in capsys.readouterr().err
    assert not (tmp_path / "words.npy").exists()
