"""What a glance makes of two pictures is learnt from proposals of a real search."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ndd.errors import UsageError
from ndd.verify.glance import FEATURES
from pipelines.album import Photo, build_album
from pipelines.glances import Proposals, learn, proposals
from tests.samples import photographs


def drawn(count: int) -> Proposals:
    """Proposals whose log odds are −2 + 6 · worth − 3 · disorder."""
    rng = np.random.default_rng(0)
    features = rng.random((count, len(FEATURES)))
    odds = -2.0 + 6.0 * features[:, FEATURES.index("worth")] - 3.0 * features[:, FEATURES.index("disorder")]
    return Proposals(features=features, copies=rng.random(count) < 1 / (1 + np.exp(-odds)), sure=(0, 0), missed=0)


def test_learns_what_the_proposals_say() -> None:
    said = learn(drawn(20_000))
    assert said["worth"] == pytest.approx(6.0, abs=0.4)
    assert said["disorder"] == pytest.approx(-3.0, abs=0.4)
    assert said["bias"] == pytest.approx(-2.0, abs=0.4)
    assert max(abs(said[name]) for name in FEATURES if name not in ("worth", "disorder")) < 0.4
    assert said["copies"] + said["strangers"] == 20_000


def test_too_few_of_a_kind_teach_nothing() -> None:
    seen = drawn(400)
    strangers = Proposals(features=seen.features, copies=np.zeros(400, bool), sure=(9, 9), missed=0)
    with pytest.raises(UsageError, match=r"0 copies and 400 strangers were proposed, 50 of each are wanted"):
        learn(strangers)


def test_takes_down_every_proposal_of_a_search(tmp_path: Path) -> None:
    photos = [Photo.of_array(name, pixels) for name, pixels in photographs().items()]
    blank = Photo.of_array("blank", np.full((90, 120, 3), 140, np.uint8))  # flat: it has no voters
    album = build_album(photos, tmp_path / "album", copies=3, seed=1, singles=[blank])
    seen = proposals(album, work=tmp_path / "found", model=None)
    sizes = [len(images) for images in album.groups().values()]
    copies = sum(size * (size - 1) // 2 for size in sizes)
    assert int(seen.copies.sum()) + seen.sure[0] + seen.missed == copies
    assert seen.sure[0] > copies // 4
    assert seen.missed <= copies // 20
    assert seen.features.shape == (len(seen.copies), len(FEATURES))
    assert np.isfinite(seen.features).all()
    assert not (tmp_path / "found" / "pairs.parquet").exists(), "the search ends where it has told what was wanted"
