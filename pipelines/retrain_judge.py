"""Challengers of a retraining, recalibrated and compared with the champion: the trained network first, then the score alone.

A network that learnt from a few decisions need not be a better one, and the gate refuses those that are not. What people said
of pairs teaches the score all the same: labels refit it, audits move it. Where either is enough, the champion's network with
such a score is the second challenger.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ndd.data.manifest import ManifestRow
from ndd.model.directory import CALIBRATION, CONFIG, EVIDENCE
from ndd.types import Decision, ImageId
from pipelines.recalibrate import audited, recalibrate, sure_of_loss
from pipelines.refine import refine, restore
from pipelines.retrain_notes import read_note, write_note

__all__ = ["MODEL", "SCORE", "Judged", "judge"]

MODEL, SCORE = "model", "score"
"""Directories of the challengers: the trained network with its score, and the champion's network with a new score."""

_TIE = 0.0005
"""Differences as small as rounding makes them."""
_SAID = {"map": "average precision of the descriptor", "recall": "recall of the search"}


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What came of it. challenger: MODEL or SCORE. audits, labels, verdict: what audits, the labels that taught and the gate
    say of that one. refused: why the trained network was refused, where SCORE stands in for it."""

    challenger: str
    audits: Mapping[str, Any]
    labels: Mapping[str, Any]
    verdict: Mapping[str, Any]
    refused: tuple[str, ...] = ()


def judge(
    directory: Path,
    champion: Path,
    rows: Sequence[ManifestRow],
    train: Sequence[Decision],
    audits: Sequence[Decision],
    *,
    albums: Sequence[str | os.PathLike[str]],
    sure: float,
) -> Judged:
    """Judge the attempt in `directory`, whose training is over; what a file there says already is not done again.

    train: the decisions that teach; audits: those that measure. albums: to compare on, beside the attempt's own. sure: how
    sure a loss must be to count.
    """
    compared_on = [directory / "album", *map(Path, albums)]

    def try_out(challenger: str) -> Judged:
        human = _calibrated(directory, champion, rows, train, audits, challenger)
        return Judged(
            challenger=challenger,
            audits={name: value for name, value in human.items() if name != "labels"},
            labels=human["labels"],
            verdict=_compared(directory, champion, human, challenger, albums=compared_on, sure=sure),
        )

    trained = try_out(MODEL)
    if trained.verdict["promoted"]:
        return trained
    score = try_out(SCORE)
    if not score.verdict["promoted"]:
        return trained
    return replace(score, refused=tuple(trained.verdict["reasons"]))


def _calibrated(
    directory: Path,
    champion: Path,
    rows: Sequence[ManifestRow],
    train: Sequence[Decision],
    audits: Sequence[Decision],
    challenger: str,
) -> dict[str, Any]:
    """Make the challenger: a network with the champion's calibration, refined by the labels, then moved by the audits; what
    both say of it."""
    target, uri_of = directory / challenger, {ImageId(row.id): row.uri for row in rows}
    note = directory / _of(challenger, "audits.json")
    done = read_note(note)
    if done is None or not (target / CONFIG).is_file():
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(directory / "run" / "model" if challenger == MODEL else champion, target)
        for name in (CALIBRATION, EVIDENCE):
            if (champion / name).is_file():
                shutil.copyfile(champion / name, target / name)
        restore(target)
        priors = read_note(directory / "priors.json") or {}
        labels = refine(target, train, uri_of, prior_of=priors)
        before, after = (audited(m, audits, uri_of, prior_of=priors) for m in (champion, target))
        moved = recalibrate(target, after)
        done = {
            "champion": before.figures(),
            "challenger": moved,
            "labels": labels,
            "sure_of_loss": sure_of_loss(before, after),
        }
        write_note(note, done)
    return done


def _compared(
    directory: Path,
    champion: Path,
    human: Mapping[str, Any],
    challenger: str,
    *,
    albums: Sequence[Path],
    sure: float,
) -> dict[str, Any]:
    """The gate's verdict, and people's."""
    if challenger == SCORE and not (human["labels"]["refined"] or human["challenger"]["moved"]):
        return {"promoted": False, "reasons": ["the score stays as it was"], "figures": {}}
    note = directory / _of(challenger, "verdict.json")
    done = read_note(note)
    if done is None:
        from pipelines.promote import challenge
        from pipelines.session import default_workers, ray_session
        from pipelines.stages import RayRunner

        workers = default_workers()
        with ray_session(workers=workers):
            verdict = challenge(
                directory / challenger,
                champion,
                albums=albums,
                work=directory / "gate",
                runner=RayRunner(workers=workers),
                sure=sure,
            )
        reasons = [*verdict.reasons, *_by_audits(human, sure)]
        if challenger == MODEL:
            reasons += _without_gain(verdict.figures)
        done = {"promoted": not reasons, "reasons": reasons, "figures": dict(verdict.figures)}
        write_note(note, done)
    return done


def _of(challenger: str, name: str) -> str:
    """The file that says `name` of a challenger."""
    return name if challenger == MODEL else f"{challenger}-{name}"


def _by_audits(human: Mapping[str, Any], sure: float) -> Iterator[str]:
    """Why not, by the word of people."""
    loss = human["sure_of_loss"]
    if loss is not None and loss >= sure:
        before, after = (human[name]["roc_auc"] for name in ("champion", "challenger"))
        yield f"audited pairs: ROC-AUC {before:.3f} → {after:.3f} ({100 * loss:.0f} % of the draws)"


def _without_gain(figures: Mapping[str, Any]) -> Iterator[str]:
    """Why not: a network that is better nowhere and worse somewhere, if not surely. Else many small losses would add up."""
    whole = {name: figures[name]["all families"]["difference"] for name in ("map", "recall") if name in figures}
    if whole and max(whole.values()) < _TIE and min(whole.values()) <= -_TIE:
        told = ", ".join(f"{_SAID[name]} {value:+.4f}" for name, value in whole.items())
        yield f"nothing is gained on edited copies: {told}"
