"""A picture is the same picture wherever it lies: beside others in a folder, in a tar, in Parquet, in an object store."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ndd.config import DecodeLimits
from ndd.data.manifest import ManifestRow, read_manifest, write_manifest
from ndd.errors import DecodeError, InputError, UsageError
from ndd.training.plan import make_batch, plan_epoch
from ndd.types import image_id
from pipelines.sources import list_sources, read_source
from pipelines.streams import PictureStore
from tests.bucket import bucket
from tests.ndd.pictures import encode, photo
from tests.ndd.training.builders import tiny

PICTURES = {f"sub/{i} ü%20#.png": encode(np.roll(photo(), 9 * i, axis=1), "PNG") for i in range(7)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("album with space")
    (root / "plain" / "sub").mkdir(parents=True)
    (root / "other").mkdir()
    for name, content in PICTURES.items():
        (root / "plain" / name).write_bytes(content)
    (root / "plain" / "notes.txt").write_text("no picture")
    with tarfile.open(root / "other" / "shard #1.tar", "w") as tar:
        for name, content in [*PICTURES.items(), ("sub/0.json", b"{}")]:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    flat = pa.table({"path": list(PICTURES), "bytes": list(PICTURES.values()), "label": [0] * len(PICTURES)})
    pq.write_table(flat, root / "other" / "flat.parquet", row_group_size=3)
    nested = pa.table({"image": [{"bytes": content, "path": name} for name, content in PICTURES.items()]})
    pq.write_table(nested, root / "other" / "nested.parquet", row_group_size=2)
    return root


def contents(roots: list[str | Path]) -> dict[str, bytes]:
    listed, failures = list_sources(roots)
    assert failures == []
    assert [one.path for one in listed] == sorted({one.path for one in listed})
    return {one.path: read_source(one.uri) for one in listed}


@pytest.mark.parametrize("place", ["plain", "other/shard #1.tar", "other/flat.parquet", "other/nested.parquet"])
@pytest.mark.parametrize("url", [False, True])
def test_every_picture_by_its_name(folder: Path, place: str, url: bool) -> None:
    root = f"file://{folder / place}" if url else str(folder / place)
    assert contents([root]) == PICTURES


def test_a_folder_of_containers_by_url_and_several_roots(folder: Path) -> None:
    found = contents([f"file://{folder / 'other'}", folder / "plain"])
    prefixes = [f"file://{folder / 'other'}/{name}/" for name in ("flat.parquet", "nested.parquet", "shard #1.tar")]
    prefixes.append(f"{folder / 'plain'}/")
    assert found == {prefix + name: content for prefix in prefixes for name, content in PICTURES.items()}


def test_an_object_store(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    tar = (folder / "other" / "shard #1.tar").read_bytes()
    objects = {f"photos/{name}": content for name, content in PICTURES.items()} | {
        "photos/x.tar": tar,
        "else.png": b"?",
    }
    with bucket(objects, name="album") as options:
        found = contents([f"s3://album/photos{options}"])
        assert found == {**PICTURES, **{f"x.tar/{name}": content for name, content in PICTURES.items()}}
        with pytest.raises(UsageError, match="no such file, folder or prefix"):
            list_sources([f"s3://album/nothing{options}"])
        with pytest.raises(DecodeError):
            read_source(f"s3://album/photos/gone.png{options}")


def test_any_file_system_that_fsspec_knows() -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    for name, content in PICTURES.items():
        memory.pipe_file(f"/bucket/photos/{name}", content)
    assert contents(["memory://bucket/photos"]) == PICTURES
    with pytest.raises(UsageError, match="nonesuch"):
        list_sources(["nonesuch://bucket/photos"])


def test_what_cannot_be_used_is_named(folder: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "packed.tar", "w:gz"):
        pass
    (tmp_path / "text.parquet").write_bytes(b"PAR1 not really")
    pq.write_table(pa.table({"n": [1]}), tmp_path / "numbers.parquet")
    for name, message in (
        ("packed.tar", "uncompressed tar"), ("text.parquet", "readable Parquet"), ("numbers.parquet", "which column"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=f"{name}.*{message}"):
            list_sources([tmp_path / name])
    with pytest.raises(UsageError, match="no such file"):
        list_sources([f"file://{tmp_path}/nowhere"])
    listed, _ = list_sources([folder / "other" / "shard #1.tar"])
    with pytest.raises(DecodeError, match="more than the limit"):
        read_source(listed[0].uri, limits=DecodeLimits(max_bytes=10))
    with pytest.raises(DecodeError, match="the file has changed"):
        read_source(f"file://{quote(str(folder / 'other' / 'shard #1.tar'))}#offset=512&size=99999999")
    holes = tmp_path / "holes.parquet"
    pq.write_table(pa.table({"bytes": pa.array([b"x", None], pa.binary())}), holes)
    assert [one.path for one in list_sources([holes])[0]] == ["row-00000000", "row-00000001"]
    with pytest.raises(DecodeError, match="holds no bytes"):
        read_source(list_sources([holes])[0][1].uri)


def test_names_that_come_twice_get_a_number(tmp_path: Path) -> None:
    one, two = list(PICTURES.values())[:2]
    pq.write_table(pa.table({"path": ["a.png", "a.png"], "bytes": [one, two]}), tmp_path / "twice.parquet")
    assert contents([tmp_path / "twice.parquet"]) == {"a.png": one, "a.png#2": two}


@pytest.mark.parametrize("place", ["other/shard #1.tar", "other/nested.parquet"])
def test_a_manifest_of_them_feeds_training(folder: Path, tmp_path: Path, place: str) -> None:
    stores = {}
    for name in ("plain", place):
        listed, _ = list_sources([folder / name])
        rows = [
            ManifestRow(
                id=image_id(PICTURES[one.path]),
                uri=one.uri,
                path=one.path,
                size=one.size,
                width=1,
                height=1,
                format="PNG",
            )
            for one in listed
        ]
        manifest = write_manifest(tmp_path / f"{len(stores)}.parquet", rows)
        assert [row.uri for row in read_manifest(manifest)] == [one.uri for one in listed]
        stores[name] = PictureStore(path=manifest, size=40).open()
    plan = plan_epoch(tiny(loss__kind="triplet"), np.arange(7), epoch=0)
    ours, theirs = (make_batch(plan, plan.rows(0), stores[name]) for name in (place, "plain"))
    assert all(np.array_equal(a, b) for a, b in zip(ours.views, theirs.views, strict=True))
