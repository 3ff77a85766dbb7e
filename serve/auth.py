"""API keys: random, scoped, hashed at rest, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import threading
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ndd.errors import ConfigError, StoreError, UsageError
from ndd.files import atomic_path, make_directory

__all__ = ["SCOPES", "Key", "KeyRing", "load_keys", "make_key", "new_secret", "save_keys"]

SCOPES = ("read", "write", "admin")
"""`read` compares and queries, `write` also changes the index and records decisions, `admin` may do everything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """What is kept of a key: not the key.

    digest: HMAC-SHA256 of the key under `salt`, both hexadecimal. A key made here has 256 random bits, so a fast hash is
    as good as a slow one, and a wrong key costs the server nothing.
    """

    name: str
    scopes: tuple[str, ...]
    salt: str
    digest: str

    def fits(self, secret: str) -> bool:
        """True if this is the key; takes the same time for any secret of one length."""
        return hmac.compare_digest(_digest(secret, self.salt), self.digest)

    def may(self, scope: str) -> bool:
        """True if the key holds the scope or a wider one."""
        return any(SCOPES.index(held) >= SCOPES.index(scope) for held in self.scopes)


def new_secret() -> str:
    """A fresh key: 256 random bits."""
    return f"ndd_{secrets.token_urlsafe(32)}"


def make_key(secret: str, *, name: str, scopes: Iterable[str]) -> Key:
    """What to keep of `secret`. Raises UsageError for a scope that does not exist or a key nobody should use."""
    held = tuple(scopes)
    if not held or set(held) - set(SCOPES):
        raise UsageError(f"scopes {', '.join(held) or 'none'}: give some of {', '.join(SCOPES)}")
    if len(secret) < 16 or not secret.isascii() or not secret.isprintable() or " " in secret:
        raise UsageError("NDD_KEY: a key has at least 16 printable ASCII characters and no spaces")
    salt = secrets.token_hex(16)
    return Key(name=name, scopes=held, salt=salt, digest=_digest(secret, salt))


def load_keys(path: Path) -> list[Key]:
    """The keys of a file; none if there is no file. Raises ConfigError for a file that is something else."""
    try:
        rows = json.loads(path.read_bytes())
        keys = [_key(row) for row in rows]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            f"{path}: no file of keys ({type(error).__name__}); make it with `python -m serve keys`"
        ) from None
    return keys


def save_keys(path: Path, keys: Sequence[Key]) -> None:
    """Write the keys, readable by the owner alone. Raises StoreError."""
    make_directory(path.parent)
    try:
        with atomic_path(path) as temporary:
            temporary.touch(mode=0o600)
            temporary.write_text(json.dumps([asdict(key) for key in keys], indent=1), encoding="utf-8")
    except OSError as error:
        raise StoreError(f"{path}: cannot be written ({error.strerror}); name another with keys=…") from error


class KeyRing:
    """The keys a server accepts: those it was started with, and those of a file, which is read again when it changes."""

    def __init__(self, keys: Sequence[Key], *, path: Path | None = None) -> None:
        self._given = tuple(keys)
        self._path = path
        self._read: tuple[Key, ...] = ()
        self._stamp: tuple[int, int, int] | None = None
        self._mutex = threading.Lock()

    def find(self, secret: str) -> Key | None:
        """The key that `secret` is. Every key is tried whichever fits: the time tells nothing."""
        found = None
        for key in (*self._given, *self._from_file()):
            if key.fits(secret):
                found = key
        return found

    def _from_file(self) -> tuple[Key, ...]:
        if self._path is None:
            return ()
        try:
            status = os.stat(self._path)
        except OSError:
            stamp = None
        else:
            stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
        with self._mutex:
            if stamp != self._stamp:
                self._read = () if stamp is None else tuple(load_keys(self._path))
                self._stamp = stamp
            return self._read


def _key(row: dict[str, Any]) -> Key:
    scopes = tuple(row["scopes"])
    if not scopes or set(scopes) - set(SCOPES):
        raise ValueError(scopes)
    return Key(name=str(row["name"]), scopes=scopes, salt=str(row["salt"]), digest=str(row["digest"]))


def _digest(secret: str, salt: str) -> str:
    return hmac.new(bytes.fromhex(salt), secret.encode("utf-8", "replace"), hashlib.sha256).hexdigest()
