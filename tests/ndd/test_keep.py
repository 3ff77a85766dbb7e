"""Which copy to keep: measured detail on real photographs, and every step of the choice."""

from __future__ import annotations

import io
import itertools
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from skimage import data as photographs
from sklearn.datasets import load_sample_image

from ndd.errors import InputError
from ndd.keep import Candidate, choose, detail
from ndd.medoid import Oddity

Pixels = npt.NDArray[np.uint8]
PHOTOS = ("astronaut", "coffee", "rocket", "china.jpg")
SMOOTH = {"linear": cv2.INTER_LINEAR, "cubic": cv2.INTER_CUBIC, "lanczos": cv2.INTER_LANCZOS4}


def photo(name: str) -> Pixels:
    pixels = load_sample_image(name) if name.endswith(".jpg") else getattr(photographs, name)()
    return np.ascontiguousarray(pixels[..., :3], np.uint8)


def resized(pixels: Pixels, factor: float, how: int) -> Pixels:
    height, width = pixels.shape[:2]
    size = (round(width * factor), round(height * factor))
    return np.asarray(cv2.resize(pixels, size, interpolation=how), np.uint8)


def jpeg(pixels: Pixels, quality: int) -> Pixels:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer).convert("RGB"))


def copy(path: str, **changes: Any) -> Candidate:
    plain = {"width": 4000, "height": 3000, "bytes": 3_000_000, "format": "JPEG", "detail": 9e6}
    return Candidate(path=path, **{**plain, **changes})


def kept(*members: Candidate) -> str:
    return next(path for path, keep, _ in choose(members) if keep)


# ---- detail


@pytest.mark.parametrize("name", PHOTOS)
def test_an_enlarged_copy_holds_no_more_detail(name: str) -> None:
    original = photo(name)
    measured = detail(original)
    for how, factor in itertools.product(SMOOTH, (1.3, 2.0)):
        assert detail(resized(original, factor, SMOOTH[how])) <= measured / 0.8, (how, factor)
    assert detail(resized(original, 2, cv2.INTER_NEAREST)) == pytest.approx(measured)
    assert detail(jpeg(resized(original, 2, cv2.INTER_CUBIC), 80)) <= measured / 0.8


@pytest.mark.parametrize("name", PHOTOS)
def test_a_reduced_or_blurred_copy_holds_less(name: str) -> None:
    original = photo(name)
    measured = detail(original)
    assert measured <= original.shape[0] * original.shape[1]
    assert detail(resized(original, 0.7, cv2.INTER_AREA)) < 0.6 * measured
    assert detail(resized(original, 0.5, cv2.INTER_AREA)) < 0.3 * measured
    slightly, strongly = (np.asarray(cv2.GaussianBlur(original, (0, 0), s), np.uint8) for s in (1.0, 2.0))
    assert detail(strongly) < detail(slightly) < 0.5 * measured


@pytest.mark.parametrize("name", PHOTOS)
def test_a_good_jpeg_a_turn_and_a_border_change_little(name: str) -> None:
    original = photo(name)
    measured = detail(original)
    assert detail(jpeg(original, 90)) == pytest.approx(measured, rel=0.1)
    assert detail(np.ascontiguousarray(np.rot90(original))) == pytest.approx(measured, rel=0.02)
    bordered = np.pad(original, ((200, 200), (200, 200), (0, 0)))
    assert detail(np.asarray(bordered, np.uint8)) == pytest.approx(measured, rel=0.15)


def test_noise_is_not_taken_for_resolution() -> None:
    soft = np.asarray(cv2.GaussianBlur(photo("chelsea"), (0, 0), 2), np.uint8)
    noise = np.random.default_rng(3).normal(0, 6, soft.shape)
    noisy = np.clip(soft + noise, 0, 255).astype(np.uint8)
    assert detail(noisy) < 0.5 * soft.shape[0] * soft.shape[1]


@pytest.mark.parametrize("shape", [(1, 1), (3, 500), (64, 64), (65, 67), (71, 901), (199, 257)])
def test_any_shape_and_flat_pictures_give_a_number_in_range(shape: tuple[int, int]) -> None:
    grain = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    assert 0 < detail(grain) <= shape[0] * shape[1]
    assert 0 < detail(np.full((*shape, 3), 90, np.uint8)) <= shape[0] * shape[1]


# ---- the choice, with pictures


def _as_candidate(path: str, pixels: Pixels, **changes: Any) -> Candidate:
    height, width = pixels.shape[:2]
    return copy(path, **{"width": width, "height": height, "detail": detail(pixels), **changes})


@pytest.mark.parametrize("name", PHOTOS)
def test_the_original_beats_its_enlarged_reduced_and_blurred_copies(name: str) -> None:
    original = photo(name)
    members = [
        _as_candidate("z/original.jpg", original),
        _as_candidate("a/x2.jpg", resized(original, 2, cv2.INTER_CUBIC), bytes=9_000_000),
        _as_candidate("a/x3.png", jpeg(resized(original, 3, cv2.INTER_LINEAR), 95), bytes=9_000_000),
        _as_candidate("a/half.jpg", resized(original, 0.5, cv2.INTER_AREA)),
        _as_candidate("a/blurred.png", np.asarray(cv2.GaussianBlur(original, (0, 0), 1.5), np.uint8), format="PNG"),
    ]
    assert kept(*members) == "z/original.jpg"


@pytest.mark.parametrize("name", PHOTOS)
def test_a_frame_or_the_corners_of_a_turn_do_not_make_a_fuller_picture(name: str) -> None:
    original = photo(name)
    area = original.shape[0] * original.shape[1]
    framed = np.asarray(np.pad(original, ((80, 80), (80, 80), (0, 0)), constant_values=255), np.uint8)
    turned = np.asarray(Image.fromarray(original).rotate(12, expand=True, resample=Image.Resampling.BICUBIC), np.uint8)
    for altered in (jpeg(framed, 92), jpeg(turned, 92)):
        share = area / (altered.shape[0] * altered.shape[1])
        inner = _as_candidate("z/longer name/original.jpg", original, is_part_of=share)
        rows = choose([inner, _as_candidate("a.jpg", altered)])
        assert rows[0][1:] == (False, f"same picture, {altered.shape[1]}×{altered.shape[0]}, blank area added")
        assert rows[1][1]


@pytest.mark.parametrize("name", PHOTOS)
@pytest.mark.parametrize("side", [0.6, 0.75])
def test_a_crop_is_not_taken_for_the_inside_of_a_frame(name: str, side: float) -> None:
    original = photo(name)
    height, width = (round(length * side) for length in original.shape[:2])
    crop = np.ascontiguousarray(original[-height:, -width:])
    inner = _as_candidate("a.jpg", crop, is_part_of=side * side)
    assert kept(inner, _as_candidate("whole picture.jpg", original)) == "whole picture.jpg"


# ---- the choice, step by step


def test_more_detail_wins_over_bytes_format_and_name() -> None:
    big = copy("a.png", format="PNG", bytes=9_000_000, detail=2e6, exif_fields=40)
    rows = choose([copy("b.jpg", detail=9e6), big])
    assert rows == [
        ("a.png", False, "same picture, 4000×3000, less detail"),
        ("b.jpg", True, "kept: 4000×3000 JPEG, sharpest of 2"),
    ]


def test_reasons_are_said_for_a_person() -> None:
    rows = choose(
        [
            copy("original.png", format="PNG", detail=1.1e7),
            copy("small.jpg", width=640, height=480, detail=3e5),
            copy("huge.jpg", width=8000, height=6000, detail=3e6),
            copy("crop.jpg", width=2000, height=1500, detail=2.5e6, is_part_of=0.25),
        ]
    )
    assert {path: reason for path, _, reason in rows} == {
        "original.png": "kept: 4000×3000 PNG, the whole picture",
        "small.jpg": "same picture, 640×480, less detail",
        "huge.jpg": "same picture, 8000×6000, enlarged, less detail",
        "crop.jpg": "shows 25 % of the picture, 2000×1500, cut off",
    }


def test_a_crop_in_full_resolution_beats_a_thumbnail_of_the_whole() -> None:
    thumbnail = copy("thumb.jpg", width=320, height=240, detail=7e4)
    crop = copy("crop.jpg", width=3000, height=3000, detail=8e6, is_part_of=0.75)
    assert kept(thumbnail, crop) == "crop.jpg"
    assert kept(copy("whole.jpg", detail=1.05e7), crop) == "whole.jpg"
    reduced = copy("reduced.jpg", width=3000, height=2250, detail=6.7e6)  # the whole at three quarters of the scale
    assert kept(reduced, copy("a.jpg", width=2600, height=1950, detail=5e6, is_part_of=0.42)) == "reduced.jpg"
    assert kept(copy("a.jpg", is_part_of=0.97), copy("b.jpg", exif_fields=3)) == "b.jpg"


def test_a_larger_copy_wins_only_over_one_that_is_soft_itself() -> None:
    soft = copy("small.jpg", width=2000, height=1500, detail=1e6)
    assert kept(soft, copy("large.jpg", detail=1.1e6)) == "large.jpg"
    sharp = copy("small.jpg", width=2000, height=1500, detail=2.8e6)
    assert kept(sharp, copy("large.jpg", detail=3.2e6)) == "small.jpg"
    assert kept(sharp, copy("large.jpg", detail=3.2e6, exif_fields=30)) == "large.jpg"
    assert kept(copy("s.jpg", width=20, height=10, detail=None), copy("l.jpg", detail=None)) == "l.jpg"


@pytest.mark.parametrize(
    ("better", "worse", "merit", "fault"),
    [
        ({"format": "PNG"}, {"format": "JPEG"}, "lossless", "lossy JPEG"),
        ({"bits": 16}, {"bits": 8}, "deepest colour", "8 bits per channel, not 16"),
        ({"alpha": True}, {"alpha": False}, "transparency kept", "transparency lost"),
        ({"exif_fields": 24}, {"exif_fields": 3}, "most camera data", "3 EXIF fields, not 24"),
        ({"taken": "2019-05-01T10:00:00"}, {"taken": "2021-05-01T10:00:00"}, "oldest", "taken later"),
        ({"taken": "2021-05-01T10:00:00"}, {"taken": None}, "oldest", "no capture date"),
        ({"bytes": 4_000_000}, {"bytes": 400_000}, "least compressed", "more compressed"),
    ],
)
def test_equal_content_is_decided_by(better: dict[str, Any], worse: dict[str, Any], merit: str, fault: str) -> None:
    # The worse one has the shorter, earlier name, so the name alone would decide for it.
    rows = choose([copy("a.jpg", **worse), copy("zz/long name.jpg", **better)])
    assert [keep for _, keep, _ in rows] == [False, True]
    assert rows[0][2].endswith(fault)
    assert rows[1][2].endswith(merit)


def test_identical_copies_are_decided_by_the_shorter_then_first_path() -> None:
    rows = choose([copy("IMG_1 (copy).jpg"), copy("IMG_2.jpg"), copy("IMG_1.jpg")])
    assert [(path, keep) for path, keep, _ in rows] == [
        ("IMG_1 (copy).jpg", False),
        ("IMG_1.jpg", True),
        ("IMG_2.jpg", False),
    ]


def test_a_group_of_ten_thousand_is_decided_at_once() -> None:
    members = [copy(f"{i:05d}.jpg", detail=9e6 - i % 3, is_part_of=0.5 if i % 2 else None) for i in range(10_000)]
    rows = choose(members)
    assert [path for path, keep, _ in rows if keep] == ["00000.jpg"]


def test_one_picture_is_kept_and_wrong_groups_are_refused() -> None:
    assert choose([copy("a.jpg")]) == [("a.jpg", True, "kept: 4000×3000 JPEG, the only copy")]
    with pytest.raises(InputError, match="no pictures"):
        choose([])
    with pytest.raises(InputError, match=r"a\.jpg: twice"):
        choose([copy("a.jpg"), copy("a.jpg", width=1)])


candidates = st.lists(
    st.builds(
        copy,
        st.text("ab/", min_size=1, max_size=4),
        width=st.sampled_from([10, 2000, 4000]),
        format=st.sampled_from(["JPEG", "PNG", "WEBP"]),
        detail=st.sampled_from([None, 10.0, 1e6, 9e6]),
        taken=st.sampled_from([None, "2020-01-01T00:00:00"]),
        bits=st.sampled_from([8, 16]),
        is_part_of=st.sampled_from([None, 0.3, 1.0]),
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda member: member.path,
)


@given(candidates, st.randoms(use_true_random=False))
def test_exactly_one_is_kept_in_any_order(members: list[Candidate], rng: Any) -> None:
    rows = choose(members)
    assert [path for path, _, _ in rows] == sorted(member.path for member in members)
    assert sum(keep for _, keep, _ in rows) == 1
    assert all("\n" not in reason and reason for _, _, reason in rows)
    rng.shuffle(members)
    assert choose(members) == rows


def test_what_sets_a_copy_apart_from_all_others_decides_before_its_format() -> None:
    odd = {
        "source.webp": Oddity(0.1, "turned", {"mirror.png": "mirrored"}),
        "mirror.png": Oddity(0.6, "mirrored", {"b.jpg": "turned"}),
        "b.jpg": Oddity(0.13, "turned", {"mirror.png": "turned"}),
        "small.png": Oddity(0.4, "turned", {"source.webp": "details changed", "mirror.png": "turned"}),
        "again.png": Oddity(0.4, "turned", {"source.webp": "", "mirror.png": "turned"}),
    }
    formats = {"source.webp": "WEBP", "mirror.png": "PNG", "b.jpg": "JPEG", "small.png": "PNG", "again.png": "PNG"}
    members = [
        copy(path, format=formats[path], oddity=odd[path], exif_fields=int(path == "source.webp")) for path in odd
    ]
    rows = choose(members)
    assert {path: reason for path, _, reason in rows} == {
        "source.webp": "kept: 4000×3000 WEBP, what the other copies have in common",
        "mirror.png": "same picture, 4000×3000, mirrored, unlike the other copies",
        "small.png": "same picture, 4000×3000, details changed, unlike the one that is kept",
        "again.png": "same picture, 4000×3000, hardly differs from the one that is kept",
        "b.jpg": "same picture, 4000×3000, 0 EXIF fields, not 1",
    }
    assert kept(*members, copy("stranger.png", format="PNG")) == "stranger.png", (
        "nothing known: nothing held against it"
    )
    tiny = copy("tiny.jpg", width=400, height=300, detail=9e4, oddity=Oddity(0.0, "turned", {}))
    assert kept(*members, tiny) == "source.webp", "a thumbnail is no source, however alike"
