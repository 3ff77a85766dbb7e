"""Packs: the same files give the same bytes, nothing is lost silently, half a pack is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ndd.data.pack import load_pack, square_of, write_pack
from ndd.data.scan import scan
from ndd.errors import InputError, NothingReadable, SchemaError
from ndd.types import image_id
from tests.ndd.pictures import encode, photo


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "album"
    (root / "more").mkdir(parents=True)
    for i in range(5):
        (root / f"{i}.png").write_bytes(encode(np.roll(photo(), 7 * i, axis=1), "PNG"))
    (root / "more" / "a.jpg").write_bytes(encode(photo(), "JPEG", quality=90))
    (root / "copy of 2.png").write_bytes((root / "2.png").read_bytes())
    (root / "broken.jpg").write_bytes(encode(photo(), "JPEG")[:700])
    return root


def test_what_is_in_it(folder: Path, tmp_path: Path) -> None:
    sources, _ = scan([folder])
    pack = write_pack(sources, tmp_path / "pack", 24)
    # In the order of the paths; the second file with the bytes of "2.png" is left out, and it is the later path.
    assert pack.paths == ("0.png", "1.png", "2.png", "3.png", "4.png", "more/a.jpg")
    assert pack.images.shape == (6, 24, 24, 3)
    assert pack.size == 24
    for row, path in enumerate(pack.paths):
        content = (folder / path).read_bytes()
        assert pack.ids[row] == image_id(content)
        np.testing.assert_array_equal(pack.images[row], square_of(content, 24))
    assert [f.path for f in pack.failures] == ["broken.jpg"]


def test_order_and_threads_change_no_byte(folder: Path, tmp_path: Path) -> None:
    sources, _ = scan([folder])
    first = write_pack(sources, tmp_path / "a", 24, threads=1)
    second = write_pack(sources[::-1], tmp_path / "b", 24, threads=4)
    assert first.digest == second.digest
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_digest_tells_size_and_content(folder: Path, tmp_path: Path) -> None:
    sources, _ = scan([folder])
    digests = {write_pack(sources, tmp_path / "a", 24).digest, write_pack(sources, tmp_path / "b", 16).digest}
    (folder / "0.png").unlink()
    digests.add(write_pack(scan([folder])[0], tmp_path / "c", 24).digest)
    assert len(digests) == 3


def test_it_is_mapped_not_read(folder: Path, tmp_path: Path) -> None:
    pack = write_pack(scan([folder])[0], tmp_path / "pack", 24)
    assert isinstance(pack.images, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        pack.images[0] = 0


def test_nothing_readable(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    with pytest.raises(NothingReadable, match=r"a\.jpg"):
        write_pack(scan([tmp_path])[0], tmp_path / "pack", 24)
    with pytest.raises(InputError, match="no complete pack"):
        load_pack(tmp_path / "pack")


def test_half_a_pack_is_none(folder: Path, tmp_path: Path) -> None:
    pack = write_pack(scan([folder])[0], tmp_path / "pack", 24)
    said = (pack.directory / "pack.json").read_text()
    (pack.directory / "pack.json").unlink()
    with pytest.raises(InputError, match="no complete pack"):
        load_pack(pack.directory)
    (pack.directory / "pack.json").write_text(said.replace('"pictures": 6', '"pictures": 7'))
    with pytest.raises(SchemaError, match="7 pictures"):
        load_pack(pack.directory)
    (pack.directory / "pack.json").write_text("{")
    with pytest.raises(SchemaError, match="not a readable pack"):
        load_pack(pack.directory)
