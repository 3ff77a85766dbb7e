"""The look at a model during training, and the split it looks at."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ndd.config import ModelConfig, StnConfig
from ndd.model.siamese import SiameseEmbedder
from ndd.training.validate import split_pictures, validate
from tests.ndd.data.test_edits import NOTHING, only
from tests.ndd.training.builders import tiny, tiny_pictures


@pytest.mark.parametrize(("count", "holdout", "held"), [(100, 0.2, 20), (7, 0.5, 4), (10, 0.0, 0)])
def test_split(count: int, holdout: float, held: int) -> None:
    training, validation = split_pictures(count, holdout=holdout, seed=3)
    assert len(validation) == held
    assert sorted([*training, *validation]) == list(range(count))
    assert (np.diff(training) > 0).all()
    again = split_pictures(count, holdout=holdout, seed=3)
    np.testing.assert_array_equal(training, again[0])
    assert held == 0 or not np.array_equal(validation, split_pictures(count, holdout=holdout, seed=4)[1])


def embedder(seed: int = 0) -> SiameseEmbedder:
    torch.manual_seed(seed)
    return SiameseEmbedder(tiny().model)


def test_unedited_views_find_their_picture() -> None:
    """Nothing was edited, so even a network that has learnt nothing finds every picture."""
    figures = validate(embedder(), tiny_pictures(), np.arange(24), size=40, edits=NOTHING)
    assert figures["val_recall_at_1"] == 1.0
    assert figures["val_mrr"] == 1.0
    assert figures["val_gap"] > 0


def test_edits_make_it_harder_and_the_same_each_time() -> None:
    hard = only(min_area=0.3, rotate=1.0, quarter=0.5, colour=1.0)
    first = validate(embedder(), tiny_pictures(), np.arange(24), size=32, edits=hard)
    assert first == validate(embedder(), tiny_pictures(), np.arange(24), size=32, edits=hard, batch=24)
    assert first["val_mrr"] < 0.9


def test_an_identity_stn_has_the_error_of_doing_nothing() -> None:
    figures = validate(embedder(), tiny_pictures(), np.arange(24), size=32, edits=only(rotate=1.0))
    assert figures["val_pose_error_ratio"] == pytest.approx(1.0)


def test_frames_that_stay_have_the_error_of_doing_nothing() -> None:
    """At the start every frame is the whole picture, which a squash moves."""
    model = SiameseEmbedder(ModelConfig(image_size=32, dim=8, stn=StnConfig(size=16, width=6, localization="moments")))
    squashed = validate(model, tiny_pictures(), np.arange(24), size=32, edits=only(squash=2.0))
    assert squashed["val_frame_error_ratio"] == pytest.approx(1.0, abs=0.02)
    assert "val_pose_error_ratio" not in squashed


def test_at_most_the_limit_is_looked_at() -> None:
    some = validate(embedder(), tiny_pictures(), np.arange(24), size=40, edits=only(rotate=1.0), limit=5)
    first = validate(embedder(), tiny_pictures(), np.arange(5), size=40, edits=only(rotate=1.0))
    assert some == first
