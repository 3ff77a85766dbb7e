"""`python -m pipelines loop`: the whole loop once, on this machine, with the truth of an album in the place of people.

find → push to Label Studio → answers → pull → retrain → promote → the running server answers with the new model. Every part is
the real one, each a process of its own, and meets the others through `$NDD_HOME` and HTTP alone. No person answers: the
ground truth does, through Label Studio's API, and its answers carry a reviewer's name that says so.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
import urllib.error
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ndd.config import FindConfig
from ndd.data.decisions import DecisionStore
from ndd.errors import StoreError
from ndd.find import FindRequest, find
from ndd.images import decode
from ndd.local import LocalRunner
from pipelines.album import Album, Photo, build_album, read_album, read_photos
from pipelines.loop_server import Asked
from pipelines.ports import free_port

__all__ = ["add_arguments", "run", "tiles"]

_COPIES, _SEVERITY = 2, (0.4, 1.0)
_TILE, _PLAIN = 160, 12.0
_AUDIT = 0.4
"""Share of the questions drawn at random: of 80 just enough to move the score by."""
_PATIENCE = 600.0
"""Seconds for a server to come up: Label Studio makes its database at the first start."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m pipelines loop`."""
    parser.add_argument(
        "--images", type=Path, help="folder of photographs (default: those of installed packages, in tiles)"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/loop"), help="album, results and NDD_HOME (runs/loop)")
    parser.add_argument("--questions", type=int, default=80, help="pairs to ask about (80)")


def run(args: argparse.Namespace) -> int:
    """Go round once; the exit code."""
    out: Path = args.out.absolute()
    home = Path(os.environ.get("NDD_HOME") or out / "home")
    os.environ["NDD_HOME"] = os.fspath(home)
    go = _Round(out=out, home=home, key=secrets.token_urlsafe(24))
    album = _album(args.images, out / "album")
    go.tell(
        f"1. an album of {len(album.images)} pictures, {len(album.groups())} of them with edited copies: {album.root}"
    )
    answered = len(DecisionStore(home / "decisions").current())
    if answered:
        go.tell(
            f"   {home} knows {answered} answers of an earlier round; another NDD_HOME (without one, --out) begins anew"
        )
    go.tell("   starting the server (Ray Serve) and Label Studio, whose first start takes a minute or more")
    port = free_port()
    serve = ["serve", "run", "--port", str(port), "watch_seconds=2"]
    review = ["feedback", "review", "--port", str(free_port()), "--every", "3600"]  # `pull` fetches the answers below
    with (
        go.background(serve, until="Serving on", log=out / "serve.log") as serving,
        go.background(review, until="answers are fetched", log=out / "review.log") as reviewing,
    ):
        request = FindRequest(paths=[album.root / "images"], out=go.found, config=FindConfig(floor=0.0), overwrite=True)
        found = find(request, LocalRunner())
        go.tell(f"2. find: {found['groups']} groups, {found['pairs']} candidate pairs: {go.found / 'report.html'}")
        serving()
        server = Asked(f"http://127.0.0.1:{port}", go.key)
        before = server.digests()
        go.tell(f"   {server.address} answers with {_short(before)}")
        reviewing()
        go.tell(
            "3. Label Studio is asked about the pairs that teach most, and about some drawn at random, to measure by"
        )
        go.do("feedback", "push", os.fspath(go.found), "--count", str(args.questions), "--audit", str(_AUDIT))
        go.do("feedback", "answer", os.fspath(album.root))
        go.tell("4. the answers become decisions, which are obeyed at once")
        go.do("feedback", "pull")
        go.tell(f"   {server.obeyed(album, DecisionStore(home / 'decisions'))}")
        go.tell("5. retraining: fine-tune, compare with the model in use, promote if it is no worse; some minutes")
        _retrain(go, album, server, before)
        page = out / "status.html"
        go.do("feedback", "status", "--html", os.fspath(page), quiet=True)
    go.tell(f"done; to look at:\n   {go.found / 'report.html'}\n   {page}\n   {go.last().get('report', '')}")
    return 0


def _retrain(go: _Round, album: Album, server: Asked, before: Mapping[str, str]) -> None:
    """What cron runs, and what the running server makes of it."""
    last = go.last()
    few = ["--least", "10", "--few", "10", "--engine", "local"]
    go.do("pipelines", "retrain", "--data", os.fspath(album.root / "images"), *few)
    now = go.last()
    if now == last:
        go.tell(
            "6. nothing was learnt this time, so the server goes on with the model it has; the answers count anyway"
        )
    elif now["promoted"]:
        go.tell(f"6. the server, never stopped, now answers with {_short(_changed(server, before))}")
    else:
        go.tell(
            "6. the new model is not good enough, so the server goes on with the one it has; the answers count anyway"
        )
    go.tell(f"   {server.obeyed(album, DecisionStore(go.home / 'decisions'))}")


def tiles(photos: Sequence[Photo]) -> list[Photo]:
    """Photographs cut into tiles that share no pixel, at most 3 × 2 of at least 160 pixels; plain ones are left out."""
    found = []
    for photo in photos:
        pixels = decode(photo.content).pixels
        rows, columns = (min(most, side // _TILE) for most, side in zip((2, 3), pixels.shape[:2], strict=True))
        for row in range(rows):
            for column in range(columns):
                height, width = pixels.shape[0] // rows, pixels.shape[1] // columns
                tile = pixels[row * height : (row + 1) * height, column * width : (column + 1) * width]
                if tile.std() >= _PLAIN:
                    found.append(Photo.of_array(f"{photo.name}-{row}{column}", tile.copy()))
    return found


def _album(images: Path | None, place: Path) -> Album:
    if (place / "groups.csv").is_file():
        return read_album(place)
    if images is not None:
        photos = list(read_photos(images))
    else:
        from pipelines.demo import photographs

        photos = tiles(photographs())
    cut = 2 * len(photos) // 3
    return build_album(photos[:cut], place, copies=_COPIES, seed=0, severity=_SEVERITY, singles=photos[cut:])


class _Round:
    """One way round the loop: where it happens, what it says, and the commands it runs."""

    def __init__(self, *, out: Path, home: Path, key: str) -> None:
        self.out, self.home, self.key, self.found = out, home, key, out / "found"
        self._environment = {**os.environ, "NDD_HOME": os.fspath(home), "NDD_KEY": key}
        self._began = time.monotonic()

    def tell(self, text: str) -> None:
        """Print lines, the first with the seconds since the beginning."""
        first, *more = text.splitlines()
        lines = [f"[{time.monotonic() - self._began:4.0f} s] {first}", *(f"{'':9}{line}" for line in more)]
        sys.stdout.write("".join(f"{line}\n" for line in lines))
        sys.stdout.flush()

    def last(self) -> dict[str, Any]:
        """What the last retraining remembers; empty before the first."""
        path = self.home / "retrain" / "last.json"
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return found

    def do(self, *command: str, quiet: bool = False) -> None:
        """Run `python -m command` to its end and print what it printed. StoreError if it fails."""
        with subprocess.Popen(
            [sys.executable, "-m", *command], env=self._environment, stdout=subprocess.PIPE, text=True
        ) as child:
            try:
                printed, _ = child.communicate()
            except BaseException:
                child.terminate()  # so that a training writes down where it was
                try:
                    child.communicate(timeout=_PATIENCE)
                except subprocess.TimeoutExpired:
                    child.kill()
                raise
        if child.returncode != 0:
            raise StoreError(f"python -m {' '.join(command[:2])} ended with exit code {child.returncode}")
        if printed.strip() and not quiet:
            self.tell("\n".join(f"   {line}" for line in printed.strip().splitlines()))

    @contextlib.contextmanager
    def background(self, command: Sequence[str], *, until: str, log: Path) -> Iterator[Callable[[], None]]:
        """`python -m command` beside the block; gives what waits until it has printed `until`. StoreError if it fails."""
        said, up = threading.Event(), threading.Event()
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

        def listen() -> None:
            assert process.stdout is not None
            with log.open("w", encoding="utf-8") as file:
                for line in process.stdout:
                    file.write(line)
                    file.flush()
                    if until in line:
                        said.set()
                        up.set()
            up.set()  # it has ended, or closed its output

        def wait() -> None:
            if not up.wait(_PATIENCE) or not said.is_set() or process.poll() is not None:
                raise StoreError(f"python -m {command[0]} {command[1]} did not come up; see {log}")

        reader = threading.Thread(target=listen, daemon=True)
        reader.start()
        try:
            yield wait
        finally:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(60)
            if process.poll() is None:
                process.kill()
                process.wait()
            reader.join(10)


def _changed(server: Asked, before: Mapping[str, str]) -> Mapping[str, str]:
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        with contextlib.suppress(urllib.error.URLError):
            now = server.digests()
            if now != before:
                return now
        time.sleep(1.0)
    raise StoreError(f"the server still answers with {_short(before)} after {_PATIENCE:.0f} s; see serve.log")


def _short(digests: Mapping[str, str]) -> str:
    return f"embedding {digests['embedding'][:12]}, scorer {digests['scorer'][:12]}"
