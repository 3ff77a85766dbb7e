"""What the detector knows of one picture, and the same as bytes: all that comparing needs, without the picture.

The packed form is exact (`match` gives the same answer, bit for bit) and takes about 28 kB, of which keypoints are all
but one. Layout, little endian; zstd is Facebook's Zstandard (RFC 8878), level 1:

    b"NDDP" · version u8 · CRC-32 of all that follows u32
    id 32 bytes · quality u8 · flat u8 · dim u16 · facts' length u32 · keypoints u32 · thumb rows u8, columns u8 ·
        width u32 · height u32 · body's length u32
    vector dim × f16 · hashes 256 bytes · facts JSON · body: zstd of points, scales, angles, descriptors, thumb
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ndd.errors import SchemaError
from ndd.images import Pixels
from ndd.types import ImageId
from ndd.verify.keypoints import Keypoints, extract

__all__ = ["KnownPicture", "vector_of"]

Half = NDArray[np.float16]

_MAGIC, _VERSION = b"NDDP", 1
_START = struct.Struct("<4sBI")
_HEAD = struct.Struct("<32sBBHIIBBIII")
_HASHES = 256
_ARRAYS = (
    ("points", np.dtype("<f4"), 2),
    ("scales", np.dtype("<f4"), 1),
    ("angles", np.dtype("<f4"), 1),
    ("descriptors", np.dtype("u1"), 128),
)
_PER_KEYPOINT = sum(kind.itemsize * width for _, kind, width in _ARRAYS)


class KnownPicture:
    """One picture as the detector sees it. Made by `Detector.look` or `unpack`, or from its parts.

    id: sha256 of its bytes. vector: (1, D) float16. hashes: (8, 32) uint8, PDQ in its dihedral forms. facts: `quality`
    (PDQ's, 0…100), `flat` (a single colour), and of `look` also width, height, format and the like. canvas: the square
    that the network saw, None if it was unpacked. Safe to share between threads.
    """

    __slots__ = ("_keys", "_pixels", "canvas", "facts", "hashes", "id", "vector")

    def __init__(
        self,
        *,
        id: ImageId,
        vector: Half,
        hashes: NDArray[np.uint8],
        facts: Mapping[str, Any],
        keys: Keypoints | Callable[[], Keypoints] | None = None,
        pixels: Callable[[], Pixels] | None = None,
        canvas: Pixels | None = None,
    ) -> None:
        """keys: the keypoints, or how to get them; None: they are extracted from the pixels when asked for. ValueError
        for another shape, and where there are neither keypoints nor pixels."""
        if vector.dtype != np.float16 or vector.ndim != 2 or len(vector) != 1:
            raise ValueError(f"a known picture's vector is (1, D) float16, got {vector.shape} {vector.dtype}")
        if hashes.dtype != np.uint8 or hashes.shape != (8, 32):
            raise ValueError(f"a known picture's hashes are (8, 32) uint8, got {hashes.shape} {hashes.dtype}")
        if keys is None and pixels is None:
            raise ValueError("a known picture needs its keypoints or its pixels")
        self.id, self.vector, self.hashes, self.canvas = id, vector, hashes, canvas
        self.facts: Mapping[str, Any] = MappingProxyType(dict(facts))
        self._keys, self._pixels = keys, pixels

    def __repr__(self) -> str:
        return f"KnownPicture({self.id[:12]}…)"

    @property
    def pixels(self) -> Pixels | None:
        """(H, W, 3) uint8 at the scale that every step but the network sees; None if it was unpacked."""
        return None if self._pixels is None else self._pixels()

    @property
    def keys(self) -> Keypoints:
        """The keypoints, extracted at the first call. Two threads asking at once both do it, with the same result."""
        keys = self._keys
        if keys is None:
            assert self._pixels is not None
            keys = extract(self._pixels())
        elif not isinstance(keys, Keypoints):
            keys = keys()
        self._keys = keys
        return keys

    def pack(self) -> bytes:
        """Everything but canvas and pixels as bytes; extracts the keypoints if that is still to be done."""
        keys = self.keys
        facts = {name: value for name, value in self.facts.items() if name not in ("quality", "flat")}
        said = json.dumps(facts, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
        parts = [np.ascontiguousarray(getattr(keys, name), kind).tobytes() for name, kind, _ in _ARRAYS]
        body = _codec().compress(b"".join([*parts, np.ascontiguousarray(keys.thumb).tobytes()]), asbytes=True)
        vector = np.ascontiguousarray(self.vector, "<f2")
        head = _HEAD.pack(
            bytes.fromhex(self.id),
            int(self.facts["quality"]),
            bool(self.facts["flat"]),
            vector.shape[1],
            len(said),
            len(keys),
            *keys.thumb.shape,
            keys.width,
            keys.height,
            len(body),
        )
        rest = b"".join([head, vector.tobytes(), self.hashes.tobytes(), said, body])
        return _START.pack(_MAGIC, _VERSION, zlib.crc32(rest)) + rest

    @classmethod
    def unpack(cls, data: bytes) -> KnownPicture:
        """The picture that `pack` wrote; its keypoints are unpacked when they are asked for. Raises SchemaError."""
        head = _checked(data)
        sha, quality, flat, dim, said, count, rows, columns, width, height, size = head
        at = _START.size + _HEAD.size
        vector = np.frombuffer(data, "<f2", dim, at).astype(np.float16).reshape(1, -1)
        at += 2 * dim
        hashes = np.frombuffer(data, np.uint8, _HASHES, at).reshape(8, 32)
        at += _HASHES
        facts = {"quality": quality, "flat": bool(flat), **json.loads(data[at : at + said])}
        body = data[at + said : at + said + size]
        shape = (rows, columns)

        def keys() -> Keypoints:
            return _keypoints(body, count, shape, (width, height))

        return cls(id=ImageId(sha.hex()), vector=vector, hashes=hashes, facts=facts, keys=keys)


def vector_of(data: bytes) -> tuple[ImageId, Half, NDArray[np.uint8], int]:
    """What an index needs of a packed picture: id, (D,) vector, (32,) hash of the picture as it is, quality.

    Raises SchemaError for bytes that `KnownPicture.pack` did not write.
    """
    sha, quality, _, dim, *_ = _checked(data)
    at = _START.size + _HEAD.size
    vector = np.frombuffer(data, "<f2", dim, at).astype(np.float16)
    return ImageId(sha.hex()), vector, np.frombuffer(data, np.uint8, 32, at + 2 * dim), quality


def _checked(data: bytes) -> tuple[Any, ...]:
    """The head of a packed picture whose checksum fits."""
    if len(data) < _START.size + _HEAD.size or data[:4] != _MAGIC:
        raise SchemaError(f"{len(data)} bytes that are no packed picture; give what KnownPicture.pack returned")
    _, version, check = _START.unpack_from(data)
    if version != _VERSION:
        raise SchemaError(f"a packed picture of version {version}, this ndd reads {_VERSION}; add the picture again")
    if zlib.crc32(memoryview(data)[_START.size :]) != check:
        raise SchemaError("a packed picture whose checksum does not fit: it was damaged; add the picture again")
    return _HEAD.unpack_from(data, _START.size)


def _keypoints(body: bytes, count: int, shape: tuple[int, int], size: tuple[int, int]) -> Keypoints:
    raw = _codec().decompress(body, count * _PER_KEYPOINT + shape[0] * shape[1], asbytes=True)
    values: dict[str, Any] = {}
    at = 0
    for name, kind, width in _ARRAYS:
        flat = np.frombuffer(raw, kind, count * width, at)
        values[name] = flat if width == 1 else flat.reshape(-1, width)
        at += flat.nbytes
    thumb = np.frombuffer(raw, np.uint8, shape[0] * shape[1], at).reshape(shape)
    return Keypoints(**values, thumb=thumb, width=size[0], height=size[1])


def _codec() -> Any:
    # Made anew each time: a codec keeps a context that threads must not share, and costs a microsecond.
    return pa.Codec("zstd", compression_level=1)
