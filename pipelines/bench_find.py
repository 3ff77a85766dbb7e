"""How well the whole search does on an album with known truth, and what it costs: both from one and the same run.

The search is the command a user types, in a process of its own, so that its processor time and memory are counted with
everything it starts. A pair that the search does not write scores 0: what the candidates miss is lost, as it is for
the user. Other methods rank the same album in the same run. Figures are given as the album has its truth, and with the
copies that it does not list (`pipelines.album_copies`).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ndd.config import FindConfig
from ndd.errors import InputError
from ndd.metrics.calibration import expected_calibration_error
from ndd.metrics.pairs import Confusion, compare_pairs, pairs_of_groups
from ndd.metrics.retrieval import evaluate_groups, rows_of_pairs
from ndd.runs import PRIVATE
from ndd.stages.match import Matcher
from ndd.tables import GroupRow, PairRow, read_groups, read_pairs
from pipelines import bench_peers
from pipelines.accuracy import figures_of
from pipelines.album import ORIGINAL, Album
from pipelines.album_copies import relabelled
from pipelines.bench_find_others import beside

__all__ = ["NEIGHBOURS", "candidate_recall", "judge", "measure", "table"]

NEIGHBOURS = (12, 25, 50)
"""Numbers of nearest descriptors for which candidates are counted."""

_SEARCH = "import sys; from ndd.cli import main; sys.exit(main(sys.argv[1:]))"
_LOST = ("found", "not a candidate", "no alignment", "score too low", "group split")
"""What became of a true pair, in the order in which a search may lose it."""


def measure(
    album: Album,
    *,
    work: Path,
    model: Path | None,
    options: Sequence[str] = (),
    neighbours: Sequence[int] = NEIGHBOURS,
    others: Sequence[str] = (),
    data: Path | None = None,
) -> dict[str, Any]:
    """Search the album once with `ndd find` and give the figures as plain JSON values.

    work: folder for the search, which starts afresh and is removed at the end. options: further arguments of `ndd find`.
    others: of `pipelines.bench_methods`, ranked beside it; data: the data folder, for those that want it. Raises
    InputError if the search fails, PeerMissing for a tool that is not there.
    """
    bench_peers.check(others)
    work.mkdir(parents=True, exist_ok=True)
    out = Path(tempfile.mkdtemp(prefix="find-", dir=work))
    try:
        given = [] if model is None else ["--model", os.fspath(model)]
        folder = os.fspath(album.root / "images")
        cost = _spend(["find", folder, "--out", str(out), "--floor", "0", "--json", *given, *options])
        run = json.loads((out / "run.json").read_text(encoding="utf-8"))
        count = len(album.images)
        pairs, groups = read_pairs(out / "pairs.parquet"), read_groups(out / "groups.parquet")
        return {
            "album": {"name": album.root.name, "digest": album.digest(), "images": count},
            "config": run["config"],
            "digests": run["digests"],
            "cost": {
                **cost,
                "images_per_second": round(count / cost["wall_seconds"], 2),
                "images_per_cpu_second": round(count / cost["cpu_seconds"], 2),
                "seconds": run["seconds"],
                "candidates": run["candidates"],
            },
            **judge(album, pairs, groups),
            "relabelled": _relabelled(album, pairs, groups),
            "others": beside(album, others, data=data, work=work),
            "threshold": run["threshold"],
            "prior": run["prior"],
            "neighbours": candidate_recall(album, out, neighbours, FindConfig.from_dict(run["config"])),
        }
    finally:
        shutil.rmtree(out, ignore_errors=True)


def judge(album: Album, pairs: Sequence[PairRow], groups: Sequence[GroupRow]) -> dict[str, Any]:
    """The figures of a search's answers (paths below the album's images/) against the truth.

    accepted: the pairs it calls duplicates. grouped: all pairs within its groups. Both against all true pairs.
    """
    truth = _truth(album)
    wanted = _pairs_of(truth)
    rows = rows_of_pairs(list(truth), ((row.left, row.right, row.score) for row in pairs))
    labels = np.array([truth[row.left] == truth[row.right] for row in pairs], np.bool_)
    scores = np.array([row.score for row in pairs], np.float64)
    accepted = [(row.left, row.right) for row in pairs if row.duplicate]
    members: dict[int, list[str]] = {}
    for row in groups:
        members.setdefault(row.group, []).append(row.path)
    return {
        "ranking": figures_of(album, evaluate_groups(rows, list(truth.values()))),
        "accepted": _rates(compare_pairs(accepted, wanted, images=len(truth))),
        "grouped": {
            "groups": len(members),
            **_rates(compare_pairs(pairs_of_groups(members.values()), wanted, images=len(truth))),
        },
        "candidates": {
            "pairs": len(pairs),
            "recall": float(labels.sum()) / len(wanted),
            "calibration_error": expected_calibration_error(scores, labels),
        },
        "true_pairs": _fates(album, wanted, pairs, {path: group for group, held in members.items() for path in held}),
    }


def _relabelled(album: Album, pairs: Sequence[PairRow], groups: Sequence[GroupRow]) -> dict[str, Any] | None:
    """The figures with the copies that the album does not list; None where it holds none of them."""
    corrected = relabelled(album)
    if corrected is album:
        return None
    found = judge(corrected, pairs, groups)
    more = len(_pairs_of(_truth(corrected))) - len(_pairs_of(_truth(album)))
    return {"pairs": more, **{name: found[name] for name in ("ranking", "accepted", "grouped")}}


def candidate_recall(album: Album, out: Path, neighbours: Sequence[int], config: FindConfig) -> dict[str, Any]:
    """k → share of the true pairs that the k nearest descriptors and the hashes propose, how many pairs, what it took.

    out: a finished search of the album, whose vectors and hashes are used.
    """
    wanted = {frozenset(pair) for pair in _pairs_of(_truth(album))}
    files = sorted((out / PRIVATE).glob("embed-*/[0-9a-f]*.parquet"))
    columns = ["path", "vector", "hashes", "quality"]
    pictures = pa.concat_tables([pq.read_table(file, columns=columns) for file in files]).sort_by("path")
    paths = pictures.column("path").to_pylist()
    vectors, hashes = (_bytes(pictures.column(name)) for name in ("vector", "hashes"))
    figures = {}
    for k in neighbours:
        start = time.process_time()
        matcher = Matcher(
            vectors.view("<f2"),
            hashes.reshape(len(paths), 8, 32),
            pictures.column("quality").to_numpy(),
            neighbours=k,
            max_distance=config.max_distance,
            hash_bits=config.hash_bits,
        )
        found = matcher({"node": np.arange(len(paths))})
        took = time.process_time() - start
        pairs = zip(found["left"].tolist(), found["right"].tolist(), strict=True)
        hits = sum(frozenset((paths[a], paths[b])) in wanted for a, b in pairs)
        figures[str(k)] = {
            "recall": hits / len(wanted),
            "pairs": len(found["left"]),
            "cpu_seconds": round(took, 2),
        }
    return figures


def _spend(arguments: Sequence[str]) -> dict[str, float]:
    """Run `ndd` with `arguments`; its processor time and its most memory, both with all that it starts."""
    start = time.monotonic()
    with tempfile.TemporaryFile() as said:
        streams = [(os.POSIX_SPAWN_DUP2, said.fileno(), 1), (os.POSIX_SPAWN_DUP2, said.fileno(), 2)]
        child = os.posix_spawn(
            sys.executable, [sys.executable, "-c", _SEARCH, *arguments], os.environ, file_actions=streams
        )
        with _memory_of(child) as most:
            _, status, used = os.wait4(child, 0)
        code = os.waitstatus_to_exitcode(status)
        if code:
            said.seek(0)
            last = said.read().decode(errors="replace").strip().rpartition("\n")[2]
            raise InputError(f"ndd {' '.join(arguments)}: exit code {code}: {last}")
    return {
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 2),
        "wall_seconds": round(time.monotonic() - start, 2),
        # Of the search's own process the kernel keeps the peak; of all together the samples know.
        "peak_mib": round(max(used.ru_maxrss / 1024, *most), 1),
    }


@contextlib.contextmanager
def _memory_of(process: int) -> Iterator[list[float]]:
    """Samples, five a second, of what a process and all it started hold together: MiB, what they share counted once."""
    ended, samples = threading.Event(), [0.0]

    def look() -> None:
        with contextlib.suppress(psutil.Error):
            whole = psutil.Process(process)
            while not ended.wait(0.2):
                held = 0
                for one in (whole, *whole.children(recursive=True)):
                    with contextlib.suppress(psutil.Error):
                        held += one.memory_full_info().pss
                samples.append(held / 2**20)

    thread = threading.Thread(target=look, name="memory")
    thread.start()
    try:
        yield samples
    finally:
        ended.set()
        thread.join()


def _truth(album: Album) -> dict[str, str]:
    """Path as the search names it → group, in the album's order."""
    return {row.image.removeprefix("images/"): row.group for row in album.images}


def _pairs_of(truth: Mapping[str, str]) -> list[tuple[str, str]]:
    members: dict[str, list[str]] = {}
    for path, group in truth.items():
        members.setdefault(group, []).append(path)
    return pairs_of_groups(members.values())


def _rates(counts: Confusion) -> dict[str, Any]:
    return {"precision": counts.precision, "recall": counts.recall, "false": counts.false_positive}


def _fates(
    album: Album, wanted: Sequence[tuple[str, str]], pairs: Sequence[PairRow], group_of: Mapping[str, int]
) -> dict[str, Any]:
    """How many true pairs came to which end: of all, and of each family's pairs (original, copy)."""
    rows = {frozenset((row.left, row.right)): row for row in pairs}
    family = {row.image.removeprefix("images/"): row.family for row in album.images}
    counts: dict[str, Counter[str]] = {"all": Counter()}
    for pair in wanted:
        fate = _fate(rows.get(frozenset(pair)), pair, group_of)
        counts["all"][fate] += 1
        kinds = sorted({family[path] for path in pair} - {ORIGINAL})
        if ORIGINAL in (family[path] for path in pair) and kinds:
            counts.setdefault(kinds[0], Counter())[fate] += 1
    return {name: {fate: of[fate] for fate in _LOST} for name, of in sorted(counts.items())}


def _fate(row: PairRow | None, pair: tuple[str, str], group_of: Mapping[str, int]) -> str:
    if group_of.get(pair[0], -1) == group_of.get(pair[1], -2):
        return "found"
    if row is None:
        return "not a candidate"
    if row.duplicate:
        return "group split"
    return "no alignment" if "transform" in row.evidence and row.evidence["transform"] is None else "score too low"


def _bytes(values: Any) -> NDArray[np.uint8]:
    """(N, width) of a fixed-size binary column."""
    joined = b"".join(values.to_pylist())
    return np.frombuffer(joined, np.uint8).reshape(len(values), -1)


def table(figures: Mapping[str, Any]) -> str:
    """The figures for people."""
    return "\n".join(_lines(figures))


def _lines(figures: Mapping[str, Any]) -> Iterator[str]:
    ranking, cost = figures["ranking"], figures["cost"]
    yield f"{figures['album']['name']}: {figures['album']['images']} pictures"
    yield _quality(ranking)
    for name in ("accepted", "grouped"):
        yield f"{name}: {_rate(figures[name])}"
    corrected = figures["relabelled"]
    if corrected is not None:
        yield f"with {corrected['pairs']} pairs called copies that the album calls strangers:"
        yield f"  {_quality(corrected['ranking'])}"
        yield f"  accepted: {_rate(corrected['accepted'])}; grouped: {_rate(corrected['grouped'])}"
    found = figures["candidates"]
    yield (
        f"candidates: {found['pairs']} pairs, recall {found['recall']:.4f}, "
        f"calibration error {found['calibration_error']:.4f}"
    )
    for k, of in figures["neighbours"].items():
        yield f"  nearest {k:>3}: recall {of['recall']:.4f} of {of['pairs']} pairs in {of['cpu_seconds']} s"
    yield (
        f"cost: {cost['cpu_seconds']} CPU-seconds ({cost['images_per_cpu_second']} pictures each), "
        f"{cost['wall_seconds']} s, peak {cost['peak_mib']} MiB"
    )
    for name, of in figures["others"].items():
        took = f"; {of['cpu_seconds']} CPU-seconds, {of['wall_seconds']} s" if "cpu_seconds" in of else ""
        yield f"{name}: {_quality(of['ranking'])}{took}"
        if corrected is not None:
            yield f"  those pairs called copies: {_quality(of['relabelled'])}"
    yield f"{'true pairs':<14}" + "".join(f"{fate:>17}" for fate in _LOST) + f"{'R@P99':>9}"
    for name, of in figures["true_pairs"].items():
        recall = ranking["recall"] if name == "all" else ranking["families"][name]["recall"]
        at = recall["0.99"]["recall"] if name == "all" else recall["0.99"]
        yield f"{name:<14}" + "".join(f"{of[fate]:>17}" for fate in _LOST) + f"{at:>9.3f}"


def _quality(ranking: Mapping[str, Any]) -> str:
    recalls = ", ".join(f"R@P{100 * float(p):g} {point['recall']:.3f}" for p, point in ranking["recall"].items())
    return f"mAP {ranking['map']:.3f}, µAP {ranking['micro_ap']:.3f}, {recalls}"


def _rate(of: Mapping[str, Any]) -> str:
    return f"precision {of['precision']:.3f} ({of['false']} false pairs), recall {of['recall']:.3f}"
