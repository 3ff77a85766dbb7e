"""Where a picture lies, as text that any table can hold.

A POSIX file name may be any bytes. Python shows the ones that are not UTF-8 as lone surrogates, which neither Parquet
nor CSV can hold, and a line feed in a name would break a line-based log. Such places are stored as `file://` URIs with
percent-encoding (RFC 8089); all others as they are. Nothing is lost either way.
"""

from __future__ import annotations

import os
import unicodedata
from urllib.parse import quote, unquote_to_bytes

__all__ = ["text_to_uri", "uri_to_text"]

_FILE = "file://"


def uri_to_text(uri: str) -> str:
    """`uri` as UTF-8 text on one line; `text_to_uri` gives it back unchanged."""
    if uri.isascii() and uri.isprintable() and not uri.startswith(_FILE):
        return uri  # nearly all: looking at each character takes longer than asking for the file's size
    if uri.startswith(_FILE) or any(unicodedata.category(c) in ("Cc", "Cs") for c in uri):
        return _FILE + quote(os.fsencode(uri))
    return uri


def text_to_uri(text: str) -> str:
    """The place that `uri_to_text` wrote down: something to open, as `os.fsdecode` would give it."""
    return os.fsdecode(unquote_to_bytes(text[len(_FILE) :])) if text.startswith(_FILE) else text
