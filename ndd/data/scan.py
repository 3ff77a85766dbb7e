"""Which files are pictures: folders walked in a fixed order, every file under a name of its own.

What is taken: below a folder, every file whose name ends in a picture's extension (`EXTENSIONS`, any case); a file named
directly is taken whatever it is called. Hidden files are taken, hidden folders are not entered, nor are those in which
systems keep copies of pictures (`.Trash`, `@eaDir`, `__MACOSX`, `$RECYCLE.BIN`), nor macOS's `._` companions of files.
A folder named directly is always entered.

Links: one to a file counts as a file; one to a folder is followed unless that folder is walked already, so a folder is
walked once whatever leads to it, first under its real name. Loops therefore end by themselves.

Whatever ought to be a picture and cannot be opened (a broken link, a pipe, a folder without permission) is a Failure. So
is a broken link without any extension, which may have led to a folder of pictures.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ndd.errors import UsageError
from ndd.types import Failure

__all__ = ["EXTENSIONS", "Source", "decode_path", "encode_path", "scan"]

_WORDS = """
    .jpg .jpeg .jpe .jfif .mpo .png .apng .webp .gif .tif .tiff .bmp .dib
    .avif .avifs .heic .heif .heics .heifs .hif .ppm .pgm .pbm .pnm
"""
EXTENSIONS = frozenset(_WORDS.split())
"""Extensions of the formats that `ndd.images.decode` reads, in lower case."""

_NOT_ENTERED = frozenset((b"@eaDir", b"__MACOSX", b"$RECYCLE.BIN", b"System Volume Information"))


@dataclass(frozen=True, slots=True, order=True)
class Source:
    """A file to look at. path: its name in tables, see `encode_path`; uri: what to open, an absolute path of this system
    as `os.fsdecode` gives it (it may hold surrogates: do not print it, do not store it).
    """

    path: str
    uri: str


def encode_path(raw: bytes) -> str:
    """The name of a file in tables: its path with `/`, as text.

    Bytes that are not UTF-8 are written `%XX`. A percent sign of the name itself is written `%25` only where it would be
    read back as such an escape (`%80` … `%FF`, `%25`), so `100%.jpg` and `a%20b.jpg` stay as they are and no two paths
    get the same name: `decode_path` undoes it.
    """
    text = raw.decode("utf-8", "surrogateescape")
    text = re.sub(r"%(?=25|[89A-F][0-9A-F])", "%25", text)
    return re.sub("[\udc80-\udcff]", lambda match: f"%{ord(match[0]) - 0xDC00:02X}", text)


def decode_path(path: str) -> bytes:
    """The bytes that `encode_path` made `path` from."""
    return re.sub(rb"%(25|[89A-F][0-9A-F])", lambda match: bytes([int(match[1], 16)]), path.encode("utf-8"))


def scan(roots: Sequence[str | os.PathLike[str]]) -> tuple[list[Source], list[Failure]]:
    """Find the pictures under `roots`, folders or files.

    Returns the sources and the failures, each sorted by path: the POSIX path below the root, or, with several roots,
    prefixed by the root as typed. A single file as the only root goes by its own name. A file reached by two roots is
    listed once, under the one named first. The same tree gives the same lists whatever order the system lists it in.

    Raises UsageError: no root, or one that does not exist.
    """
    if isinstance(roots, str | bytes):
        raise TypeError(f"scan takes a list of folders and files, got the text {roots!r}")
    if not roots:
        raise UsageError("no folder or file was named; name at least one")
    walk = _Walk()
    for root in roots:
        walk.add_root(os.fspath(root), alone=len(roots) == 1)
    walk.follow_links()
    return sorted(walk.sources.values()), sorted(walk.failures.values(), key=lambda f: f.path)


@dataclass(slots=True)
class _Walk:
    """State of one scan. Paths are bytes: not every name is text. Files are keyed by the real path of their entry."""

    sources: dict[bytes, Source] = field(default_factory=dict)
    failures: dict[bytes, Failure] = field(default_factory=dict)
    entered: set[tuple[int, int]] = field(default_factory=set)
    links: list[tuple[bytes, bytes]] = field(default_factory=list)

    def add_root(self, typed: str, *, alone: bool) -> None:
        try:
            raw = os.fsencode(typed)
            mode = os.stat(raw).st_mode
        except (FileNotFoundError, NotADirectoryError, ValueError):
            if not typed or not os.path.islink(typed):
                raise UsageError(f"{typed!r}: there is no such file or folder; check the spelling") from None
            mode = 0
        except OSError:
            mode = 0  # it is there, but it cannot be looked at
        raw = os.fsencode(typed)
        name = b"" if alone else raw.rstrip(b"/")
        if stat.S_ISDIR(mode):
            self.enter(raw, name if alone else name + b"/")
        else:
            parent, last = os.path.split(os.path.abspath(raw))
            self.add_file(os.path.join(os.path.realpath(parent), last), name or last)

    def enter(self, folder: bytes, prefix: bytes) -> None:
        """Walk `folder` and what lies below it, links to folders left for later. prefix: its name, ending in `/`."""
        waiting = [(os.path.realpath(folder), prefix)]
        while waiting:
            folder, prefix = waiting.pop()
            try:
                status = os.stat(folder)
                if (status.st_dev, status.st_ino) in self.entered:
                    continue
                self.entered.add((status.st_dev, status.st_ino))
                with os.scandir(folder) as listing:
                    entries = sorted(listing, key=lambda entry: entry.name)
            except OSError as error:
                self.fail(folder, prefix.rstrip(b"/") or b".", f"folder not read: {_reason(error)}")
                continue
            below = list(self.look_at(entries, prefix))
            waiting.extend(reversed(below))  # so that they are walked in order

    def look_at(self, entries: Sequence[os.DirEntry[bytes]], prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Take the pictures among the entries of a folder; yields the folders among them and their prefixes."""
        for entry in entries:
            name, kind = prefix + entry.name, _kind_of(entry)
            if kind == "file":
                if _is_named_as_picture(entry.name) or _may_have_been_a_folder(entry):
                    self.add_file(entry.path, name)
            elif entry.name.startswith(b".") or entry.name in _NOT_ENTERED:
                continue
            elif kind == "folder":
                yield entry.path, name + b"/"
            else:
                self.links.append((entry.path, name + b"/"))

    def follow_links(self) -> None:
        """Enter the folders that links lead to, in the order of their names; these may hold further links."""
        while self.links:
            self.links.sort(key=lambda link: link[1], reverse=True)
            self.enter(*self.links.pop())

    def add_file(self, full: bytes, name: bytes) -> None:
        try:
            mode = os.stat(full).st_mode
        except OSError as error:
            self.fail(full, name, _reason(error))
            return
        if stat.S_ISREG(mode):
            self.sources.setdefault(full, Source(encode_path(name), os.fsdecode(full)))
        else:
            self.fail(full, name, f"not a regular file but {_kind(mode)}")

    def fail(self, full: bytes, name: bytes, reason: str) -> None:
        self.failures.setdefault(full, Failure(path=encode_path(name), stage="open", reason=reason))


def _is_named_as_picture(name: bytes) -> bool:
    extension = os.path.splitext(b"_" + name)[1]  # so that `.jpg` alone has one
    return extension.lower().decode("latin-1") in EXTENSIONS and not name.startswith(b"._")


def _kind_of(entry: os.DirEntry[bytes]) -> str:
    """`folder`, `link` (to a folder) or `file`: anything else, broken links and pipes among them."""
    try:
        if entry.is_dir(follow_symlinks=False):
            return "folder"
        return "link" if entry.is_dir() else "file"
    except OSError:  # a loop of links, or no permission
        return "file"


def _may_have_been_a_folder(entry: os.DirEntry[bytes]) -> bool:
    return b"." not in entry.name and _is_broken_link(entry.path)


def _is_broken_link(path: bytes) -> bool:
    return os.path.islink(path) and not os.path.exists(path)


def _reason(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "broken link, or it vanished during the scan"
    return (os.strerror(error.errno) if error.errno else str(error)).lower()


def _kind(mode: int) -> str:
    kinds = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
    return kinds.get(stat.S_IFMT(mode), "something else")
