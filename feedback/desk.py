"""Where review keeps its own things: `$NDD_HOME/review`.

project       the tag of this home's project, which its description in Label Studio carries
server.json   address, login and token of the server that `review` started (readable by its owner alone)
media/        what Label Studio may hand to a browser: previews
notes.csv     what reviewers wrote beside their answers
lock          held while pushing or pulling
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ndd.data.decisions import DecisionStore
from ndd.data.journal import Journal
from ndd.data.queue import QueueStore
from ndd.errors import StoreError, UsageError
from ndd.files import atomic_path, locked, make_directory
from ndd.home import home

__all__ = ["TOKEN", "URL", "Desk"]

URL, TOKEN = "LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY"
"""Environment variables that name a server elsewhere."""


class Desk:
    """The stores of `$NDD_HOME` that review works with. Naming them creates nothing."""

    def __init__(self) -> None:
        self.root = home() / "review"
        self.decisions = DecisionStore(home().decisions)
        self.queue = QueueStore(home().queue, decisions=self.decisions)
        self._notes = Journal(self.root / "notes.csv", columns=("decision_id", "note"))

    @property
    def media(self) -> Path:
        """Document root of Label Studio."""
        return self.root / "media"

    @property
    def previews(self) -> Path:
        """Folder of the previews."""
        return self.media / "pictures"

    @property
    def project_tag(self) -> str:
        """Identity of this home's project, made at its first use: 16 hexadecimal digits. Raises StoreError."""
        path = self.root / "project"
        if not path.is_file():
            make_directory(self.root)
            with atomic_path(path) as temporary:
                temporary.write_text(secrets.token_hex(8) + "\n", encoding="ascii")
        return path.read_text(encoding="ascii").strip()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let no other push or pull of this home work meanwhile; waits for its turn."""
        make_directory(self.root)
        descriptor = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            with locked(descriptor, exclusive=True):
                yield
        finally:
            os.close(descriptor)

    def server(self) -> dict[str, Any]:
        """What the server that `review` started is known by: url, token, user, password. Empty if none was."""
        path = self.root / "server.json"
        if not path.is_file():
            return {}
        try:
            known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            raise StoreError(f"{path}: damaged; remove it and start `review` again") from None
        return known

    def keep_server(self, known: dict[str, Any]) -> None:
        """Write `server.json`, readable by its owner alone."""
        make_directory(self.root)
        with atomic_path(self.root / "server.json") as temporary:
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            temporary.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")

    def address(self, url: str | None = None) -> tuple[str, str]:
        """(url, token) of the server to talk to: `url` or LABEL_STUDIO_URL with LABEL_STUDIO_API_KEY, else the one that
        `review` started. Raises UsageError."""
        given, token = url or os.environ.get(URL), os.environ.get(TOKEN)
        known = self.server()
        if not given or given.rstrip("/") == known.get("url"):
            if known:
                return str(known["url"]), token or str(known["token"])
            raise UsageError(f"no Label Studio is known; start one with `make review`, or set {URL} and {TOKEN}")
        if not token:
            raise UsageError(
                f"{given}: {TOKEN} is not set; give a personal access token or a legacy token of that server"
            )
        return given, token

    def note(self, notes: Iterable[tuple[str, str]]) -> None:
        """Keep what is written beside answers: (decision_id, text). A changed text is a new row; of several the last counts."""
        rows = [(id, json.dumps(text, ensure_ascii=True)) for id, text in notes]
        nothing = json.dumps("")
        if not rows:
            return
        with self._notes.writing() as log:
            known = {row.cells[0]: row.cells[1] for row in log.rows}
            log.append([[id, text] for id, text in rows if text != known.get(id, nothing)])
