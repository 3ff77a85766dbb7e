"""What asking people is worth: the gain of a model by the number of labels, for three ways of choosing whom to ask about.

A score is fitted to one album without one family of edits, as if that had never been seen. Then pairs of a second album, which
holds all families, are labelled (the ground truth answers), chosen by `ndd.select`, by plain uncertainty or at random, all from
the same candidates; the score is fitted again with the labels, and judged on a third album of other photographs. Evidence is
computed once, by three searches; the albums take turns in the three parts. What is compared is the choice alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ndd.candidates import read_candidates
from ndd.errors import UsageError
from pipelines.album import Album
from pipelines.bench_loop_curve import BUDGETS, CHOICES, curve
from pipelines.bench_loop_data import PARTS, Pool, pool_of
from pipelines.edits import FAMILIES

__all__ = ["best_of_all", "labels_saved", "measure", "table"]

Floats = npt.NDArray[np.float64]


def labels_saved(curves: Mapping[str, Sequence[float]], *, budgets: Sequence[int] = BUDGETS) -> dict[str, float | None]:
    """For each budget of random labels: the share of it that `chosen` needs for the same F1 (by straight lines between the
    points); None where it does not get there."""
    at = [0, *budgets]
    ours = np.maximum.accumulate(curves["chosen"])
    shares: dict[str, float | None] = {}
    for budget, wanted in zip(at[1:], curves["random"][1:], strict=True):
        reached = next((i for i, f1 in enumerate(ours) if f1 >= wanted), None)
        if reached is None:
            shares[str(budget)] = None
        elif reached == 0:
            shares[str(budget)] = 0.0
        else:
            low, high = ours[reached - 1], ours[reached]
            part = (wanted - low) / (high - low)
            shares[str(budget)] = float((at[reached - 1] + part * (at[reached] - at[reached - 1])) / budget)
    return shares


def measure(
    runs: Sequence[Path], albums: Sequence[Album], *, without: str, seeds: int, plot: Path | None = None
) -> dict[str, Any]:
    """The curves as JSON values: mean and 95 % interval (Student's, over the seeds) of F1 for each choice and budget.

    runs, albums: of the three parts. without: the family of edits that the first score has not seen. seeds: repetitions, each
    with another part for each album as long as there are any. plot: a PNG to draw them to. Raises UsageError.
    """
    from scipy.stats import t as student  # type: ignore[import-untyped]  # comes with scikit-learn

    if without not in FAMILIES or seeds < 1:
        raise UsageError(f"{without!r}, {seeds} seeds: give a family ({', '.join(FAMILIES)}) and at least one seed")
    pools = [pool_of(read_candidates(run), album) for run, album in zip(runs, albums, strict=True)]
    turns = _turns(seeds)
    f1 = {
        c: np.array([curve(*_of(pools, t), without=without, choice=c, seed=s) for s, t in enumerate(turns)])
        for c in CHOICES
    }
    width = float(student.ppf(0.975, max(seeds - 1, 1))) / np.sqrt(seeds)
    half = {c: width * v.std(axis=0, ddof=1) if seeds > 1 else 0 * v[0] for c, v in f1.items()}
    mean = {c: v.mean(axis=0) for c, v in f1.items()}
    if plot is not None:
        _draw(plot, mean, half)
    return {
        "labels": [0, *BUDGETS],
        "without": without,
        "seeds": seeds,
        "pairs": [len(pool.truth) for pool in pools],
        "duplicates": [int(pool.truth.sum()) for pool in pools],
        "f1": {
            c: {"mean": mean[c].tolist(), "half_interval": half[c].tolist(), "each": f1[c].tolist()} for c in CHOICES
        },
        "all_labels": float(np.mean([best_of_all(*_of(pools, turn), without=without) for turn in turns])),
        "share_of_random": labels_saved({c: mean[c].tolist() for c in CHOICES}),
    }


def best_of_all(first: Pool, pool: Pool, test: Pool, *, without: str) -> float:
    """F1 with every label of the pool: what there is to gain."""
    whole = len(pool.truth)
    return curve(first, pool, test, without=without, choice="random", seed=0, budgets=(whole,), round_=whole)[-1]


def _turns(seeds: int) -> list[tuple[int, ...]]:
    """Which album is the first, the pool, the test: every album each of them once in the first three."""
    orders = list(permutations(range(PARTS)))
    cyclic = [orders[0], orders[3], orders[4]]
    every = cyclic + [order for order in orders if order not in cyclic]
    return [every[at % len(every)] for at in range(seeds)]


def _of(pools: Sequence[Pool], turn: Sequence[int]) -> tuple[Pool, Pool, Pool]:
    return pools[turn[0]], pools[turn[1]], pools[turn[2]]


def table(figures: Mapping[str, Any]) -> str:
    """The curves for a person."""
    lines = ["labels    " + "".join(f"{choice:>18}" for choice in CHOICES)]
    for at, labels in enumerate(figures["labels"]):
        cells = ((figures["f1"][c]["mean"][at], figures["f1"][c]["half_interval"][at]) for c in CHOICES)
        lines.append(
            f"{labels:>6}    " + "".join(f"{mean:>11.4f} ± {half:.4f}"[-18:].rjust(18) for mean, half in cells)
        )
    lines.append(f"all labels of the pool: {figures['all_labels']:.4f}")
    shares = {n: "more" if share is None else f"{share:.2f}" for n, share in figures["share_of_random"].items()}
    lines.append(
        "labels needed for the F1 of random ones, as a share of theirs: "
        + ", ".join(f"{n}: {s}" for n, s in shares.items())
    )
    return "\n".join(lines)


def _draw(path: Path, mean: Mapping[str, Floats], half: Mapping[str, Floats]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for choice in CHOICES:
        axes.errorbar([0, *BUDGETS], mean[choice], yerr=half[choice], label=choice, capsize=3)
    axes.set_xlabel("labels")
    axes.set_ylabel("F1 on other photographs")
    axes.legend()
    figure.savefig(path, dpi=120)
