"""A Label Studio of one's own: started on loopback with SQLite, in an environment of its own, below `$NDD_HOME/review`."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from feedback.desk import Desk
from ndd.errors import StoreError, UsageError
from ndd.files import make_directory

__all__ = ["executable", "free_port", "running"]

_USER = "review@localhost.localdomain"
_PATIENCE = 900.0
"""Seconds the first start may take: it makes the database."""
_QUIET = {
    "COLLECT_ANALYTICS": "False",
    "SENTRY_DSN": "",
    "FRONTEND_SENTRY_DSN": "",
    "LATEST_VERSION_CHECK": "False",
    "LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK": "true",
    # Its pages have the server fetch tips from elsewhere, and no setting stops that: a proxy that is not there does.
    **dict.fromkeys(("HTTPS_PROXY", "https_proxy"), "http://127.0.0.1:9"),
    **dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost"),
}
"""It talks to nobody."""


def executable() -> Path:
    """The `label-studio` command: of NDD_LABEL_STUDIO, of the checkout's `.label-studio`, or on PATH. Raises UsageError."""
    named = os.environ.get("NDD_LABEL_STUDIO")
    places = [Path(named)] if named else [Path(__file__).parents[1] / ".label-studio" / "bin" / "label-studio"]
    on_path = None if named else shutil.which("label-studio")
    for place in [*places, *([Path(on_path)] if on_path else [])]:
        if place.is_file():
            return place
    raise UsageError(
        f"{places[0]}: there is no Label Studio; `make label-studio` installs it, or name its command in NDD_LABEL_STUDIO"
    )


def free_port(wanted: int = 0) -> int:
    """`wanted` if nothing listens there on 127.0.0.1, else a free port."""
    for port in (wanted, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise StoreError("127.0.0.1: no free port; end a program that holds many")


@contextmanager
def running(desk: Desk, *, port: int = 8080, environment: Mapping[str, str] | None = None) -> Iterator[dict[str, Any]]:
    """A Label Studio on 127.0.0.1 for the block: url, token, user, password, pid (also in `server.json`).

    One that runs already for this home is used and left running. port: taken if it is free. environment: more settings of
    Label Studio. Raises UsageError where it is not installed, StoreError where it does not start.
    """
    known = desk.server()
    if known and _answers(known["url"]) and _is_alive(known.get("pid")):
        yield known
        return
    command = executable()
    make_directory(desk.previews)
    chosen = free_port(port)
    fresh = {
        "url": f"http://127.0.0.1:{chosen}",
        "token": known.get("token") or secrets.token_hex(20),
        "user": known.get("user") or _USER,
        "password": known.get("password") or secrets.token_urlsafe(12),
    }
    # Written before the first start: the account is made with what is written here, whenever we are stopped.
    desk.keep_server(fresh)
    log = desk.root / "label-studio.log"
    process = _start(command, desk, fresh, chosen, log, environment or {})
    try:
        _wait(process, fresh["url"], log)
        desk.keep_server({**fresh, "pid": process.pid})
        yield {**fresh, "pid": process.pid}
    finally:
        _stop(process)


def _start(
    command: Path, desk: Desk, known: Mapping[str, str], port: int, log: Path, environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    data = desk.root / "label-studio"
    make_directory(data)
    settings = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("DJANGO_", "POSTGRE_"))},
        **_QUIET,
        "LABEL_STUDIO_BASE_DATA_DIR": str(data.resolve()),
        "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(desk.media.resolve()),
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        "SSRF_PROTECTION_ENABLED": "false",  # webhooks to this machine
        "DJANGO_DB": "sqlite",
        # In the environment, not among the arguments, which every user of the machine can read.
        "LABEL_STUDIO_USERNAME": known["user"],
        "LABEL_STUDIO_PASSWORD": known["password"],
        "LABEL_STUDIO_USER_TOKEN": known["token"],
        **environment,
    }
    arguments = [str(command), "start", "--no-browser", "--port", str(port), "--internal-host", "127.0.0.1"]
    # Beside its Python is where it looks for nothing else: the caller's environment has other packages.
    settings.pop("PYTHONHOME", None)
    settings.pop("VIRTUAL_ENV", None)
    with log.open("ab") as out:
        return subprocess.Popen(
            arguments, env=settings, cwd=data, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    until = time.monotonic() + _PATIENCE
    while not _answers(url):
        if process.poll() is not None or time.monotonic() > until:
            tail = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:] or ["nothing"]
            what = f"ended with code {process.returncode}" if process.poll() is not None else "does not answer"
            raise StoreError(f"{log}: Label Studio {what}; it said last: {tail[0][:200]}")
        time.sleep(0.3)


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5.0, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def _is_alive(pid: object) -> bool:
    try:
        os.kill(int(str(pid)), 0)
    except (OSError, ValueError):
        return False
    return True


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server and what it started: the processes of its own session, and no other."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=10)
