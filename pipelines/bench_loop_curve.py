"""How a score grows with labels: fitted to one album, refitted with labels of a second, judged on a third.

Fitted and refitted as `python -m pipelines calibrate` and `retrain` do it (`pipelines.score_fit`).

Shapes: P pairs, F features.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ndd.select import select, uncertainty
from ndd.verify.score import VERIFIED_FEATURES, estimate_prior, expand
from pipelines.bench_loop_data import Pool
from pipelines.score_fit import Taught, refit

__all__ = ["BUDGETS", "CHOICES", "curve", "draw", "f1_at_even_odds"]

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.int64]

BUDGETS = (50, 100, 200, 400)
CHOICES = ("chosen", "uncertain", "random")
_ROUND = 50
"""Labels after which the score is fitted anew, and with it the uncertainty."""
_EVEN = 0.5
"""Share of duplicates that a fitted score holds under."""


def curve(
    first: Pool,
    pool: Pool,
    test: Pool,
    *,
    without: str,
    choice: str,
    seed: int,
    budgets: Sequence[int] = BUDGETS,
    round_: int = _ROUND,
) -> list[float]:
    """F1 on `test` with 0 and with each of `budgets` labels of `pool`. without: the family of edits that is left out of
    `first`. seed: of all that is random in the choice. round_: labels after which the score is fitted anew."""
    seen = np.array([without not in edits for edits in first.edits])
    taught = Taught(values=first.values[seen], truth=first.truth[seen])
    asked = np.zeros(0, np.int64)
    score = _refitted(taught, pool, asked, np.zeros(0))
    told = [f1_at_even_odds(_scores(score, test.values), test.truth)]
    for budget in budgets:
        while len(asked) < min(budget, len(pool.truth)):
            count = min(round_, budget - len(asked))
            found = _scores(score, pool.values)
            prior = estimate_prior(found, prior=_EVEN)
            fresh = draw(pool, _under(found, prior), asked, choice=choice, count=count, seed=seed * 1000 + len(asked))
            if not len(fresh):
                break
            asked = np.concatenate([asked, fresh])
            score = _refitted(taught, pool, asked, np.full(len(asked), prior))
        told.append(f1_at_even_odds(_scores(score, test.values), test.truth))
    return told


def _refitted(taught: Taught, pool: Pool, asked: Rows, prior: Floats) -> Mapping[str, Any]:
    return refit(taught, pool.values[asked], pool.truth[asked], prior)


def _scores(section: Mapping[str, Any], values: Floats) -> Floats:
    """(P,) probabilities under even odds."""
    columns = expand(values, VERIFIED_FEATURES, section["features"])
    return _sigmoid(columns @ np.asarray(section["weights"], np.float64) + section["bias"])


def _under(score: Floats, prior: float) -> Floats:
    """The same evidence where a share of `prior` are duplicates."""
    odds = score / np.maximum(1.0 - score, 1e-17) * prior / (1.0 - prior)
    return np.asarray(odds / (1.0 + odds), np.float64)


def draw(pool: Pool, score: Floats, asked: Rows, *, choice: str, count: int, seed: int) -> Rows:
    """`count` rows of the pool that were not asked yet."""
    rest = np.setdiff1d(np.arange(len(pool.truth)), asked)
    if choice == "random":
        return np.random.default_rng(seed).permutation(rest)[:count]
    if choice == "uncertain":
        return rest[np.argsort(-uncertainty(score[rest]), kind="stable")[:count]]
    now = dataclasses.replace(pool.candidates, score=score)
    names = now.pair_ids()
    chosen = select(now, count=count, audit_share=0.0, seed=seed, exclude={names[at] for at in asked})
    return np.array([choice.row for choice in chosen], np.int64)


def f1_at_even_odds(score: Floats, truth: Labels) -> float:
    """F1 of the pairs that are accepted by their own calibrated score: the prior is estimated from the scores, as a search
    does it, and whatever is more likely a duplicate than not counts. No truth goes into the threshold."""
    accepted = _under(score, estimate_prior(score, prior=_EVEN)) >= 0.5
    return float(2 * (accepted & truth).sum() / max(accepted.sum() + truth.sum(), 1))


def _sigmoid(x: Floats) -> Floats:
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(x, -36.0, 36.0))), np.float64)
