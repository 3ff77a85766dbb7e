"""Streams on Ray Data: the plan's examples, in its order, bit for bit, whoever makes them and however many share them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ndd.data.manifest import ManifestRow, write_manifest
from ndd.data.pack import write_pack
from ndd.data.scan import Source
from ndd.errors import StoreError, UsageError
from ndd.training.plan import Batch, make_batch, plan_epoch
from ndd.training.workers import Share
from ndd.types import image_id
from pipelines import streams
from pipelines.session import ray_session
from pipelines.streams import PictureStore, batches_from, from_rows, pair_stream, to_rows, triplet_stream
from tests.ndd.training.builders import tiny, tiny_pictures

# Ray warns of settings of its own that it sets itself.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")

ROWS = np.arange(3, 21)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PictureStore]:
    """The same pictures as a pack and as a manifest of files."""
    root = tmp_path_factory.mktemp("pictures")
    rows = []
    for i, pixels in enumerate(tiny_pictures(24, 48)):
        path = root / f"{i:02}.png"
        Image.fromarray(pixels).save(path)
        rows.append(
            ManifestRow(
                id=image_id(path.read_bytes()), uri=str(path), path=path.name, size=path.stat().st_size,
                width=48, height=48, format="PNG",
            )
        )  # fmt: skip
    write_pack([Source(row.path, row.uri) for row in rows], root / "pack", 40)
    write_manifest(root / "manifest.parquet", rows)
    return {
        "pack": PictureStore(path=root / "pack", size=40),
        "manifest": PictureStore(path=root / "manifest.parquet", size=40),
    }


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    with ray_session(workers=2):
        yield


def same(batch: Batch, expected: Batch) -> None:
    ours = [*batch.views, *batch.view_to_picture, *batch.pose, batch.labels, batch.pictures, batch.partners]
    theirs = [
        *expected.views,
        *expected.view_to_picture,
        *expected.pose,
        expected.labels,
        expected.pictures,
        expected.partners,
    ]
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


@pytest.mark.parametrize("kind", ["contrastive", "triplet"])
def test_columns_and_back(kind: str) -> None:
    plan = plan_epoch(tiny(loss__kind=kind), ROWS, epoch=0)
    batch = make_batch(plan, plan.rows(0), tiny_pictures())
    columns = to_rows(batch)
    roles = {"left", "right"} if kind == "contrastive" else {"anchor", "positive", "negative"}
    assert roles <= set(columns)
    assert ("label" in columns) == (kind == "contrastive")
    for column in columns.values():
        column.setflags(write=False)  # as they come out of the object store
    same(from_rows(columns), batch)


def test_the_wrong_stream_is_refused(stores: dict[str, PictureStore]) -> None:
    with pytest.raises(UsageError, match="triplet"):
        pair_stream(tiny(loss__kind="triplet"), stores["pack"], ROWS, epoch=0, share=Share())
    with pytest.raises(UsageError, match="contrastive"):
        triplet_stream(tiny(loss__kind="contrastive"), stores["pack"], ROWS, epoch=0, share=Share())


@pytest.mark.usefixtures("ray")
@pytest.mark.parametrize("source", ["pack", "manifest"])
def test_pairs_are_those_of_the_plan(stores: dict[str, PictureStore], source: str) -> None:
    config = tiny(loss__kind="contrastive", examples=26)  # six steps: two tasks; two examples are left over
    plan = plan_epoch(config, ROWS, epoch=1)
    images = stores["pack"].open()
    rows: list[dict[str, Any]] = list(pair_stream(config, stores[source], ROWS, epoch=1, share=Share()).iter_rows())
    assert len(rows) == 24
    whole = to_rows(make_batch(plan, slice(0, 24), images))
    for i, row in enumerate(rows):
        assert set(row) == set(whole)
        for name, column in whole.items():
            np.testing.assert_array_equal(row[name], column[i], err_msg=f"row {i}, {name}")
    assert {row["label"] for row in rows} == {0, 1}


@pytest.mark.usefixtures("ray")
def test_triplets_are_shared_by_workers_without_gap_or_overlap(stores: dict[str, PictureStore]) -> None:
    config = tiny(loss__kind="triplet", examples=20)
    plan = plan_epoch(config, ROWS, epoch=0)
    images = stores["pack"].open()
    parts = [
        list(triplet_stream(config, stores["pack"], ROWS, epoch=0, share=Share(rank=r, workers=2)).iter_rows())
        for r in range(2)
    ]
    for step in range(plan.steps):
        whole = to_rows(make_batch(plan, plan.rows(step), images))
        together = [row for part in parts for row in part[2 * step : 2 * step + 2]]
        for name in ("anchor", "positive", "negative", "picture", "negative_pose"):
            np.testing.assert_array_equal(np.stack([row[name] for row in together]), whole[name], err_msg=name)


@pytest.mark.usefixtures("ray")
@pytest.mark.parametrize("first", [0, 4, 5])
def test_batches_go_on_from_any_step_and_are_made_elsewhere(stores: dict[str, PictureStore], first: int) -> None:
    streams._open.cache_clear()
    plan = plan_epoch(tiny(examples=24), ROWS, epoch=0)
    share = Share(rank=1, workers=2)
    batches = list(batches_from(plan, stores["pack"], share=share, first=first, tasks=2))
    assert streams._open.cache_info().currsize == 0  # this process has not looked at a picture
    assert len(batches) == 6 - first
    for step, batch in enumerate(batches, start=first):
        same(batch, make_batch(plan, plan.rows(step, rank=1, workers=2), stores["pack"].open()))
        batch.views[0].add_(1)  # memory of its own


@pytest.mark.usefixtures("ray")
def test_a_file_that_vanished_is_an_error_not_a_gap(tmp_path: Path) -> None:
    path = tmp_path / "0.png"
    rows = []
    for i, pixels in enumerate(tiny_pictures(4, 48)):
        path = tmp_path / f"{i}.png"
        Image.fromarray(pixels).save(path)
        rows.append(
            ManifestRow(
                id=image_id(path.read_bytes()), uri=str(path), path=path.name, size=1, width=48, height=48, format="PNG"
            )
        )
    write_manifest(tmp_path / "manifest.parquet", rows)
    path.unlink()
    plan = plan_epoch(tiny(), np.arange(4), epoch=0)
    store = PictureStore(path=tmp_path / "manifest.parquet", size=40)
    with pytest.raises(Exception, match="no such file"):
        list(batches_from(plan, store, share=Share()))


@pytest.mark.usefixtures("ray")
def test_starvation_is_told_not_waited_for(stores: dict[str, PictureStore]) -> None:
    """Somebody holds every CPU: without an end to its patience the stream would wait for ever."""
    import ray as r

    total = r.cluster_resources()["CPU"]

    @r.remote(num_cpus=total)
    class Hog:
        def ready(self) -> bool:
            return True

    hog = Hog.remote()
    assert r.get(hog.ready.remote())
    plan = plan_epoch(tiny(), ROWS, epoch=0)
    with pytest.raises(StoreError, match="no CPU of the cluster is free"):
        list(batches_from(plan, stores["pack"], share=Share(), patience=3.0))
    r.kill(hog)
    for thread in threading.enumerate():  # now the stream comes, nobody wants it, and its thread ends
        if thread.name == "ndd-read-ahead":
            thread.join()
