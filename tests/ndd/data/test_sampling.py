"""Hard negatives are the nearest pictures that may be strangers; people's pairs become rows and nothing else does."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from ndd.data.sampling import HardNegatives, SamplingConfig, decided_pairs, mine
from ndd.errors import ConfigError
from ndd.types import Decision, Draw, ImageId, Relation, Verdict, image_id


def on_a_circle(degrees: list[float]) -> np.ndarray:
    angles = np.deg2rad(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def test_the_nearest_strangers_in_order() -> None:
    found = mine(on_a_circle([0, 10, 25, 180]), np.array([3, 5, 8, 9]), neighbours=2)
    assert found.neighbours.tolist() == [[5, 8], [3, 8], [5, 3], [8, 5]]


def test_too_near_is_no_stranger_and_neither_is_a_known_duplicate() -> None:
    vectors, rows = on_a_circle([0, 2, 25, 60]), np.array([0, 1, 2, 3])
    near = mine(vectors, rows, neighbours=2, ceiling=0.99)  # 2° is a similarity of .9994
    assert near.neighbours.tolist() == [[2, 3], [2, 3], [1, 0], [2, 1]]
    told = mine(vectors, rows, neighbours=2, ceiling=0.99, duplicates=[(2, 0), (7, 1)])
    assert told.neighbours.tolist() == [[3, -1], [2, 3], [1, 3], [2, 1]]


def test_mining_agrees_with_comparing_everything() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(200, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = np.sort(rng.choice(1000, 200, replace=False))
    similarity = vectors.astype(np.float16).astype(np.float64)
    similarity = similarity @ similarity.T
    np.fill_diagonal(similarity, -2)
    found = mine(vectors, rows, neighbours=5)
    nearest = rows[np.argsort(-similarity, axis=1)[:, :5]]
    assert (found.neighbours == nearest).mean() > 0.99  # ties of half precision may be ordered otherwise


def test_draws_are_from_the_neighbours_alone() -> None:
    hard = HardNegatives(rows=np.array([2, 4, 9]), neighbours=np.array([[7, 8, -1], [-1, -1, -1], [1, 2, 3]]))
    asked = np.tile([2, 4, 9, 5, 100], 200)
    drawn = hard.draw(np.random.default_rng(0), asked)
    allowed = {2: {7, 8}, 4: {-1}, 9: {1, 2, 3}, 5: {-1}, 100: {-1}}
    for picture, chosen in allowed.items():
        assert set(drawn[asked == picture]) == chosen


IDS = [image_id(bytes([i])) for i in range(6)]
ROWS = {picture: 10 + i for i, picture in enumerate(IDS[:5])}


def decision(a: int, b: int, verdict: Verdict, **more: object) -> Decision:
    low, high = sorted((IDS[a], IDS[b]))
    given = {"relation": None, "draw": Draw.UNCERTAIN} | more
    return Decision(
        left_id=ImageId(low), right_id=ImageId(high), verdict=verdict, reviewer="a", time=datetime.now(UTC),
        embedding_digest="e", scorer_digest="s", **given,  # type: ignore[arg-type]
    )  # fmt: skip


def test_decisions_become_rows() -> None:
    found = decided_pairs(
        [
            decision(3, 0, Verdict.DUPLICATE),
            decision(1, 2, Verdict.DUPLICATE, relation=Relation.EDITED),
            decision(0, 4, Verdict.DISTINCT, draw=Draw.MANUAL),
            decision(0, 1, Verdict.DUPLICATE, relation=Relation.SCENE),  # not what is searched, and no strangers either
            decision(0, 2, Verdict.UNSURE),
            decision(1, 3, Verdict.DUPLICATE, draw=Draw.AUDIT),  # reports quality, so it must not be learnt
            decision(2, 4, Verdict.DISTINCT, draw=Draw.AUDIT),
            decision(0, 5, Verdict.DUPLICATE),  # a picture that is not here
        ],
        ROWS,
    )
    assert found.duplicates.tolist() == [[10, 13], [11, 12]]
    assert found.distinct.tolist() == [[10, 14]]
    assert len(found) == 3
    among = found.among(np.array([11, 12, 10]))
    assert (among.duplicates.tolist(), among.distinct.tolist()) == ([[11, 12]], [])
    assert among.draw(np.random.default_rng(0), 1) is None
    assert sorted(among.draw(np.random.default_rng(0), 0) or ()) == [11, 12]


@pytest.mark.parametrize(
    ("name", "value"), [("hard", 1.5), ("decisions", -1.0), ("every", 0), ("pool", 1), ("ceiling", 2.0), ("first", -1)]
)
def test_settings_are_checked(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"sampling.{name}"):
        SamplingConfig(**{name: value})  # type: ignore[arg-type]
