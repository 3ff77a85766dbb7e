"""A small model and a small album, made on the spot: random weights say nothing of quality, but everything of agreement."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from skimage import data

from ndd.config import FindConfig, ModelConfig
from ndd.find import FindRequest, find
from ndd.local import LocalRunner
from ndd.model import checkpoint
from ndd.model.siamese import SiameseEmbedder

__all__ = ["photographs", "small_album", "small_model", "small_search"]


def small_model(directory: Path, *, seed: int = 0) -> Path:
    """A model directory with random weights."""
    generator = torch.random.fork_rng()
    with generator:
        torch.manual_seed(seed)
        return checkpoint.save(directory, SiameseEmbedder(ModelConfig(image_size=64, dim=32)), card={"note": "random"})


def photographs() -> dict[str, NDArray[np.uint8]]:
    """Photographs that ship in scikit-image, about 200 pixels wide."""
    found = {"astronaut": data.astronaut(), "cat": data.chelsea(), "coffee": data.coffee(), "rocket": data.rocket()}
    return {name: _shrunk(pixels, 200) for name, pixels in found.items()}


def small_album(folder: Path) -> Path:
    """18 pictures: four photographs, each smaller, mirrored and cropped; an exact copy; one blank; one cut short."""
    folder.mkdir(parents=True)
    for name, pixels in photographs().items():
        height, width = pixels.shape[:2]
        _save(folder / f"{name}.png", pixels)
        _save(folder / f"{name}-small.jpg", _shrunk(pixels, 150))
        _save(folder / f"{name}-mirrored.png", pixels[:, ::-1])
        _save(folder / "crops" / f"{name}.png", pixels[height // 8 : -height // 8, width // 8 : -width // 8])
    (folder / "crops" / "cat-again.png").write_bytes((folder / "cat.png").read_bytes())
    _save(folder / "blank.png", np.full((80, 100, 3), 200, np.uint8))
    (folder / "cut.jpg").write_bytes((folder / "cat-small.jpg").read_bytes()[:2000])
    return folder


def small_search(folder: Path) -> Path:
    """A search in the small album with the small model that keeps every candidate; all of it lies in `folder`."""
    small_album(folder / "album")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NDD_HOME", str(folder / "home"))
        request = FindRequest(
            paths=[folder / "album"],
            out=folder / "out",
            config=FindConfig(floor=0.0),
            model=small_model(folder / "model"),
        )
        find(request, LocalRunner(workers=2))
    return folder / "out"


def _shrunk(pixels: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    size = (width, round(pixels.shape[0] * width / pixels.shape[1]))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


def _save(path: Path, pixels: NDArray[np.uint8]) -> None:
    path.parent.mkdir(exist_ok=True)
    encoded = cv2.imencode(path.suffix, np.ascontiguousarray(pixels[:, :, ::-1]))[1]
    path.write_bytes(encoded.tobytes())
