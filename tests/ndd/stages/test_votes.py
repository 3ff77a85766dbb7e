"""Votes of keypoints: copies that look unlike as a whole are found, strangers are not, however the work is cut."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from ndd.stages import match
from ndd.stages.match import ASKED, SURE, Matcher
from ndd.stages.verify import VoterStore
from ndd.stages.votes import LOUD, PROPOSED, Votes, write_votes
from ndd.types import ImageId
from ndd.verify.glance import FEW
from ndd.verify.keypoints import VOTERS, VOTING_SIDE, extract, grey_within
from tests.samples import photographs

Pixels = NDArray[np.uint8]


def crop_on_a_page(pixels: Pixels) -> Pixels:
    """A third of the picture, mirrored, turned, on a page of another shade."""
    height, width = pixels.shape[:2]
    part = pixels[height // 4 : height // 4 + round(0.6 * height), width // 5 : width // 5 + round(0.6 * width), :][
        :, ::-1
    ]
    page = np.full((round(1.2 * height), round(1.3 * width), 3), 200, np.uint8)
    page[40 : 40 + part.shape[0], 60 : 60 + part.shape[1]] = part
    about = cv2.getRotationMatrix2D((page.shape[1] / 2, page.shape[0] / 2), 20, 0.9)
    return np.asarray(cv2.warpAffine(page, about, page.shape[1::-1], borderValue=(200, 200, 200)), np.uint8)


@pytest.fixture(scope="module")
def album() -> dict[str, Pixels]:
    """Photographs, an edited copy of each, and a picture without anything to see in it."""
    photos = dict(list(photographs().items())[:8])
    copies = {f"{name}-copy": crop_on_a_page(pixels) for name, pixels in photos.items()}
    return photos | copies | {"~flat": np.full((80, 80, 3), 90, np.uint8)}


def votes_of(
    album: dict[str, Pixels], directory: Path, *, sides: NDArray[np.int64] | None = None
) -> tuple[list[str], Votes]:
    names = list(album)
    VoterStore(directory / "voters").add((ImageId(name), lambda p=p: p) for name, p in album.items())  # type: ignore[misc]
    store = VoterStore(directory / "voters")
    write_votes(directory / "votes", names, store, sides=np.zeros(len(names), np.int64) if sides is None else sides)
    return names, Votes(directory / "votes", names, store)


def named(names: list[str], pairs: NDArray[np.int64]) -> set[tuple[str, str]]:
    return {(names[a], names[b]) for a, b in pairs.tolist()}


def test_a_turned_mirrored_crop_and_its_source_vote_for_each_other(album: dict[str, Pixels], tmp_path: Path) -> None:
    names, votes = votes_of(album, tmp_path)
    ballot = votes.ballot(np.arange(len(names)), side=0)
    for name in (name for name in names if f"{name}-copy" in names):
        mine = ballot.asked == names.index(name)
        best = ballot.found[mine][ballot.votes[mine].argmax()]
        assert names[best] == f"{name}-copy"
    pairs = ballot.proposals(most=1)
    proposed = named(names, pairs)
    assert len(proposed) == len(pairs) <= len(names), "one each"
    assert (ballot.of(pairs[:, 0], pairs[:, 1]) >= PROPOSED).all()
    assert {(name, f"{name}-copy") for name in names if f"{name}-copy" in names} - proposed <= {
        ("rocket", "rocket-copy")
    }


def test_it_does_not_matter_who_asks_together(album: dict[str, Pixels], tmp_path: Path) -> None:
    names, votes = votes_of(album, tmp_path)
    whole = votes.ballot(np.arange(len(names)), side=0)
    parts = [votes.ballot(np.array([row]), side=0) for row in range(len(names))]
    for column in ("asked", "found", "votes"):
        assert np.array_equal(np.concatenate([getattr(part, column) for part in parts]), getattr(whole, column))


def test_the_votes_of_a_pair_can_be_asked_for(album: dict[str, Pixels], tmp_path: Path) -> None:
    names, votes = votes_of(album, tmp_path)
    ballot = votes.ballot(np.arange(len(names)), side=0)
    asked, found = np.divmod(np.arange(len(names) ** 2), len(names))
    table = dict(
        zip(zip(ballot.asked.tolist(), ballot.found.tolist(), strict=True), ballot.votes.tolist(), strict=True)
    )
    expected = [table.get(pair, 0.0) for pair in zip(asked.tolist(), found.tolist(), strict=True)]
    assert ballot.of(asked, found).tolist() == expected
    assert votes.ballot(np.zeros(0, np.int64), side=0).of(asked, found).tolist() == [0.0] * len(asked)


def test_only_the_other_side_is_asked(album: dict[str, Pixels], tmp_path: Path) -> None:
    sides = np.array([int(name.endswith("-copy")) for name in album])
    _, votes = votes_of(album, tmp_path, sides=sides)
    ballot = votes.ballot(np.flatnonzero(sides == 0), side=1)
    assert len(ballot.found)
    assert (sides[ballot.found] == 1).all()


def test_a_picture_without_keypoints_is_silent(album: dict[str, Pixels], tmp_path: Path) -> None:
    names, votes = votes_of(album, tmp_path)
    rows = np.arange(len(names))
    few = [name for name in names if len(extract(grey_within(album[name], VOTING_SIDE), most=VOTERS)) < FEW]
    assert [names[row] for row in np.flatnonzero(votes.silent(rows))] == few
    assert "~flat" in few
    pairs = votes.ballot(rows, side=0).proposals(most=9)
    assert "~flat" not in {name for pair in named(names, pairs) for name in pair}
    assert FEW > 0 < PROPOSED < LOUD


def test_a_neighbour_is_proposed_by_how_far_it_stands_out_and_by_its_votes(
    album: dict[str, Pixels], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names, votes = votes_of(album, tmp_path)
    count = len(names)
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(count, 16)).astype(np.float32)
    hashes = rng.integers(0, 256, (count, 8, 32), dtype=np.uint8)
    vectors[1] = vectors[0] + 0.3 * vectors[1]  # two photographs that a descriptor takes for each other
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    half = vectors.astype(np.float16)
    cosine = half.astype(np.float64) @ half.astype(np.float64).T

    def promised(*, standout: float, votes: Votes | None) -> dict[tuple[str, str], float]:
        """What each proposed pair promises, where the two photographs are that much nearer than strangers."""
        options = {"neighbours": count, "max_distance": 2.0, "hash_bits": 0}
        hubness = np.full(count, cosine[0, 1] - standout)
        matcher = Matcher(half, hashes, np.full(count, 100), votes=votes, hubness_M=hubness, **options)
        found = matcher({"node": np.arange(count)})
        at = [(names[a], names[b]) for a, b in zip(found["left"].tolist(), found["right"].tolist(), strict=True)]
        return dict(zip(at, found["promise"].tolist(), strict=True))

    pair = (names[0], names[1])
    assert set(promised(standout=-1.0, votes=None).values()) == {SURE}, "without votes every neighbour is worth a look"
    assert pair not in promised(standout=-0.1, votes=votes), "no nearer than strangers, and hardly a keypoint in common"
    near, nearer = (promised(standout=by, votes=votes)[pair] for by in (0.2, 0.3))
    assert nearer - near == pytest.approx(0.6, abs=0.02), "the nearer its vectors, the more a pair promises"
    assert near < SURE
    crowd, most, ballot = 0.1, 3.0, votes.ballot(np.arange(count), side=0)
    monkeypatch.setattr(match, "_MOST_VOTES", most)
    found = promised(standout=float(cosine[0, 1]) - crowd, votes=votes)
    heard = {}
    for left, right in found:
        at = np.array([[names.index(left), names.index(right)], [names.index(right), names.index(left)]])
        heard[left, right] = ballot.of(*at.T).max()
        if not votes.silent(at[0]).any() and found[left, right] < SURE:
            expected = min(heard[left, right], most) + 6.0 * (cosine[*at[0]] - crowd)
            assert found[left, right] == pytest.approx(expected, abs=0.02), "so many votes at most, and no floor"
            assert found[left, right] >= ASKED
    assert min(heard.values()) < most < max(heard.values())
    monkeypatch.setattr(match, "LOUD", 1.5)
    loud = promised(standout=-1.0, votes=votes)
    assert set(loud.values()) == {SURE}, "so far apart, and still sure"
    louder = {pair for pair in found if heard[pair] >= 1.5}
    assert louder and louder <= loud.keys()
    monkeypatch.undo()
    flat = names.index("~flat")
    for row in (0, 5):
        at = float(cosine[0, 1] - cosine[row, flat])
        silent = promised(standout=at, votes=votes)
        assert silent[names[row], "~flat"] == pytest.approx(1.0, abs=0.02), "what has no keypoints cannot vote"
        assert (names[row], "~flat") not in promised(standout=at - 0.1, votes=votes)
