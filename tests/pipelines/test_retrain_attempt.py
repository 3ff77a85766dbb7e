"""A retraining that is interrupted at its worst moments."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ndd.errors import StaleOutput
from ndd.home import home
from ndd.model.directory import resolve
from pipelines.champions import publish, rollback
from pipelines.registry import CHALLENGER, CHAMPION, alias
from pipelines.retrain_album import TooFewPictures
from pipelines.retrain_attempt import Attempt, Settings
from pipelines.retrain_due import Due
from pipelines.tracking import content_digest
from tests.mlflow import MLFLOW_WARNINGS
from tests.pipelines.test_retrain_cut import rows
from tests.pipelines.test_retrain_due import both_kinds
from tests.samples import small_model

pytestmark = MLFLOW_WARNINGS


def settings(*, promote: bool = True) -> Settings:
    return Settings(
        data="/p", recipe="loop_cpu", overrides=(), engine="local", albums=(), photos=20, sure=0.8, promote=promote
    )


@pytest.fixture
def champion(tmp_path: Path) -> Path:
    return publish(small_model(tmp_path / "old"), version=None)


def begun(champion: Path, *, promote: bool = True) -> Attempt:
    train = tuple(both_kinds(8))
    found = Due(
        train=train, audit=(), fresh=frozenset(d.decision_id for d in train), absent=0, kept_out=0, disagreed=0,
        judged_twice=0, why_not=None,
    )  # fmt: skip
    place = home() / "retrain" / "attempt"
    return Attempt.begin(place, settings(promote=promote), found, rows(40), champion=champion, priors={})


def test_what_was_promoted_and_taken_back_is_not_promoted_again(champion: Path) -> None:
    attempt = begun(champion)
    small_model(attempt.directory / "model", seed=1)
    version = attempt._promote()
    assert version is not None
    assert content_digest(resolve(None)) == content_digest(attempt.directory / "model")
    assert (alias(CHAMPION), alias(CHALLENGER)) == (version, version)
    # Killed before it could write its report; meanwhile somebody goes back.
    rollback()
    again = Attempt.open(attempt.directory, settings())
    assert again is not None
    assert again._promote() == version
    assert content_digest(resolve(None)) == content_digest(champion)


def test_taken_back_before_it_was_noted_it_is_not_promoted_again_either(champion: Path) -> None:
    attempt = begun(champion)
    small_model(attempt.directory / "model", seed=1)
    publish(attempt.directory / "model", version=None)
    # Killed here, before promoted.json.
    rollback()
    again = Attempt.open(attempt.directory, settings())
    assert again is not None
    assert again._promote() is not None
    assert content_digest(resolve(None)) == content_digest(champion)


def test_another_champion_ends_an_interrupted_attempt(champion: Path, tmp_path: Path) -> None:
    attempt = begun(champion)
    small_model(attempt.directory / "model", seed=1)
    assert Attempt.open(attempt.directory, settings()) == attempt
    publish(small_model(tmp_path / "other", seed=2), version=None)
    assert Attempt.open(attempt.directory, settings()) is None
    assert not attempt.directory.exists()


def test_a_champion_that_was_only_recalibrated_is_another_one(champion: Path, tmp_path: Path) -> None:
    attempt = begun(champion)
    other = small_model(tmp_path / "other")
    (other / "calibration.json").write_text(json.dumps({"version": 1}))
    (home().champion).unlink()
    (home() / "champions").joinpath("0009-other").symlink_to(other)
    home().champion.symlink_to(Path("champions") / "0009-other")
    assert not attempt._current()


def test_without_promotion_the_challenger_is_registered_and_no_more(champion: Path) -> None:
    attempt = begun(champion, promote=False)
    small_model(attempt.directory / "model", seed=1)
    assert attempt._promote() is None
    assert alias(CHALLENGER) is not None
    assert alias(CHAMPION) is None
    assert content_digest(resolve(None)) == content_digest(champion)


def test_too_few_pictures_to_compare_on_are_said_before_the_training_and_leave_nothing(champion: Path) -> None:
    attempt = begun(champion)  # its pictures are not there
    with pytest.raises(TooFewPictures, match="only 0 pictures"):
        attempt.work(0)
    assert not attempt.directory.exists()


def test_other_settings_do_not_go_on_with_it(champion: Path) -> None:
    attempt = begun(champion)
    with pytest.raises(StaleOutput, match="other settings"):
        Attempt.open(attempt.directory, settings(promote=False))
