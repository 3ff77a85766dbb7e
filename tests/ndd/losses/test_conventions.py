"""Labels of the paper live in losses and streams only; everywhere else a high score means duplicate. Both are pinned."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ndd.losses import contrastive_loss, cosine_distance
from ndd.metrics.pairs import roc_auc
from ndd.training.config import LossConfig, Stage, TrainConfig
from ndd.training.plan import plan_epoch


def test_a_loss_calls_a_duplicate_zero_and_a_metric_calls_it_one() -> None:
    anchor = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    other = torch.tensor([[1.0, 0.0], [0.0, 1.0]])  # a copy, and something else
    distance = cosine_distance(anchor, other)
    paper = torch.tensor([0, 1])
    assert contrastive_loss(distance, paper).item() == 0.0
    assert contrastive_loss(distance, 1 - paper).item() > 0.4
    is_duplicate, score = (1 - paper).numpy().astype(bool), -distance.numpy()
    assert roc_auc(is_duplicate, score) == 1.0


def test_labels_of_streams_are_the_papers() -> None:
    """In a plan the label is 0 exactly where both roles show the same picture."""
    config = TrainConfig(loss=LossConfig(kind="contrastive"), stages=(Stage(until=1.0, size=32, batch=10),))
    plan = plan_epoch(config, np.arange(100), epoch=3)
    same = plan.pictures[:, 0] == plan.pictures[:, 1]
    np.testing.assert_array_equal(plan.labels, np.where(same, 0, 1))
    assert plan.labels.sum() == 50


@pytest.mark.parametrize(("kind", "roles"), [("triplet", 3), ("infonce", 2)])
def test_other_plans_hold_duplicates_only(kind: str, roles: int) -> None:
    config = TrainConfig.from_dict({"loss": {"kind": kind}})
    plan = plan_epoch(config, np.arange(200), epoch=0)
    assert plan.pictures.shape == (200, roles)
    assert not plan.labels.any()
    np.testing.assert_array_equal(plan.pictures[:, 0], plan.pictures[:, 1])
    assert roles == 2 or (plan.pictures[:, 0] != plan.pictures[:, 2]).all()
