"""The release gate: does a challenger take anything away that the champion gives?

Both models see the same albums, and every comparison is paired: the same groups are drawn for both (bootstrap over groups).
A challenger is refused where it is worse by more than is allowed AND the draws say so with the wanted certainty:

* per edit family: average precision of the copies by the descriptor alone, and recall of the whole search: down by more
  than `allowed`; so too over all copies together;
* false pairs per million images: more, by the search at its own threshold, or by the descriptor where it finds as many true
  pairs as the two do, in the mean, at 99 % precision;
* speed, decoding included: below `speed` of the champion's pictures per second of processor time, measured in turns.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndd.config import DecodeLimits
from ndd.errors import UsageError
from ndd.find import Runner
from ndd.local import LocalRunner
from ndd.metrics.bootstrap import group_draws, weighted_mean
from ndd.metrics.intervals import MILLION_PAIRS
from ndd.model.directory import describe
from ndd.stages.decode import Decoder
from ndd.stages.embed import Embedder
from pipelines.album import ORIGINAL, Album, read_album
from pipelines.bench_methods import standout_rows
from pipelines.evaluate_embed import embed_album, search_album
from pipelines.evaluate_rank import Ranked, family_of_pairs, rank
from pipelines.tracking import content_digest

__all__ = ["ALLOWED", "SPEED", "SURE", "Verdict", "challenge"]

ALLOWED, SPEED, SURE = 0.01, 0.9, 0.8
_PRECISION = 0.99
_DRAWS, _TIMED = 1000, 24
_TURNS, _MOST_TURNS = 5, 20
ALL = "all families"

Values = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """promoted: may the challenger become champion? reasons: why not, one sentence each; empty if it may. figures: plain
    JSON values of everything that was compared."""

    promoted: bool
    reasons: tuple[str, ...]
    figures: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class _Seen:
    """One model on one album. values: measure → (value, family, group) of every copy. false: "search" → (left, right) groups
    of the accepted strangers. ranked: its descriptor's ranking."""

    ranked: Ranked
    values: Mapping[str, tuple[Values, NDArray[Any], NDArray[np.int64]]]
    false: Mapping[str, NDArray[np.int64]]


def challenge(
    challenger: Path,
    champion: Path,
    *,
    albums: Sequence[Path],
    work: Path | None = None,
    runner: Runner | None = None,
    search: bool = True,
    allowed: float = ALLOWED,
    speed: float = SPEED,
    sure: float = SURE,
    seed: int = 0,
) -> Verdict:
    """Compare two model directories on `albums`, folders with a groups.csv whose notes name the edit families.

    work: keeps vectors and evidence, so that the next challenger costs half; None keeps nothing. runner: threads of this
    process by default.
    search: also compare the whole search, not the descriptors alone. Raises UsageError without albums, ModelError.
    """
    if not albums:
        raise UsageError("the gate needs an album with known truth: --album, or a data folder to make one from")
    if content_digest(challenger) == content_digest(champion):
        return Verdict(promoted=False, reasons=("challenger and champion are the same model",), figures={})
    runner = runner or LocalRunner()
    truth = [read_album(Path(place)) for place in albums]
    pairs = []
    with tempfile.TemporaryDirectory(prefix="ndd-gate-") as scratch:
        for at, album in enumerate(truth):
            place = (work or Path(scratch)) / f"album-{at}"
            models = [_see(album, model, place, runner, search) for model in (champion, challenger)]
            pairs.append((models[0], models[1]))
    figures = {
        **_values(pairs, seed=seed, allowed=allowed),
        "false_pairs_per_million_images": _false(pairs, seed=seed),
        "speed": _speed(challenger, champion, truth[0], wanted=speed),
        "albums": [{"name": album.root.name, "images": len(album.images), "digest": album.digest()} for album in truth],
        "limits": {"allowed": allowed, "speed": speed, "sure": sure},
        "models": {
            name: describe(model).embedding_digest
            for name, model in (("challenger", challenger), ("champion", champion))
        },
    }
    reasons = tuple(_reasons(figures, allowed=allowed, speed=speed, sure=sure))
    return Verdict(promoted=not reasons, reasons=reasons, figures=figures)


def _see(album: Album, model: Path, work: Path, runner: Runner, search: bool) -> _Seen:
    held = embed_album(album, model, work, runner)
    if held.failures:
        first = held.failures[0]
        raise UsageError(f"{album.root}: {first.path}: {first.reason}; the gate's album wants readable pictures only")
    ranked = rank(album, standout_rows(held.vectors, describe(model)), low=-2.0, draws=1)
    copies = np.isfinite(ranked.result.query_ap) & (ranked.families != ORIGINAL)
    if not copies.any():
        copies = np.isfinite(ranked.result.query_ap)
    values = {"map": (ranked.result.query_ap[copies], ranked.families[copies], ranked.labels[copies])}
    false: dict[str, NDArray[np.int64]] = {}
    if search:
        found = search_album(album, model, work, runner)
        at = {row.image: number for number, row in enumerate(album.images)}
        accepted = [tuple(sorted((at[row.left], at[row.right]))) for row in found.pairs if row.duplicate]
        caught = set(accepted)
        hit = np.array([float((int(a), int(b)) in caught) for a, b in ranked.result.pairs])
        family = family_of_pairs(album, ranked.result.pairs)
        used = family != "" if (family != "").any() else np.ones(len(family), np.bool_)
        values["recall"] = (hit[used], family[used], ranked.labels[ranked.result.pairs[:, 0]][used])
        ends = np.array(accepted, np.int64).reshape(-1, 2)
        groups = ranked.labels[ends]
        false["search"] = groups[groups[:, 0] != groups[:, 1]]
    return _Seen(ranked, values, false)


def _values(pairs: Sequence[tuple[_Seen, _Seen]], *, seed: int, allowed: float) -> dict[str, Any]:
    """measure → family → champion, challenger, difference with interval, and how sure a loss of more than allowed is."""
    offsets = np.cumsum([0, *(int(seen.ranked.labels.max()) + 1 for seen, _ in pairs)])
    draws = group_draws(int(offsets[-1]), draws=_DRAWS, seed=seed)
    found: dict[str, Any] = {}
    for measure in pairs[0][0].values:
        old, new = (np.concatenate([pair[side].values[measure][0] for pair in pairs]) for side in (0, 1))
        family = np.concatenate([pair[0].values[measure][1] for pair in pairs])
        group = np.concatenate([pair[0].values[measure][2] + offsets[at] for at, pair in enumerate(pairs)])
        rows = {ALL: np.ones(len(family), np.bool_)} | {
            str(name): family == name for name in sorted(set(family) - {""})
        }
        found[measure] = {
            name: _difference(old[of], new[of], weighted_mean(new[of] - old[of], group[of], draws), allowed)
            for name, of in rows.items()
        }
    return found


def _difference(old: Values, new: Values, drawn: Values, allowed: float) -> dict[str, float]:
    known = drawn[np.isfinite(drawn)]
    low, high = np.quantile(known, [0.025, 0.975])
    return {
        "copies": len(old),
        "champion": float(old.mean()),
        "challenger": float(new.mean()),
        "difference": float(new.mean() - old.mean()),
        "low": float(low),
        "high": float(high),
        "sure_of_loss": float((known < -allowed).mean()),
    }


def _false(pairs: Sequence[tuple[_Seen, _Seen]], *, seed: int) -> dict[str, Any]:
    """search, descriptor → false pairs of both, and how sure it is that the challenger has more."""
    strangers = sum(seen.ranked.strangers.pairs for seen, _ in pairs)
    measures: dict[str, Callable[[_Seen, _Seen, NDArray[np.int64]], Values]] = {"descriptor": _false_of_descriptor}
    if all("search" in seen.false for pair in pairs for seen in pair):
        measures["search"] = _false_of_search
    found: dict[str, Any] = {}
    for measure, counted_by in measures.items():
        counts, drawn = np.zeros(2), np.zeros((2, _DRAWS))
        for at, (champion, challenger) in enumerate(pairs):
            groups = int(champion.ranked.labels.max()) + 1
            counts += counted_by(champion, challenger, np.ones((1, groups), np.int64))[:, 0]
            drawn += counted_by(champion, challenger, group_draws(groups, draws=_DRAWS, seed=seed + at))
        found[measure] = {
            "champion": float(counts[0] * MILLION_PAIRS / strangers),
            "challenger": float(counts[1] * MILLION_PAIRS / strangers),
            "counted": {"champion": round(counts[0]), "challenger": round(counts[1]), "strangers": strangers},
            "sure_of_more": float((drawn[1] > drawn[0]).mean()),
        }
    return found


def _false_of_search(champion: _Seen, challenger: _Seen, draws: NDArray[np.int64]) -> Values:
    """(2, B) strangers that each search accepted at its own threshold, for draws (B, G) of the groups."""
    both = [
        draws[:, wrong[:, 0]] * draws[:, wrong[:, 1]]
        for wrong in (seen.false["search"] for seen in (champion, challenger))
    ]
    return np.array([of.sum(axis=1) for of in both], np.float64)


def _false_of_descriptor(champion: _Seen, challenger: _Seen, draws: NDArray[np.int64]) -> Values:
    """(2, B) strangers that each descriptor accepts where it finds as much as both find, in the mean, at 99 % precision.

    The threshold is set anew in every draw: it hangs on the score of a single pair, and with it the count may jump by half
    between two models that differ in nothing that matters. And neither model chooses the recall alone: where one's own
    precision has just 99 %, its count is low by choice, and models that differed by made-up noise alone seemed worse in 55 %
    of the draws (docs/LOG.md, "a gate that chance can close").
    """
    rankings = [seen.ranked.weighted() for seen in (champion, challenger)]
    found = np.zeros((2, len(draws)))
    for at, weights in enumerate(draws):
        recall = np.mean([ranking.figures(weights, precisions=(_PRECISION,))[1][0] for ranking in rankings])
        if recall > 0.0:  # neither nothing found nor nan
            found[:, at] = [ranking.false_at_recall(weights, float(recall)) for ranking in rankings]
    return found


def _speed(challenger: Path, champion: Path, album: Album, *, wanted: float) -> dict[str, float]:
    """Pictures per second of processor time, decoding included, the two in turns.

    Of each its quickest turn counts: neighbours on a shared machine can only take from a measurement. More turns where the
    challenger seems too slow."""
    contents = [(album.root / row.image).read_bytes() for row in album.images[:_TIMED]]
    said = [describe(model) for model in (champion, challenger)]
    tools = [(Decoder(DecodeLimits(), size=of.config.image_size), Embedder(of)) for of in said]
    spent: list[list[float]] = [[], []]
    for turn in range(_MOST_TURNS + 1):
        if turn > _TURNS and min(spent[0]) / min(spent[1]) >= wanted:
            break
        for side, (decoder, embedder) in enumerate(tools):
            start = time.process_time()
            embedder.embed(np.stack([decoder.read(content).canvas for content in contents]))
            if turn:  # the first round warms up
                spent[side].append(time.process_time() - start)
    rates = [len(contents) / min(times) for times in spent]
    return {"champion": rates[0], "challenger": rates[1], "ratio": rates[1] / rates[0]}


def _reasons(figures: Mapping[str, Any], *, allowed: float, speed: float, sure: float) -> Iterator[str]:
    words = {"map": "average precision", "recall": "recall of the search"}
    for measure, said in words.items():
        for family, of in figures.get(measure, {}).items():
            if of["difference"] < -allowed and of["sure_of_loss"] >= sure:
                yield (
                    f"{family}: {said} {of['champion']:.3f} → {of['challenger']:.3f} over {of['copies']} copies, more than "
                    f"{allowed:g} below ({100 * of['sure_of_loss']:.0f} % of the draws)"
                )
    for measure, of in figures["false_pairs_per_million_images"].items():
        counted = of["counted"]
        if counted["challenger"] > counted["champion"] and of["sure_of_more"] >= sure:
            yield (
                f"false pairs of the {measure}: {counted['champion']} → {counted['challenger']}, that is "
                f"{of['champion']:,.0f} → {of['challenger']:,.0f} per million images ({100 * of['sure_of_more']:.0f} % of "
                "the draws)"
            )
    ratio = figures["speed"]["ratio"]
    if ratio < speed:
        yield f"speed: {ratio:.2f} of the champion's pictures per second, below {speed:g}"
