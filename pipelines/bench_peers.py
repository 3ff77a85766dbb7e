"""Other tools on the same pictures, each from its own package in an environment of its own.

NDD_PEERS names that environment: a Python interpreter, or the folder of a virtual environment with fastdup 2.54,
imagededup and imagehash in it. fastdup wants an older numpy than ndd. Telemetry is off (SENTRY_OPT_OUT).
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ndd.cores import cores
from ndd.errors import NddError
from ndd.metrics.retrieval import ScoreRows

__all__ = [
    "FASTDUP",
    "NEIGHBOURS",
    "PEERS",
    "THRESHOLD",
    "Neighbours",
    "check",
    "fastdup",
    "interpreter",
    "neighbour_rows",
    "peer_hashes",
]

FASTDUP = "fastdup"
PEERS = (FASTDUP, "imagehash", "imagededup")
NEIGHBOURS, THRESHOLD = 10, 0.5
"""fastdup: nearest neighbours asked for, and the least similarity it reports."""

_UNSEEN = -2.0
"""Score of pairs that a tool does not report: below every cosine."""

_FASTDUP = """
import sys, fastdup
code = fastdup.run(input_dir=sys.argv[1], work_dir=sys.argv[2], nearest_neighbors_k=int(sys.argv[3]),
                   threshold=float(sys.argv[4]), num_threads=int(sys.argv[5]))
sys.exit(int(bool(code)))
"""
_HASHES = {
    "imagehash": """
import sys, json, imagehash
from PIL import Image
for path in open(sys.argv[1], encoding="utf-8").read().splitlines():
    with Image.open(path) as image:
        print(json.dumps(str(imagehash.phash(image.convert("RGB"), hash_size=16))), file=open(sys.argv[2], "a"))
""",
    "imagededup": """
import sys, json
from imagededup.methods import PHash
hasher = PHash(verbose=False)
for path in open(sys.argv[1], encoding="utf-8").read().splitlines():
    print(json.dumps(hasher.encode_image(image_file=path)), file=open(sys.argv[2], "a"))
""",
}


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """Pairs that a tool reports: left, right (P,) positions in the list it was given, score (P,). seconds: wall time."""

    left: NDArray[np.int64]
    right: NDArray[np.int64]
    score: NDArray[np.float32]
    seconds: float


class PeerMissing(NddError):
    """A tool to be compared with was asked for and is not there."""


def check(methods: Sequence[str]) -> None:
    """Raise PeerMissing for a tool among `methods` that is not there, before an hour is spent on the others."""
    for name in methods:
        if name in PEERS:
            interpreter(wanted=name)


def interpreter(*, wanted: str) -> Path:
    """The Python of NDD_PEERS; raises PeerMissing if it is not set, is none, or cannot import `wanted`."""
    given = os.environ.get("NDD_PEERS")
    if not given:
        raise PeerMissing(f"peer missing: {wanted}; set NDD_PEERS to a virtual environment that has it")
    python = Path(given) / "bin" / "python" if Path(given).is_dir() else Path(given)
    try:
        done = subprocess.run(
            [str(python), "-c", f"import importlib.util as u; raise SystemExit(u.find_spec({wanted!r}) is None)"],
            capture_output=True,
            timeout=120,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerMissing(f"peer missing: NDD_PEERS={given}: {python} does not run ({error})") from error
    if done.returncode != 0:
        raise PeerMissing(f"peer missing: {wanted} is not installed in NDD_PEERS={given}")
    return python


def fastdup(paths: Sequence[Path], *, threads: int | None = None) -> Neighbours:
    """fastdup's similar pairs: its embedded model, nearest 10, threshold .5. Raises PeerMissing, PeerFailed as NddError."""
    python = interpreter(wanted="fastdup")
    with tempfile.TemporaryDirectory(prefix="ndd-peer-") as scratch:
        listing, out = Path(scratch) / "list.txt", Path(scratch) / "out"
        listing.write_text("\n".join(str(path.resolve()) for path in paths) + "\n", encoding="utf-8")
        workers = threads or cores()
        seconds = _run(python, _FASTDUP, listing, out, NEIGHBOURS, THRESHOLD, workers, home=Path(scratch))
        position = {str(path.resolve()): at for at, path in enumerate(paths)}
        with (out / "similarity.csv").open(newline="", encoding="utf-8") as file:
            rows = [
                (position[row["from"]], position[row["to"]], float(row["distance"])) for row in csv.DictReader(file)
            ]
    left, right, score = zip(*rows, strict=True) if rows else ((), (), ())
    return Neighbours(
        left=np.asarray(left, np.int64),
        right=np.asarray(right, np.int64),
        score=np.asarray(score, np.float32),
        seconds=seconds,
    )


def neighbour_rows(found: Neighbours, count: int) -> ScoreRows:
    """Rows of scores of `count` pictures; a pair counts by the better of its two directions, an unreported one is last."""
    scores = np.full((count, count), _UNSEEN, np.float32)
    np.maximum.at(scores, (found.left, found.right), found.score)
    scores = np.maximum(scores, scores.T)
    return lambda start, stop: scores[start:stop]


def peer_hashes(tool: str, paths: Sequence[Path]) -> NDArray[np.uint8]:
    """(N, bytes) perceptual hashes by `imagehash` (pHash, 16 × 16) or `imagededup` (pHash, 8 × 8)."""
    python = interpreter(wanted=tool)
    with tempfile.TemporaryDirectory(prefix="ndd-peer-") as scratch:
        listing, out = Path(scratch) / "list.txt", Path(scratch) / "hashes"
        listing.write_text("\n".join(str(path.resolve()) for path in paths) + "\n", encoding="utf-8")
        _run(python, _HASHES[tool], listing, out, home=Path(scratch))
        hashes = [bytes.fromhex(json.loads(line)) for line in out.read_text().splitlines()]
    return np.stack([np.frombuffer(code, np.uint8) for code in hashes])


def _run(python: Path, script: str, *arguments: object, home: Path) -> float:
    """Run a script there and give the seconds it took. It writes into `home` what such tools leave in home folders."""
    import time

    environment = {**os.environ, "SENTRY_OPT_OUT": "1", "HOME": str(home), "MPLCONFIGDIR": str(home)}
    environment.pop("PYTHONPATH", None)
    start = time.perf_counter()
    done = subprocess.run(
        [str(python), "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        errors="replace",
        env=environment,
        cwd=home,
    )
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise NddError(f"peer failed: {python}: exit code {done.returncode}: {' '.join(last)[:300]}")
    return time.perf_counter() - start
