from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ndd.errors import InputError, UsageError
from ndd.stages.verify import evidence_values
from ndd.tables import PairRow, read_pairs, write_pairs
from ndd.types import Relation
from ndd.verify.geometry import GeometricEvidence
from ndd.verify.score import (
    DEFAULT_CALIBRATION,
    VERIFIED_FEATURES,
    PairEvidence,
    Scorer,
    estimate_prior,
    expand,
)
from pipelines.album import Photo, build_album, read_album
from pipelines.calibrate import add_arguments, add_cuttings, add_lookalikes, add_textures, album_for, evidence_of, run
from pipelines.score_fit import fit

BUILT_IN = dict(zip(DEFAULT_CALIBRATION["features"], DEFAULT_CALIBRATION["weights"], strict=True))


def drawn(count: int, *, share: float, seed: int) -> tuple[list[PairEvidence], list[bool]]:
    """Pairs whose agreement and distance overlap between the kinds; everything else is noise."""
    rng = np.random.default_rng(seed)
    labels = rng.random(count) < share
    pairs = []
    for duplicate in labels:
        agreement = float(rng.beta(6, 3) if duplicate else rng.beta(2, 6))
        geometry = GeometricEvidence(
            inliers=int(rng.integers(4, 60)),
            agreement=agreement,
            correlation=float(rng.random()),
            transform=((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
        )
        distance = float(np.clip(rng.normal(0.3 if duplicate else 0.7, 0.15), 0.0, 2.0))
        pairs.append(PairEvidence(distance=distance, hash_bits=int(rng.integers(60, 128)), geometry=geometry))
    return pairs, [bool(label) for label in labels]


def test_fitted_probabilities_are_frequencies() -> None:
    pairs, labels = drawn(3000, share=0.3, seed=1)
    fitted = fit(pairs, labels)
    assert fitted["fit"]["ece"] < 0.03
    fresh, truth = drawn(4000, share=0.08, seed=2)
    scorer = Scorer(fitted)
    prior = estimate_prior(scorer.score(fresh), prior=scorer.prior)
    assert prior == pytest.approx(0.08, abs=0.02)
    scores = scorer.with_prior(prior).score(fresh)
    assert scores.mean() == pytest.approx(np.mean(truth), abs=0.015)
    certain = scores > 0.8
    assert np.array(truth)[certain].mean() == pytest.approx(scores[certain].mean(), abs=0.06)


def response(section: dict[str, Any], feature: str, low: float, high: float) -> float:
    """By how many log-odds the fitted score rises when a feature goes from low to high."""
    rows = np.array([[value if name == feature else 0.0 for name in VERIFIED_FEATURES] for value in (low, high)])
    before, after = expand(rows, VERIFIED_FEATURES, section["features"]) @ np.array(section["weights"])
    return float(after - before)


def test_features_that_tell_nothing_weigh_little_and_none_weighs_negative() -> None:
    pairs, labels = drawn(3000, share=0.5, seed=3)
    fitted = fit(pairs, labels)
    assert min(fitted["weights"]) >= 0.0 and min(fitted["unverified"]["weights"]) >= 0.0
    assert response(fitted, "agreement", 0.2, 0.8) > 2.0 and response(fitted, "standout", 0.2, 0.8) > 2.0
    assert response(fitted, "inliers", 1.5, 4.0) < 0.5
    # What never varies in the album stays as it was.
    assert response(fitted, "inlier_ratio", 0.0, 1.0) == pytest.approx(BUILT_IN["inlier_ratio"], abs=1e-4)


def test_a_response_bends_where_the_evidence_does() -> None:
    """Agreement up to a half says nothing here, beyond it everything."""
    rng = np.random.default_rng(11)
    pairs, _ = drawn(3000, share=0.5, seed=10)
    labels = [pair.geometry.agreement > 0.5 and bool(rng.random() < 0.9) for pair in pairs if pair.geometry]
    fitted = fit(pairs, labels)
    below, above = (response(fitted, "agreement", *ends) for ends in ((0.0, 0.4), (0.4, 0.8)))
    assert above > 4.0 and below < 0.3 * above


def test_a_misleading_feature_is_left_out_rather_than_turned_round() -> None:
    pairs, labels = drawn(2000, share=0.5, seed=4)
    # Labels upside down: nearness now speaks against a duplicate.
    fitted = fit(pairs, [not label for label in labels])
    for feature in ("agreement", "standout"):
        assert response(fitted, feature, 0.2, 0.8) < 0.05


def test_the_same_pairs_give_the_same_calibration() -> None:
    pairs, labels = drawn(400, share=0.4, seed=5)
    assert fit(pairs, labels) == fit(pairs, labels)
    assert json.loads(json.dumps(fit(pairs, labels), allow_nan=False)) == fit(pairs, labels)


def test_identical_and_flat_pairs_teach_nothing() -> None:
    pairs, labels = drawn(400, share=0.4, seed=6)
    extra = [
        PairEvidence(distance=0.0, hash_bits=0, identical=True),
        PairEvidence(distance=0.0, hash_bits=0, flat=True),
    ]
    assert fit([*pairs, *extra], [*labels, False, True]) == fit(pairs, labels)


def test_the_score_of_pairs_nobody_looked_at_is_fitted_to_such_pairs() -> None:
    """Of strangers that a glance has left, the ones far away are missing: nearness would say less than it does."""
    pairs, labels = drawn(2000, share=0.4, seed=12)
    left = [at for at, pair in enumerate(pairs) if labels[at] or pair.distance < 0.6]
    verified = [pairs[at] for at in left], [labels[at] for at in left]
    fitted, glanced = fit(*verified, unverified=(pairs, labels)), fit(*verified)
    assert {**fitted, "unverified": None} == {**glanced, "unverified": None}
    assert fitted["unverified"] == fit(pairs, labels)["unverified"] != glanced["unverified"]


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_one_kind_alone_cannot_be_fitted(share: float) -> None:
    pairs, labels = drawn(100, share=share, seed=7)
    with pytest.raises(InputError, match="at least 20"):
        fit(pairs, labels)


def test_labels_must_match_the_pairs() -> None:
    pairs, labels = drawn(100, share=0.5, seed=8)
    with pytest.raises(UsageError, match="100 pairs and 99 labels"):
        fit(pairs, labels[1:])


def test_evidence_survives_the_pairs_table(tmp_path: Path) -> None:
    pairs, _ = drawn(3, share=0.5, seed=9)
    pairs.append(PairEvidence(distance=0.25, hash_bits=7, flat=True, upright=False))
    rows = [
        PairRow(
            left=f"{at}-a.jpg",
            right=f"{at}-b.jpg",
            score=0.5,
            duplicate=False,
            relation=Relation.EDITED,
            distance=pair.distance,
            evidence=evidence_values(pair),
        )
        for at, pair in enumerate(pairs)
    ]
    write_pairs(tmp_path / "pairs.parquet", rows)
    for row, pair in zip(read_pairs(tmp_path / "pairs.parquet"), pairs, strict=True):
        again = evidence_of(row)
        assert again.geometry == pair.geometry
        assert (again.hash_bits, again.flat, again.upright) == (pair.hash_bits, pair.flat, pair.upright)
        assert again.distance == pytest.approx(pair.distance, abs=1e-6)


def test_the_command_line_knows_where_photographs_come_from() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    args = parser.parse_args(["photos", "--copies", "2"])
    assert (args.photos, args.copies, args.model, args.json) == (Path("photos"), 2, None, False)


@pytest.mark.parametrize("option", ["--limit", "--singles-limit"])
def test_a_limit_that_takes_nothing_is_refused(tmp_path: Path, option: str) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    with pytest.raises(UsageError, match=f"{option} must be at least 1, got 0"):
        run(parser.parse_args([str(tmp_path), option, "0"]))


def test_lookalikes_share_what_is_laid_over_them_and_nothing_else(tmp_path: Path) -> None:
    greys = [Photo.of_array(f"grey-{level}", np.full((120, 160, 3), level, np.uint8)) for level in range(100, 140, 5)]
    album = add_lookalikes(build_album(greys, tmp_path / "album", copies=1), greys, seed=3)
    assert read_album(album.root) == album
    shared = [row for row in album.images if row.note == "lookalike"]
    assert len(shared) == 8 and len({row.group for row in shared}) == 8
    assert all(row.group in row.image for row in shared)
    first = []
    for row in shared[:4]:  # captions: white text with a black outline
        pixels = np.asarray(Image.open(album.root / row.image), np.float64)
        assert pixels.shape == (240, 320, 3)
        first.append(np.abs(pixels - np.median(pixels)).max(axis=2) > 70)
    assert all(mask.sum() > 300 for mask in first)
    for mask in first[1:]:
        assert (mask & first[0]).sum() / (mask | first[0]).sum() > 0.6
    other = np.asarray(Image.open(album.root / shared[4].image), np.float64)
    assert other.shape != (240, 320, 3)  # bars above and below: the next four share something else


def test_cuttings_are_quarters_that_share_nothing(tmp_path: Path) -> None:
    ramp = np.arange(120 * 160, dtype=np.uint32).reshape(120, 160)
    pixels = np.stack([ramp * 255 // ramp.max(), ramp % 160, 200 - ramp // 160], axis=2).astype(np.uint8)
    photos = [Photo.of_array("kept", pixels), Photo.of_array("cut", pixels[::-1, ::-1].copy())]
    album = add_cuttings(build_album(photos[:1], tmp_path / "album", copies=1), photos[1:])
    assert read_album(album.root) == album
    cuttings = [row for row in album.images if row.note == "cutting"]
    assert len({row.group for row in cuttings}) == 4 and not {row.group for row in cuttings} & {"cut", "kept"}
    found = [np.asarray(Image.open(album.root / row.image), np.float64) for row in cuttings]
    whole = np.block([[[found[0]], [found[1]]], [[found[2]], [found[3]]]])
    assert np.abs(whole - pixels[::-1, ::-1]).mean() < 4.0


def test_textures_have_the_details_of_one_part_and_no_place_in_common(tmp_path: Path) -> None:
    """As in brick or print: the colours are the same, pixel by pixel nothing is."""
    greys = [Photo.of_array("kept", np.full((120, 160, 3), 90, np.uint8))]
    pixels = np.random.default_rng(0).integers(0, 255, (100, 140, 3), np.uint8)
    album = add_textures(build_album(greys, tmp_path / "album", copies=1), [Photo.of_array("stuff", pixels)], seed=3)
    assert read_album(album.root) == album
    textures = [row for row in album.images if row.note == "texture"]
    assert len({row.group for row in textures}) == 4
    found = np.stack([np.asarray(Image.open(album.root / row.image), np.float64) for row in textures])
    assert found.shape == (4, 240, 320, 3)
    flat = found.reshape(4, -1)
    assert np.ptp(flat.mean(axis=1)) < 3.0 and flat.std(axis=1).min() > 20.0
    assert np.abs(np.corrcoef(flat) - np.eye(4)).max() < 0.3


def test_photographs_too_small_to_be_cut_are_passed_over(tmp_path: Path) -> None:
    thin = [Photo.of_array("thin", np.full((1, 160, 3), 90, np.uint8))]
    greys = [Photo.of_array("kept", np.full((120, 160, 3), 90, np.uint8))]
    album = build_album(greys, tmp_path / "album", copies=1)
    assert add_cuttings(album, thin) == album == add_textures(album, thin, seed=0)


@pytest.mark.parametrize("spare", [0, 8])
def test_a_photograph_that_is_cut_is_in_the_album_in_no_other_form(tmp_path: Path, spare: int) -> None:
    """A quarter of a picture that is there too would be its copy."""
    random = np.random.default_rng(0)
    every = [Photo.of_array(f"p{at}", random.integers(0, 255, (60, 80, 3), np.uint8)) for at in range(16 + spare)]
    album = album_for(every[:16], every[12:], tmp_path / "album", copies=2, seed=0)
    cut, textures = (
        {row.group.rpartition(f"-{mark}-")[0] for row in album.images if row.note == note}
        for note, mark in (("cutting", "cut"), ("texture", "texture"))
    )
    others = {row.group for row in album.images if row.note not in ("cutting", "texture")}
    assert len(cut) == len(textures) == (2 if spare else 1)
    assert not cut & textures and not (cut | textures) & others
    assert cut | textures | others == {photo.name for photo in every}
    assert any(row.note == "lookalike" for row in album.images)
    assert sum(row.note == "original" for row in album.images) == (16 if spare else 14)
