"""`$NDD_HOME`: where ndd keeps what outlives a run."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from ndd.errors import StoreError

__all__ = ["Home", "home"]


@dataclass(frozen=True, slots=True)
class Home:
    """The places below `root`. Naming one creates nothing: whoever writes there makes it.

    Usable as a path: `home() / "champion"`, `os.fspath(home())`.
    """

    root: Path

    @property
    def decisions(self) -> Path:
        """Directory of people's answers (`ndd.data.decisions.DecisionStore`)."""
        return self.root / "decisions"

    @property
    def queue(self) -> Path:
        """Directory of the pairs waiting for a person (`ndd.data.queue.QueueStore`)."""
        return self.root / "queue"

    @property
    def index(self) -> Path:
        """Directory of vector indexes."""
        return self.root / "index"

    @property
    def mlflow_db(self) -> Path:
        """SQLite file of the experiment tracker and model registry."""
        return self.root / "mlflow.db"

    @property
    def champion(self) -> Path:
        """Model directory written by `promote`."""
        return self.root / "champion"

    def __truediv__(self, name: str) -> Path:
        return self.root / name

    def __fspath__(self) -> str:
        return str(self.root)


def home() -> Home:
    """`$NDD_HOME`, absolute and with `~` expanded; unset or empty: the platform's data directory for `ndd`.

    Read anew at each call. Raises StoreError if it names something that is not a directory.
    """
    named = os.environ.get("NDD_HOME") or platformdirs.user_data_dir("ndd", appauthor=False)
    root = Path(os.path.abspath(os.path.expanduser(named)))
    if root.exists() and not root.is_dir():
        raise StoreError(f"{root}: NDD_HOME names a file; name a directory")
    return Home(root)
