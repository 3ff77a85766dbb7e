"""A model's score refitted with what people said of pairs that were chosen to teach (`pipelines.score_fit.refit`).

The evidence that the calibration was fitted to lies beside the model and speaks again, so nothing is forgotten; every
retraining goes back to the fit that the album alone gave and adds all answers that stand, so nothing is learnt twice and an
answer that was taken back has no part any more.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ndd.data.manifest import join_groups
from ndd.detector import Detector
from ndd.files import atomic_path
from ndd.model.directory import CALIBRATION, describe
from ndd.types import Decision, ImageId
from ndd.verify.score import DEFAULT_CALIBRATION, VERIFIED_FEATURES, expand, features
from pipelines.answered import look_at, priors_of
from pipelines.calibrate import evidence_of
from pipelines.score_fit import Taught, refit, sections

__all__ = ["LEAST", "refine", "restore"]

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.bool_]

LEAST = 20
"""Labelled pairs below which the score stays as it is; at least 5 of either kind."""
_EITHER = 5
_FOLDS = 5


def restore(model: Path) -> None:
    """Take out of the calibration of `model` what people's answers made of it: it is as the album alone gave it."""
    table = describe(model).calibration
    if table is not None and "fitted" in table:
        kept = {name: value for name, value in table.items() if name not in ("fitted", "labels", "audits")}
        _write(model, {**kept, **table["fitted"], "source": table["source"].split(",")[0]})


def refine(
    model: Path, decisions: Sequence[Decision], uri_of: Mapping[ImageId, str], *, prior_of: Mapping[str, float]
) -> dict[str, Any]:
    """Write into the calibration of `model` what its album and `decisions` teach together; what was done, as JSON values.

    The calibration is to be that of the album alone (`restore`). It is written only if labels that were held out are told apart
    better by it (log loss; five folds, each of other pictures as far as that goes) than by the album's own fit. Nothing
    is done where the model does not bring its album's evidence, or where there are few labels or one kind of them. uri_of,
    prior_of: see `pipelines.answered`.
    """
    taught = Taught.load(model)
    if taught is None:
        return {"refined": False, "why_not": "the model does not bring the evidence that its score was fitted to"}
    answered = look_at(Detector(model), decisions, uri_of)
    evidence = [evidence_of(match) for match in answered.matches]
    used = [at for at, e in enumerate(evidence) if e.geometry is not None and not e.identical]
    values = np.array([features(evidence[at]) for at in used]).reshape(len(used), len(VERIFIED_FEATURES))
    truth, prior = answered.truth[used], priors_of(answered, prior_of)[used]
    told: dict[str, Any] = {"pairs": len(used), "duplicates": int(truth.sum()), "lost": len(decisions) - len(used)}
    if len(used) < LEAST or min(told["duplicates"], len(used) - told["duplicates"]) < _EITHER:
        return told | {
            "refined": False,
            "why_not": f"{len(used)} labelled pairs are near enough to be compared in detail, {told['duplicates']} of them "
            f"duplicates; {LEAST} with {_EITHER} of either kind are wanted",
        }
    table = describe(model).calibration or DEFAULT_CALIBRATION
    folds = _folds([answered.decisions[at] for at in used])
    before, after = _log_loss(taught, values, truth, prior, folds)
    told["log_loss"] = {"before": round(before, 4), "after": round(after, 4)}
    if not after < before:
        return told | {"refined": False, "why_not": "labels that were held out are told apart no better"}
    made = refit(taught, values, truth, prior)
    source = f"{table['source']}, then refined by labels"
    _write(model, {**table, **made, "source": source, "labels": told, "fitted": sections(table)})
    return told | {"refined": True}


def _write(model: Path, table: Mapping[str, Any]) -> None:
    with atomic_path(model / CALIBRATION) as temporary:
        temporary.write_text(json.dumps(dict(table), indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _folds(decisions: Sequence[Decision]) -> Iterator[Labels]:
    """Which labels each fold holds out. Those that share a picture are in one fold, chains of them too, as long as a chain fits
    into one; the pairs of a longer one are dealt out."""
    first: dict[ImageId, int] = {}
    links = [(first.setdefault(id, at), at) for at, d in enumerate(decisions) for id in (d.left_id, d.right_id)]
    chain_of = join_groups([str(at) for at in range(len(decisions))], links)
    size = Counter(chain_of)
    names = [c if size[c] * _FOLDS <= len(decisions) else f"{c} {at}" for at, c in enumerate(chain_of)]
    number = {name: at for at, name in enumerate(sorted(set(names)))}
    fold = np.array([number[name] % _FOLDS for name in names])
    yield from (fold == at for at in range(_FOLDS))


def _log_loss(
    taught: Taught, values: Floats, truth: Labels, prior: Floats, folds: Iterator[Labels]
) -> tuple[float, float]:
    """Of the labels, by the album's own fit and by fits that saw the labels of the other folds too."""
    nothing = np.zeros(len(truth), np.bool_)
    alone = refit(taught, values[nothing], truth[nothing], prior[nothing])
    before, after = np.zeros(len(truth)), np.zeros(len(truth))
    for held in folds:
        rest = ~held
        for section, losses in ((alone, before), (refit(taught, values[rest], truth[rest], prior[rest]), after)):
            columns = expand(values[held], VERIFIED_FEATURES, section["features"])
            odds = columns @ np.asarray(section["weights"], np.float64) + section["bias"]
            odds = odds + np.log(prior[held]) - np.log1p(-prior[held])
            losses[held] = np.logaddexp(0.0, np.where(truth[held], -odds, odds))
    return float(before.mean()), float(after.mean())
