"""A run that was stopped anywhere goes on as if it had not been; what it keeps on disk is whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ndd.errors import ModelError, UsageError
from ndd.model import checkpoint
from ndd.training.card import model_card
from ndd.training.local import train_local
from ndd.training.loop import Split, final_model, finished, start_state
from ndd.training.step import TrainState
from tests.ndd.training.builders import tiny, tiny_pictures


def without_time(history: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{name: value for name, value in epoch.items() if name != "seconds"} for epoch in history]


def same(a: TrainState, b: TrainState) -> None:
    for ours, theirs in ((a.model, b.model), (a.average, b.average)):
        for name, value in ours.state_dict().items():
            assert torch.equal(theirs.state_dict()[name], value), name
    assert without_time(a.history) == without_time(b.history)
    assert (a.step, a.epoch, a.done) == (b.step, b.epoch, b.done)


def test_stopped_anywhere_it_goes_on_exactly(tmp_path: Path) -> None:
    config, images = tiny(loss__kind="contrastive"), tiny_pictures()
    whole = train_local(config, images, tmp_path / "whole")
    assert (whole.step, whole.epoch) == (6, 2)
    calls = 0
    state = None
    while state is None or state.epoch < config.epochs:
        # Every call is allowed two steps: the stops fall inside epochs and on their ends.
        taken = iter([False, True])
        state = train_local(config, images, tmp_path / "cut", stop=lambda: next(taken))  # noqa: B023
        calls += 1
    assert calls == 4
    same(whole, state)


def test_a_checkpoint_within_the_epoch_is_enough(tmp_path: Path) -> None:
    """A crash instead of a stop: what was saved before it is where the next call begins."""
    config, images = tiny(), tiny_pictures()
    whole = train_local(config, images, tmp_path / "whole")

    class Crash(Exception):
        pass

    taken = 0

    def crash() -> bool:
        nonlocal taken
        taken += 1
        if taken == 5:
            raise Crash
        return False

    with pytest.raises(Crash):
        train_local(config, images, tmp_path / "cut", stop=crash, save_seconds=0.0)
    saved = torch.load(tmp_path / "cut" / "state.pt", weights_only=True)
    assert (saved["epoch"], saved["done"], saved["step"]) == (1, 1, 4)
    same(whole, train_local(config, images, tmp_path / "cut"))


def test_history_has_every_epoch_once(tmp_path: Path) -> None:
    seen: list[Any] = []
    config, images = tiny(), tiny_pictures()
    train_local(config, images, tmp_path, max_steps=4, log=seen.append)
    state = train_local(config, images, tmp_path, log=seen.append)
    lines = (tmp_path / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [0, 1]
    assert [json.loads(line) for line in lines] == seen == state.history
    assert {"val_mrr", "val_recall_at_1", "loss", "similarity_nearest_negative", "centre_norm"} <= set(seen[0])
    assert state.seconds >= seen[1]["seconds"] > seen[0]["seconds"] > 0


def test_a_finished_run_is_left_alone(tmp_path: Path) -> None:
    config, images = tiny(), tiny_pictures()
    train_local(config, images, tmp_path)
    before = (tmp_path / "state.pt").read_bytes()
    assert train_local(config, images, tmp_path, log=lambda _: pytest.fail("no epoch is left")).epoch == 2
    assert (tmp_path / "state.pt").read_bytes() == before


def test_a_run_with_other_settings_is_refused(tmp_path: Path) -> None:
    train_local(tiny(), tiny_pictures(), tmp_path, max_steps=1)
    with pytest.raises(ModelError, match="other settings"):
        train_local(tiny(optim__lr=0.5), tiny_pictures(), tmp_path)


def test_a_damaged_state_is_named(tmp_path: Path) -> None:
    train_local(tiny(), tiny_pictures(), tmp_path, max_steps=1)
    whole = (tmp_path / "state.pt").read_bytes()
    for content in (b"", whole[:1000], b"\x80\x04K\x01."):
        (tmp_path / "state.pt").write_bytes(content)
        with pytest.raises(ModelError, match=r"state\.pt"):
            train_local(tiny(), tiny_pictures(), tmp_path)


def test_too_few_pictures_for_a_batch(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="3 examples make no batch of 4"):
        train_local(tiny(examples=3), tiny_pictures(), tmp_path)


def test_a_teacher_without_features(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"loss\.teacher"):
        train_local(tiny(loss__teacher=1.0), tiny_pictures(), tmp_path)


def test_starting_from_a_model(tmp_path: Path) -> None:
    config = tiny()
    trained = train_local(config, tiny_pictures(), tmp_path / "first")
    model = checkpoint.save(tmp_path / "model", trained.average, card={})
    state = start_state(config.with_overrides({"seed": 5}), tmp_path / "second", device="cpu", init=model)
    for ours in (state.model, state.average):
        for name, value in checkpoint.load(model).model.state_dict().items():
            assert torch.equal(ours.state_dict()[name], value), name
    with pytest.raises(ModelError, match="do not fit this run.s network"):
        start_state(tiny(model__dim=16), tmp_path / "third", device="cpu", init=model)


def test_plateau_lowers_the_rate_when_nothing_gets_better(tmp_path: Path) -> None:
    from ndd.training.loop import _plateau

    config = tiny(optim__schedule="plateau", optim__step_epochs=2, optim__gamma=0.5)
    state = start_state(config, tmp_path, device="cpu")
    factors = []
    for score in (0.1, 0.3, 0.2, 0.25, 0.28, 0.29, 0.4, 0.1, 0.2):
        state.history.append({"val_mrr": score})
        _plateau(state)
        factors.append(state.plateau)
    assert factors == [1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125]


def test_a_run_that_gets_no_better_ends_early_with_its_best_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ndd.training.loop as loop

    scores = iter([0.2, 0.5, 0.4, 0.45, 0.9])
    kept: dict[int, dict[str, torch.Tensor]] = {}

    def scored(model: torch.nn.Module, *_: object, **__: object) -> dict[str, float]:
        kept[len(kept)] = {name: value.clone() for name, value in model.state_dict().items()}
        return {"val_mrr": next(scores)}

    monkeypatch.setattr(loop, "validate", scored)
    config, images = tiny(early_stop=2, epochs=9), tiny_pictures()
    state = train_local(config, images, tmp_path)
    assert state.epoch == 4
    assert finished(state)
    again = train_local(config, images, tmp_path)  # nothing left to do
    assert (again.epoch, again.step) == (4, 12)
    for name, value in final_model(again, tmp_path).state_dict().items():
        assert torch.equal(value, kept[1][name]), name
    assert next(scores) == 0.9


def test_early_stopping_is_off_by_default(tmp_path: Path) -> None:
    state = train_local(tiny(epochs=4, examples=4), tiny_pictures(), tmp_path)
    assert state.epoch == 4
    assert final_model(state, tmp_path) is state.average
    assert not (tmp_path / "best.pt").exists()


def test_pictures_outside_the_split_are_not_touched(tmp_path: Path) -> None:
    images = tiny_pictures()

    class Watched:
        asked: set[int] = set()  # noqa: RUF012

        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, rows: np.ndarray) -> np.ndarray:
            self.asked |= {int(row) for row in rows}
            return images[rows]

    split = Split(training=np.arange(4, 14), held=np.arange(20, 23))
    train_local(tiny(), Watched(), tmp_path, split=split)
    assert Watched.asked <= {*range(4, 14), *range(20, 23)}
    assert {20, 21, 22} <= Watched.asked


def test_the_card_tells_how_the_model_came_about(tmp_path: Path) -> None:
    state = train_local(tiny(), tiny_pictures(), tmp_path)
    card = model_card(state, data={"digest": "abc", "pictures": 24}, engine="local", workers=1, device="cpu")
    assert json.loads(json.dumps(card)) == card
    assert card["data"] == {"digest": "abc", "pictures": 24}
    assert card["metrics"]["val_mrr"] == state.history[-1]["val_mrr"]
    assert card["config"] == state.config.to_dict()
    assert (card["epochs"], card["steps"]) == (2, 6)
    assert card["is_not"]
    assert str(tmp_path) not in json.dumps(card)
