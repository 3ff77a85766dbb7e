"""How a score grows with labels: fitted to one album, refitted with labels of a second, judged on a third.

The score is a logistic regression on the evidence about a pair (`ndd.verify.score.features`), its squares and products. Labels
refine it in the way of Bayes: what the first album said is a Gaussian around its weights (Laplace's approximation), worth
`_FIRST` labels. So a few labels bend what they speak of and leave the rest, and it does not matter to the fit that they were
chosen by the evidence: given that, they are drawn from the same conditional distribution.

Shapes: P pairs, F features, D = F + F (F + 1) / 2 columns.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ndd.select import select, uncertainty
from ndd.verify.score import estimate_prior
from pipelines.bench_loop_data import Pool

__all__ = ["BUDGETS", "CHOICES", "Known", "curve", "draw", "f1_at_even_odds", "learnt", "refined"]

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.int64]

BUDGETS = (50, 100, 200, 400)
CHOICES = ("chosen", "uncertain", "random")
_RIDGE = 5.0
"""Pull of the first fit's weights towards 0, per squared unit of a standardised column, in pairs."""
_FIRST = 1000.0
"""What the first album is worth beside labels, in labels. 300 and 3,000 were tried: random labels gain no more by them."""
_ROUND = 50
"""Labels after which the score is fitted anew, and with it the uncertainty."""
_FAR = 6.0
"""Standardised columns are cut there, or one strange pair would weigh as much as hundreds."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Known:
    """What an album taught. weights: (D + 1,), bias last; precision: (D + 1, D + 1) of the Gaussian around them; prior: share
    of duplicates among its pairs, which the scores hold under. mean, spread, of features and of columns, standardise."""

    weights: Floats
    precision: Floats
    prior: float
    scales: tuple[Floats, Floats, Floats, Floats]

    def columns(self, values: Floats) -> Floats:
        """(P, D + 1) standardised columns of (P, F) features."""
        mean, spread, column_mean, column_spread = self.scales
        columns = (_products((values - mean) / spread) - column_mean) / column_spread
        return np.hstack([np.clip(columns, -_FAR, _FAR), np.ones((len(values), 1))])


def learnt(values: Floats, truth: Labels) -> Known:
    """The first fit, to all pairs of an album."""
    mean, spread = values.mean(axis=0), values.std(axis=0) + 1e-9
    products = _products((values - mean) / spread)
    bare = Known(
        weights=np.zeros(products.shape[1] + 1),
        precision=np.diag([*np.full(products.shape[1], _RIDGE), 1e-6]),
        prior=float(truth.mean()),
        scales=(mean, spread, products.mean(axis=0), products.std(axis=0) + 1e-9),
    )
    design = bare.columns(values)
    weights = refined(bare, design, truth)
    p = _sigmoid(design @ weights)
    curvature = (design * (p * (1 - p))[:, None]).T @ design + bare.precision
    return dataclasses.replace(
        bare, weights=weights, precision=curvature * (_FIRST / len(truth)) + 1e-6 * np.eye(len(weights))
    )


def refined(known: Known, design: Floats, truth: Labels) -> Floats:
    """(D + 1,) weights after labels: the mode of log likelihood and the Gaussian of `known`, by Newton steps."""
    weights = known.weights.copy()
    for _ in range(100):
        p = _sigmoid(design @ weights)
        gradient = design.T @ (p - truth) + known.precision @ (weights - known.weights)
        move = np.linalg.solve((design * (p * (1 - p))[:, None]).T @ design + known.precision, gradient)
        weights = weights - move * min(1.0, 2.0 / max(float(np.abs(move).max()), 1e-12))
        if np.abs(move).max() < 1e-8:
            break
    return np.asarray(weights, np.float64)


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
    known = learnt(first.values[seen], first.truth[seen])
    ask, judge = known.columns(pool.values), known.columns(test.values)
    weights, asked = known.weights, np.zeros(0, np.int64)
    told = [f1_at_even_odds(_sigmoid(judge @ weights), test.truth, prior=known.prior)]
    for budget in budgets:
        while len(asked) < min(budget, len(pool.truth)):
            count = min(round_, budget - len(asked))
            fresh = draw(
                pool, _sigmoid(ask @ weights), asked, choice=choice, count=count, seed=seed * 1000 + len(asked)
            )
            if not len(fresh):
                break
            asked = np.concatenate([asked, fresh])
            weights = refined(known, ask[asked], pool.truth[asked])
        told.append(f1_at_even_odds(_sigmoid(judge @ weights), test.truth, prior=known.prior))
    return told


def draw(pool: Pool, score: Floats, asked: Rows, *, choice: str, count: int, seed: int) -> Rows:
    """`count` rows of the pool that were not asked yet."""
    rest = np.setdiff1d(np.arange(len(pool.truth)), asked)
    if choice == "random":
        return np.random.default_rng(seed).permutation(rest)[:count]
    if choice == "uncertain":
        return rest[np.argsort(-uncertainty(score[rest]), kind="stable")[:count]]
    known = pool.candidates
    now = dataclasses.replace(
        known,
        left=known.left[rest],
        right=known.right[rest],
        score=score[rest],
        descriptor=None if known.descriptor is None else known.descriptor[rest],
    )
    return rest[[c.row for c in select(now, count=count, audit_share=0.0, seed=seed)]]


def f1_at_even_odds(score: Floats, truth: Labels, *, prior: float) -> float:
    """F1 of the pairs that are accepted by their own calibrated score: the prior is estimated anew from the scores, as a
    search does it, and whatever is more likely a duplicate than not counts. No truth goes into the threshold."""
    fresh = estimate_prior(score, prior=prior)
    odds = score / np.maximum(1.0 - score, 1e-17) * (fresh / (1.0 - fresh)) / (prior / (1.0 - prior))
    accepted = odds >= 1.0
    return float(2 * (accepted & truth).sum() / max(accepted.sum() + truth.sum(), 1))


def _products(values: Floats) -> Floats:
    a, b = np.triu_indices(values.shape[1])
    return np.hstack([values, values[:, a] * values[:, b]])


def _sigmoid(x: Floats) -> Floats:
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(x, -36.0, 36.0))), np.float64)
