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
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ndd.config import FindConfig
from ndd.errors import StoreError
from ndd.find import FindRequest, find
from ndd.images import decode
from ndd.local import LocalRunner
from pipelines.album import Album, Photo, build_album, read_album, read_photos

__all__ = ["add_arguments", "run", "tiles"]

_COPIES, _SEVERITY = 2, (0.4, 1.0)
_TILE, _PLAIN = 160, 12.0
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
    environment = {**os.environ, "NDD_HOME": os.fspath(home), "NDD_KEY": secrets.token_urlsafe(24)}
    os.environ["NDD_HOME"] = os.fspath(home)
    began = time.monotonic()

    def tell(text: str) -> None:
        sys.stdout.write(f"[{time.monotonic() - began:4.0f} s] {text}\n")
        sys.stdout.flush()

    album = _album(args.images, out / "album")
    tell(f"an album of {len(album.images)} pictures, {len(album.groups())} of them with copies: {album.root}")
    port = _free_port()
    serve = ["serve", "run", "--port", str(port), "watch_seconds=2"]
    with _running(serve, environment, until="Serving on", log=out / "serve.log"):
        before = _model(port, environment["NDD_KEY"])
        tell(f"the server answers with {_short(before)}")
        config = FindConfig(floor=0.0)
        found = find(
            FindRequest(paths=[album.root / "images"], out=out / "found", config=config, overwrite=True), LocalRunner()
        )
        tell(f"find: {found['groups']} groups, {found['pairs']} candidate pairs")
        review = [
            "feedback",
            "review",
            os.fspath(out / "found"),
            "--count",
            str(args.questions),
            "--port",
            str(_free_port()),
        ]
        with _running(review, environment, until="answers are fetched", log=out / "review.log"):
            tell("the questions are in Label Studio")
            tell(_done(["feedback", "answer", os.fspath(album.root)], environment))
            tell(_done(["feedback", "pull"], environment))
        few = ["--least", "10", "--few", "10"]
        tell(_done(["pipelines", "retrain", "--data", os.fspath(album.root / "images"), *few], environment))
        last = json.loads((home / "retrain" / "last.json").read_text(encoding="utf-8"))
        if not last["promoted"]:
            tell("the challenger was not promoted, so the server goes on with the model it has")
            return 0
        after = _changed(port, environment["NDD_KEY"], before)
        tell(f"the server answers with {_short(after)}")
    return 0


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


@contextlib.contextmanager
def _running(command: Sequence[str], environment: dict[str, str], *, until: str, log: Path) -> Iterator[None]:
    """`python -m command` in the background, from when it has printed `until` to the end of the block."""
    said, up = threading.Event(), threading.Event()
    process = subprocess.Popen(
        [sys.executable, "-m", *command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
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

    reader = threading.Thread(target=listen, daemon=True)
    reader.start()
    try:
        if not up.wait(_PATIENCE) or not said.is_set() or process.poll() is not None:
            raise StoreError(f"python -m {command[0]} {command[1]} did not come up; see {log}")
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(60)
        if process.poll() is None:
            process.kill()
            process.wait()
        reader.join(10)


def _done(command: Sequence[str], environment: dict[str, str]) -> str:
    """Run `python -m command` to its end; what it printed. StoreError if it fails."""
    with subprocess.Popen(
        [sys.executable, "-m", *command], env=environment, stdout=subprocess.PIPE, text=True
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
    return printed.strip()


def _model(port: int, key: str) -> dict[str, Any]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/model", headers={"Authorization": f"Bearer {key}"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        body: dict[str, Any] = json.load(answer)
    return body


def _changed(port: int, key: str, before: dict[str, Any]) -> dict[str, Any]:
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        with contextlib.suppress(urllib.error.URLError):
            now = _model(port, key)
            if now["digests"] != before["digests"]:
                return now
        time.sleep(1.0)
    raise StoreError(f"the server still answers with {_short(before)} after {_PATIENCE:.0f} s; see serve.log")


def _short(said: dict[str, Any]) -> str:
    return f"embedding {said['digests']['embedding'][:12]}, scorer {said['digests']['scorer'][:12]}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
