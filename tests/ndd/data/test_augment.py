"""Carrying out the training edits: each against an independent way to do the same, and every row by itself."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from skimage import data

from ndd.data.augment import make_views
from ndd.data.edits import EditConfig, Edits, draw_edits
from tests.ndd.data.test_edits import drawn, only

Pixels = NDArray[np.uint8]


def photos(count: int, size: int) -> torch.Tensor:
    """(count, 3, size, size) uint8: different pieces of a real photograph."""
    picture = cv2.resize(data.astronaut(), (256, 256), interpolation=cv2.INTER_AREA)
    starts = np.random.default_rng(0).integers(0, 256 - size, (count, 2))
    pieces = np.stack([picture[y : y + size, x : x + size] for y, x in starts])
    return torch.from_numpy(pieces).permute(0, 3, 1, 2)


def edits_with(count: int, **arrays: NDArray[np.float32] | float) -> Edits:
    """No edits but these."""
    edits = drawn(only(), count)
    values = {
        name: np.broadcast_to(np.asarray(value, np.float32), getattr(edits, name).shape)
        for name, value in arrays.items()
    }
    return Edits(**{f: values.get(f, getattr(edits, f)) for f in Edits.__dataclass_fields__})


def mean_difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.float() - b.float()).abs().mean())


def test_no_edit_gives_the_picture_back() -> None:
    x = photos(3, 48)
    assert (make_views(x, drawn(only(), 3), size=48).int() - x.int()).abs().max() <= 1


@pytest.mark.parametrize("size", [64, 33, 20])
def test_smaller_views_do_not_alias(size: int) -> None:
    """Against OpenCV's area average, which looks at every pixel."""
    x = photos(4, 96)
    views = make_views(x, drawn(only(), 4), size=size)
    for view, picture in zip(views, x, strict=True):
        expected = cv2.resize(picture.permute(1, 2, 0).numpy(), (size, size), interpolation=cv2.INTER_AREA)
        assert np.abs(view.permute(1, 2, 0).numpy().astype(int) - expected).mean() < 6


def test_turns_and_mirrors_are_exact() -> None:
    x = photos(1, 32)
    for matrix, expected in (
        ([[0, -1], [1, 0]], x.rot90(1, (2, 3))),
        ([[-1, 0], [0, -1]], x.rot90(2, (2, 3))),
        ([[0, 1], [-1, 0]], x.rot90(3, (2, 3))),
        ([[-1, 0], [0, 1]], x.flip(3)),
    ):
        homography = np.eye(3, dtype=np.float32)
        homography[:2, :2] = matrix
        view = make_views(x, edits_with(1, view_to_picture=homography), size=32)
        assert (view.int() - expected.int()).abs().max() <= 1, matrix


def test_views_show_what_the_homography_says() -> None:
    """Against OpenCV's warp of the same homography, in pixels."""
    x = photos(1, 64)
    edits = draw_edits(np.random.default_rng(5), np.ones(12), only(rotate=1.0, perspective=1.0, min_area=0.5))
    views = make_views(x.expand(12, -1, -1, -1), edits, size=64)
    to_unit = np.array([[2 / 64, 0, 1 / 64 - 1], [0, 2 / 64, 1 / 64 - 1], [0, 0, 1]])
    for view, h in zip(views, edits.view_to_picture, strict=True):
        pixels = np.linalg.inv(to_unit) @ h @ to_unit
        picture = x[0].permute(1, 2, 0).numpy()
        expected = cv2.warpPerspective(
            picture, pixels, (64, 64), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE
        )
        inside = cv2.warpPerspective(
            np.ones((64, 64), np.uint8), pixels, (64, 64), flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
        ).astype(bool)
        difference = np.abs(view.permute(1, 2, 0).numpy().astype(int) - expected)[inside]
        assert difference.mean() < 1.0


def test_a_crop_is_as_sharp_as_what_is_stored() -> None:
    """Half of each side of a picture of twice the view's size is that part, pixel by pixel, also beside views that shrink."""
    x = photos(2, 64)
    half = np.diag([0.5, 0.5, 1.0]).astype(np.float32)
    maps = np.stack([half, np.eye(3, dtype=np.float32)])
    crop, whole = make_views(x, edits_with(2, view_to_picture=maps), size=32)
    assert (crop.int() - x[0, :, 16:48, 16:48].int()).abs().max() <= 1
    reduced = torch.nn.functional.avg_pool2d(x[1:].float(), 2)[0]
    assert (whole - reduced).abs().max() <= 1


def test_the_outside_is_filled_or_repeats_the_border() -> None:
    x = photos(2, 32)
    wide = np.diag([2.0, 2.0, 1.0]).astype(np.float32)
    fill = np.array([[1.0, 0.0, 0.5, 1.0], [1.0, 0.0, 0.5, 0.0]], np.float32)
    views = make_views(x, edits_with(2, view_to_picture=wide, fill=fill), size=32)
    assert views[0, :, 0, 0].tolist() == [255, 0, 128]
    # Twice as much is seen as there is: the picture was reduced first, and its corner is the mean of four pixels.
    corner = x[1, :, :2, :2].float().mean(dim=(1, 2))
    assert (views[1, :, 0, 0] - corner).abs().max() <= 1


def test_jpeg_loses_what_a_real_encoder_loses() -> None:
    """Against Pillow's encoder with the same tables, without chroma subsampling."""
    x = photos(3, 64)
    for quality in (10, 30, 75):
        views = make_views(x, edits_with(3, jpeg=float(quality)), size=64)
        for view, picture in zip(views, x, strict=True):
            stream = io.BytesIO()
            Image.fromarray(picture.permute(1, 2, 0).numpy()).save(stream, "JPEG", quality=quality, subsampling=0)
            real = torch.from_numpy(np.asarray(Image.open(stream)).copy()).permute(2, 0, 1)
            lost = mean_difference(real, picture)
            assert mean_difference(view, real) < 0.4 * lost + 0.3, quality


def test_blur_is_gaussian() -> None:
    x = photos(2, 64)
    for share in (0.01, 0.02):
        views = make_views(x, edits_with(2, blur=share), size=64)
        for view, picture in zip(views, x, strict=True):
            expected = cv2.GaussianBlur(picture.permute(1, 2, 0).numpy(), (9, 9), share * 64)
            assert np.abs(view.permute(1, 2, 0).numpy().astype(int) - expected).max() <= 3


def test_colours() -> None:
    x = photos(1, 32)

    def view(*values: float) -> torch.Tensor:
        return make_views(x, edits_with(1, colour=np.array(values, np.float32)), size=32)[0].float()

    grey = view(1, 1, 1, 0, 1, 0, 1)
    assert (grey - grey[0]).abs().max() <= 1
    assert (view(1, 1, 1, 0.2, 1, 1, 1) - x[0]).mean() == pytest.approx(51, abs=8)
    red = view(0.5, 1, 1, 0, 1, 1, 1)
    assert red[0].mean() == pytest.approx(x[0, 0].float().mean().item() / 2, abs=1)
    assert red[1].mean() == pytest.approx(x[0, 1].float().mean().item(), abs=1)
    assert view(1, 1, 1, 0, 0.5, 1, 1).std() < 0.7 * x.float().std()
    assert view(1, 1, 1, 0, 1, 1, 1.5).mean() < x.float().mean() - 5


def test_overlays_cover_what_they_say() -> None:
    x, others = photos(2, 32), torch.full((2, 3, 32, 32), 7, dtype=torch.uint8)
    rectangles = np.zeros((2, 3, 14), np.float32)
    rectangles[:, :, 2:4] = rectangles[:, :, 12:] = 0.1
    rectangles[0, 0] = [0.5, -0.5, 0.5, 0.5, 1, 1, 1, 0, 0, 0, 0, 0, 0.1, 0.1]  # a red box over the upper right quarter
    rectangles[1, 0] = [
        0,
        0,
        0.5,
        0.5,
        3,
        0.5,
        0,
        0,
        0,
        0,
        0,
        0,
        0.1,
        0.1,
    ]  # another picture, half opaque, in the middle
    views = make_views(x, edits_with(2, rectangles=rectangles), size=32, others_V3HW=others)
    assert (views[0, :, :16, 16:] == torch.tensor([255, 0, 0])[:, None, None]).all()
    assert (views[0, :, 16:].int() - x[0, :, 16:].int()).abs().max() <= 1
    middle = x[1, :, 8:24, 8:24].float() * 0.5 + 3.5
    assert (views[1, :, 8:24, 8:24].float() - middle).abs().max() <= 1.5
    alone = make_views(x, edits_with(2, rectangles=rectangles), size=32)
    assert (alone[1].int() - x[1].int()).abs().max() <= 1  # nothing to paste


def test_every_row_is_made_by_itself() -> None:
    """The views of a row are the same bits in any batch and with any number of threads."""
    count, size = 24, 96
    x, others = photos(count, 112), photos(count, 112).flip(0)
    edits = draw_edits(np.random.default_rng(3), np.ones(count), EditConfig(overlay=1.0, blur=1.0, noise=1.0, jpeg=1.0))

    def views(cuts: list[int]) -> torch.Tensor:
        parts = [slice(a, b) for a, b in zip([0, *cuts], [*cuts, count], strict=True)]
        return torch.cat([make_views(x[p], edits[p], size=size, others_V3HW=others[p]) for p in parts])

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        whole = views([])
        assert torch.equal(views([1, 2, 9]), whole)
        assert torch.equal(views(list(range(1, count))), whole)
        torch.set_num_threads(3)
        assert torch.equal(views([]), whole)
        assert torch.equal(views([5]), whole)
    finally:
        torch.set_num_threads(threads)


def test_row_counts_must_agree() -> None:
    with pytest.raises(ValueError, match="2 pictures but 3 edits"):
        make_views(photos(2, 32), drawn(only(), 3), size=32)
