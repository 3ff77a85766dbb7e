"""A pack carried in parts arrives whole or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from ndd.data.pack import Pack, load_pack, write_pack
from ndd.data.parts import PART_BYTES, is_parts, join_parts, write_parts
from ndd.data.scan import scan
from ndd.errors import InputError, SchemaError
from tests.ndd.pictures import encode, photo


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    root = tmp_path_factory.mktemp("album")
    for i in range(40):
        (root / f"{i:02} é.png").write_bytes(encode(np.roll(photo(), 5 * i, axis=1), "PNG"))
    return write_pack(scan([root])[0], root / "pack", 96)


def test_parts_keep_to_the_limit_and_make_up_the_pack(pack: Pack, tmp_path: Path) -> None:
    limit = 100_000
    parts = write_parts(pack, tmp_path / "parts", limit=limit)
    assert len(parts) > 2
    assert all(part.stat().st_size <= limit for part in parts)
    assert sum(part.stat().st_size for part in parts[:-1]) > 0.15 * limit * (len(parts) - 1)
    assert is_parts(tmp_path / "parts")
    joined = join_parts(tmp_path / "parts", tmp_path / "joined")
    assert (joined.ids, joined.paths, joined.size) == (pack.ids, pack.paths, 96)
    difference = np.abs(joined.images.astype(int) - pack.images.astype(int))
    assert difference.mean() < 4  # lossy, by little
    assert load_pack(tmp_path / "joined").digest == joined.digest


def test_the_usual_limit() -> None:
    assert PART_BYTES <= 36 * 2**20


def test_a_lost_or_damaged_part_is_noticed(pack: Pack, tmp_path: Path) -> None:
    parts = write_parts(pack, tmp_path / "parts", limit=100_000)
    whole = parts[1].read_bytes()
    parts[1].write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(SchemaError, match="part-001.parquet: is not what was written"):
        join_parts(tmp_path / "parts", tmp_path / "joined")
    parts[1].unlink()
    with pytest.raises(InputError, match="part-001.parquet: missing"):
        join_parts(tmp_path / "parts", tmp_path / "joined")
    parts[1].write_bytes(whole)
    said = json.loads((tmp_path / "parts" / "parts.json").read_text())
    (tmp_path / "parts" / "parts.json").write_text(json.dumps(said | {"pictures": 99}))
    with pytest.raises(SchemaError, match=f"{len(pack.ids)} pictures, parts.json says 99"):
        join_parts(tmp_path / "parts", tmp_path / "joined")
    (tmp_path / "parts" / "parts.json").unlink()
    with pytest.raises(InputError, match="no parts.json"):
        join_parts(tmp_path / "parts", tmp_path / "joined")


def test_one_picture_too_large_for_a_part(pack: Pack, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="store smaller squares"):
        write_parts(pack, tmp_path / "parts", limit=66_000)
    shutil.rmtree(tmp_path / "parts")
