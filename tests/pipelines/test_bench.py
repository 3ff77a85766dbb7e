"""The accuracy bench on a small album, checked against scikit-learn over all pairs."""

from __future__ import annotations

import argparse
import json
import tarfile
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score

from ndd.config import ModelConfig
from ndd.errors import UsageError
from ndd.hashing import dihedral_hashes, hamming
from ndd.images import decode
from ndd.model.checkpoint import save
from ndd.model.siamese import SiameseEmbedder
from ndd.model.teacher import MobileNetV2
from pipelines import bench
from pipelines.album import Album, Photo, build_album, read_album


def photo(name: str, seed: int) -> Photo:
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return Photo.of_array(name, np.asarray(Image.fromarray(coarse).resize((120, 90), Image.Resampling.BICUBIC)))


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Album:
    photos = [photo(f"p{i}", i) for i in range(5)]
    families = ("mirror", "compression", "crop")
    singles = [photo(f"s{i}", 100 + i) for i in range(4)]
    return build_album(photos, tmp_path_factory.mktemp("album"), copies=3, families=families, seed=1, singles=singles)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = SiameseEmbedder(ModelConfig(image_size=32, dim=16))
    return save(tmp_path_factory.mktemp("model"), network, card={"name": "random weights"})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    (folder / "weights").mkdir()
    torch.manual_seed(0)
    torch.save(MobileNetV2().state_dict(), folder / "weights" / "mobilenetv2-imagenet-fp16.pth")
    return folder


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    return bench.run(parser.parse_args([str(argument) for argument in arguments]))


def figures(tmp_path: Path, *arguments: object) -> dict[str, Any]:
    assert run("accuracy", "--work", tmp_path / "work", "--json", tmp_path / "out.json", *arguments) == 0
    content: dict[str, Any] = json.loads((tmp_path / "out.json").read_text())
    return content


def test_every_method_is_measured_and_printed(
    album: Album, model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    got = figures(tmp_path, "--album", album.root, "--model", model, "--data", data)
    assert got["album"] == {
        "name": album.root.name,
        "digest": album.digest(),
        "images": 24,
        "groups": 5,
        "pairs": 30,
    }
    assert list(got["methods"]) == ["ndd", "mobilenetv2", "pdq8", "pdq", "phash"]
    printed = capsys.readouterr().out
    for name, of in got["methods"].items():
        assert 0 < of["map"] <= 1
        assert set(of["families"]) == {"mirror", "compression", "crop"}
        assert sum(family["copies"] for family in of["families"].values()) == 15
        assert f"{name:<14}{of['map']:>9.3f}{of['micro_ap']:>9.3f}" in printed
    assert got["methods"]["pdq8"]["families"]["mirror"]["recall"]["0.99"] == 1.0
    assert got["methods"]["pdq"]["families"]["mirror"]["recall"]["0.99"] == 0.0


def test_the_figures_are_those_of_scikit_learn_over_all_pairs(album: Album, tmp_path: Path) -> None:
    got = figures(tmp_path, "--album", album.root, "--methods", "pdq8")["methods"]["pdq8"]
    hashes = [dihedral_hashes(decode((album.root / row.image).read_bytes()).pixels) for row in album.images]
    labels, scores, of_family = [], [], []
    for (a, left), (b, right) in combinations(enumerate(album.images), 2):
        labels.append(left.group == right.group)
        scores.append(-min(hamming(hashes[a], hashes[b][0]).min(), hamming(hashes[b], hashes[a][0]).min()))
        of_family.append(right.family if left.note == "original" and labels[-1] else "")
    assert got["micro_ap"] == pytest.approx(average_precision_score(labels, scores))
    threshold = got["recall"]["0.9"]["threshold"]
    accepted = np.array(scores) >= threshold
    assert np.mean(np.array(labels)[accepted]) >= 0.9
    assert got["recall"]["0.9"]["recall"] == pytest.approx(accepted[np.array(labels)].mean())
    for family, facts in got["families"].items():
        assert facts["recall"]["0.9"] == pytest.approx(accepted[np.array(of_family) == family].mean())


def test_a_tar_is_measured_like_its_folder_and_work_is_kept(album: Album, tmp_path: Path) -> None:
    packed = tmp_path / "packed.tar"
    with tarfile.open(packed, "w") as tar:
        tar.add(album.root, arcname=".")
    first = figures(tmp_path, "--album", packed, "--methods", "pdq,phash")
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("*")}
    second = figures(tmp_path, "--album", packed, "--methods", "pdq,phash")
    assert first == second
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("*")} == kept
    folder = figures(tmp_path, "--album", album.root, "--methods", "pdq,phash")
    assert folder["methods"] == first["methods"]


def test_the_vectors_are_those_of_the_search(album: Album, model: Path, tmp_path: Path) -> None:
    from ndd.config import DecodeLimits
    from ndd.model.checkpoint import load
    from ndd.stages.decode import Decoder, Reading
    from ndd.stages.embed import Embedder
    from pipelines.accuracy import embed_album

    checkpoint = load(model)
    vectors = embed_album(album, checkpoint)
    reader, embedder = Decoder(DecodeLimits(), size=32), Embedder(checkpoint)
    for row, vector in list(zip(album.images, vectors, strict=True))[::5]:
        reading = reader.attempt(row.image, str(album.root / row.image))
        assert isinstance(reading, Reading)
        np.testing.assert_array_equal(embedder.embed(reading.canvas[None])[0], vector)


def test_an_album_is_built_from_a_folder_of_photographs(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for i in range(3):
        (tmp_path / "photos" / f"p{i}.png").write_bytes(photo("", i).content)
    assert (
        run(
            "album",
            "--photos",
            tmp_path / "photos",
            "--out",
            tmp_path / "out",
            "--copies",
            2,
            "--families",
            "mirror,crop",
        )
        == 0
    )
    album = read_album(tmp_path / "out")
    assert sorted(row.family for row in album.images) == ["crop"] * 3 + ["mirror"] * 3 + ["original"] * 3


def test_wrong_usage_is_named(album: Album, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="dhash"):
        run("accuracy", "--album", album.root, "--methods", "pdq,dhash")
    with pytest.raises(UsageError, match="no-album"):
        run("accuracy", "--album", tmp_path / "no-album", "--methods", "pdq")
    monkeypatch.setenv("NDD_DATA", str(tmp_path / "no-data"))
    with pytest.raises(UsageError, match="no-data.*NDD_DATA"):
        run("accuracy")
