"""Pictures a browser can show: small upright JPEG previews, and the pair as the network aligned it.

Only previews ever reach Label Studio. They are made of files below the given roots, links resolved, and only if their
bytes are still the ones the pair is about: a person judges what the decision will name.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np

from ndd.config import DecodeLimits
from ndd.errors import DecodeError, InputError
from ndd.explain import aligned
from ndd.files import atomic_path, make_directory
from ndd.images import Pixels, decode, fit_within, read_file, to_square
from ndd.model import checkpoint
from ndd.model.directory import describe, resolve
from ndd.model.siamese import SiameseEmbedder
from ndd.types import ImageId, image_id

__all__ = ["PictureRefused", "Previews", "inside"]

_SIDE = 900
"""Longer side of a preview, pixels; smaller pictures stay as they are."""
_QUALITY = 90
_GAP = 12
_MINIMUM = 2 * 256
"""Shorter side down to which large JPEGs may be decoded at a reduced scale."""


class PictureRefused(InputError):
    """A picture cannot be put before a person."""


class Previews:
    """Makes previews below `folder`; one that is there is not made again.

    roots: folders (or single files) whose pictures may be shown. model: the model directory that aligns pairs; None for the
    champion.
    """

    def __init__(
        self, folder: Path, *, roots: Sequence[str | os.PathLike[str]], model: str | os.PathLike[str] | None = None
    ) -> None:
        self.folder = folder
        self._roots = tuple(os.path.realpath(root) for root in roots)
        self._directory = describe(resolve(model))
        self._limits = DecodeLimits()
        self._network: SiameseEmbedder | None = None
        make_directory(folder)

    def picture(self, id: ImageId, uri: str) -> Path:
        """`folder/ID.jpg`, showing the picture `id` that lies at `uri`. Raises PictureRefused."""
        target = self.folder / f"{id}.jpg"
        # Asked even where the preview is there: the roots may be others than last time.
        inside(uri, self._roots)
        if not target.is_file():
            self._write(target, fit_within(self._pixels(id, uri), _SIDE))
        return target

    def together(self, pair_id: str, pictures: Iterable[tuple[ImageId, str]]) -> Path:
        """`folder/PAIR-MODEL.jpg`, the two pictures as the spatial transformer shows them. Raises PictureRefused."""
        target = self.folder / f"{pair_id}-{self._directory.embedding_digest[:8]}.jpg"
        if not target.is_file():
            side = self._directory.config.image_size
            left, right = (to_square(self._pixels(id, uri), side) for id, uri in pictures)
            first, second = aligned(self._model(), (left, right))
            gap = np.full((first.shape[0], _GAP, 3), 255, np.uint8)
            self._write(target, np.hstack([first, gap, second]))
        return target

    def _pixels(self, id: ImageId, uri: str) -> Pixels:
        place = inside(uri, self._roots)
        try:
            content = read_file(place, limits=self._limits)
            if image_id(content) != id:
                raise PictureRefused(f"{uri}: changed since the pair was found; run find again")
            return decode(content, limits=self._limits, min_side=_MINIMUM).pixels
        except DecodeError as error:
            raise PictureRefused(f"{uri}: {error.reason}; run find again") from None

    def _write(self, target: Path, pixels: Pixels) -> None:
        bgr = np.ascontiguousarray(pixels[:, :, ::-1])
        content = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()
        with atomic_path(target) as temporary:
            temporary.write_bytes(content)

    def _model(self) -> SiameseEmbedder:
        if self._network is None:
            self._network = checkpoint.load(self._directory.directory).model
        return self._network


def inside(uri: str, roots: Sequence[str]) -> str:
    """The real path of `uri`, every link resolved, if it lies below one of `roots` (real paths), else PictureRefused."""
    if "://" in uri:
        raise PictureRefused(f"{uri}: not a file of this machine; give a find run over the files themselves")
    place = os.path.realpath(uri)
    for root in roots:
        if place == root or place.startswith(os.path.join(root, "")):
            return place
    raise PictureRefused(f"{uri}: lies outside the folders that may be shown; add its folder with --root")
