"""The bytes of pictures, by content: kept so that an index can move to another embedding, and people can see a pair."""

from __future__ import annotations

from pathlib import Path

from ndd.errors import StoreError
from ndd.files import atomic_path, make_directory
from ndd.types import ImageId, image_id

__all__ = ["Vault"]


class Vault:
    """Files below `root`, named by the sha256 of what is in them; a file is whole or absent."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, id: ImageId) -> Path:
        """Where the picture is, if it is there."""
        return self.root / id[:2] / id

    def put(self, content: bytes) -> Path:
        """Keep a picture; durable when this returns. Raises StoreError."""
        path = self.path(image_id(content))
        if not path.exists():
            make_directory(path.parent)
            with atomic_path(path) as temporary:
                temporary.write_bytes(content)
        return path

    def get(self, id: ImageId) -> bytes | None:
        """The picture, None if it is not kept. Raises StoreError for one that was changed."""
        try:
            content = self.path(id).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"{self.path(id)}: cannot be read ({error.strerror})") from error
        if image_id(content) != id:
            raise StoreError(f"{self.path(id)}: is not the picture it is named after; remove it")
        return content

    def drop(self, id: ImageId) -> None:
        """Forget a picture."""
        self.path(id).unlink(missing_ok=True)
