"""What asking people is worth: the gain of a model by the number of labels, for three ways of choosing whom to ask about.

A score is fitted without one family of edits, as if that had never been seen. Then pairs of a second album, which holds all
families, are labelled (the ground truth answers), chosen by `ndd.select`, by plain uncertainty or at random, all from the
same candidates; the score is fitted again with the labels, and judged on a third album of other photographs. Evidence is
computed once, by three searches; what is compared is the choice alone.

Shapes: P pairs, F features.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ndd.candidates import FindRun, read_candidates
from ndd.config import FindConfig
from ndd.errors import UsageError
from ndd.find import FindRequest, find
from ndd.local import LocalRunner
from ndd.select import Candidates, select, uncertainty
from ndd.verify.score import features
from pipelines.album import Album, build_album, read_album, read_tar
from pipelines.calibrate import evidence_of
from pipelines.edits import FAMILIES

__all__ = [
    "BUDGETS",
    "CHOICES",
    "Pool",
    "albums",
    "best_f1",
    "curve",
    "draw",
    "fitted",
    "labels_saved",
    "measure",
    "pool_of",
    "search",
    "table",
]

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.bool_]

BUDGETS = (50, 100, 200, 400)
CHOICES = ("chosen", "uncertain", "random")
_RIDGE = 0.1
"""Pull of the weights towards those before, per squared unit of a standardised feature, in pairs."""
_FIRST = 60.0
"""Weight of all pairs of the first album together, in labels: what was known before is not forgotten."""
_ROUND = 50
"""Labels after which the score is fitted anew, and with it the uncertainty."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Pool:
    """The verified pairs of a searched album. values: (P, F) features; truth: (P,) True for duplicates."""

    values: Floats
    truth: Labels
    candidates: Candidates


def albums(data: Path, work: Path, *, photos: int, without: str, seed: int) -> list[Album]:
    """Three albums of different photographs with four copies each, and single pictures: the first without a family of
    edits, the pool and the test with all. Those that are there are used again. Raises UsageError."""
    corpus = data / "corpus"
    heldout = sorted(read_tar(corpus / "heldout-photos.tar"), key=lambda photo: photo.name)
    singles = list(islice(read_tar(corpus / "reserve.tar"), 3 * photos))
    if without not in FAMILIES or not 10 <= photos <= len(heldout) // 3:
        known = ", ".join(FAMILIES)
        raise UsageError(f"{without!r}, {photos} photos: give a family ({known}) and 10 to {len(heldout) // 3} photos")
    some = tuple(name for name in FAMILIES if name != without)
    made = []
    for part, (name, families) in enumerate((("first", some), ("pool", tuple(FAMILIES)), ("test", tuple(FAMILIES)))):
        place = work / f"loop-{photos}-{seed}-{without}" / name
        share = slice(part * photos, (part + 1) * photos)
        if (place / "groups.csv").is_file():
            made.append(read_album(place))
            continue
        fresh = build_album(
            heldout[share], place, copies=4, families=families, seed=seed + part, singles=singles[share]
        )
        made.append(fresh)
    return made


def search(album: Album, *, model: Path | None) -> Path:
    """The folder of a search in the album that keeps every candidate."""
    out = album.root.with_name(album.root.name + "-found")
    request = FindRequest(paths=[album.root], out=out, config=FindConfig(floor=0.0), model=model, overwrite=True)
    find(request, LocalRunner())
    return out


def pool_of(run: FindRun, album: Album) -> Pool:
    """The pairs of a run over `album` that keypoints were compared for, with the truth about them."""
    group = {row.image: row.group for row in album.images}
    kept = [at for at, row in enumerate(run.rows) if evidence_of(row).geometry is not None]
    rows = [run.rows[at] for at in kept]
    known = run.candidates
    return Pool(
        values=np.array([features(evidence_of(row)) for row in rows]),
        truth=np.array([group[row.left] == group[row.right] for row in rows], np.bool_),
        candidates=dataclasses.replace(
            known,
            left=known.left[kept],
            right=known.right[kept],
            score=known.score[kept],
            descriptor=None if known.descriptor is None else known.descriptor[kept],
        ),
    )


def curve(
    first: Pool, pool: Pool, test: Pool, *, choice: str, seed: int, budgets: Sequence[int] = BUDGETS
) -> list[float]:
    """F1 on `test` with 0 and with each of `budgets` labels of `pool`, at the best threshold (see `best_f1`).

    The seed draws a first album's sample (half of its pairs) and all that is random in the choice.
    """
    random = np.random.default_rng(seed)
    mean, spread = first.values.mean(axis=0), first.values.std(axis=0) + 1e-9
    scale = [(p.values - mean) / spread for p in (first, pool, test)]
    half = random.permutation(len(first.truth))[: len(first.truth) // 2]
    known, weight = (scale[0][half], first.truth[half]), np.full(len(half), _FIRST / len(half))
    start = fitted(*known, weight, towards=np.zeros(scale[0].shape[1] + 1))
    weights, asked = start, np.zeros(0, np.int64)
    told = [best_f1(_score(weights, scale[2]), test.truth)]
    for budget in budgets:
        while len(asked) < min(budget, len(pool.truth)):
            count = min(_ROUND, budget - len(asked))
            fresh = draw(
                pool, _score(weights, scale[1]), asked, choice=choice, count=count, seed=seed * 1000 + len(asked)
            )
            if not len(fresh):
                break
            asked = np.concatenate([asked, fresh])
            values = np.concatenate([known[0], scale[1][asked]])
            truth = np.concatenate([known[1], pool.truth[asked]])
            weights = fitted(values, truth, np.concatenate([weight, np.ones(len(asked))]), towards=start)
        told.append(best_f1(_score(weights, scale[2]), test.truth))
    return told


def draw(
    pool: Pool, score: Floats, asked: npt.NDArray[np.int64], *, choice: str, count: int, seed: int
) -> npt.NDArray[np.int64]:
    """`count` rows of the pool that were not asked yet."""
    rest = np.setdiff1d(np.arange(len(pool.truth)), asked)
    if choice == "random":
        return np.random.default_rng(seed).permutation(rest)[:count]
    if choice == "uncertain":
        return rest[np.argsort(-uncertainty(score[rest]), kind="stable")[:count]]
    now = dataclasses.replace(
        pool.candidates,
        left=pool.candidates.left[rest],
        right=pool.candidates.right[rest],
        score=score[rest],
        descriptor=None if pool.candidates.descriptor is None else pool.candidates.descriptor[rest],
    )
    return rest[[c.row for c in select(now, count=count, audit_share=0.0, seed=seed)]]


def fitted(values: Floats, truth: Labels, weight: Floats, *, towards: Floats) -> Floats:
    """(F + 1,) weights and bias of a logistic regression by Newton steps, pulled towards `towards`."""
    design = np.hstack([values, np.ones((len(values), 1))])
    pull = np.full(design.shape[1], _RIDGE)
    weights = towards.copy()
    for _ in range(100):
        p = 1.0 / (1.0 + np.exp(-np.clip(design @ weights, -40.0, 40.0)))
        gradient = design.T @ (weight * (p - truth)) + pull * (weights - towards)
        hessian = (design * (weight * p * (1 - p))[:, None]).T @ design + np.diag(pull)
        move = np.linalg.solve(hessian, gradient)
        weights = weights - move * min(1.0, 2.0 / max(float(np.abs(move).max()), 1e-12))
        if np.abs(move).max() < 1e-8:
            break
    return weights


def best_f1(score: Floats, truth: Labels) -> float:
    """The greatest F1 any threshold gives; ties stand or fall together. Duplicates are the positive class."""
    order = np.argsort(-score, kind="stable")
    hits = np.cumsum(truth[order])
    last = np.append(score[order][1:] < score[order][:-1], True)
    return float((2 * hits / (np.arange(1, len(order) + 1) + truth.sum()))[last].max())


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
    runs: Sequence[Path], albums: Sequence[Album], *, seeds: Sequence[int], plot: Path | None = None
) -> dict[str, Any]:
    """The curves as JSON values: mean and 95 % interval (Student's, over the seeds) of F1 for each choice and budget.

    runs, albums: of the first album, the pool and the test. plot: a PNG to draw them to.
    """
    from scipy.stats import t as student  # type: ignore[import-untyped]  # comes with scikit-learn

    first, pool, test = (pool_of(read_candidates(run), album) for run, album in zip(runs, albums, strict=True))
    f1 = {c: np.array([curve(first, pool, test, choice=c, seed=seed) for seed in seeds]) for c in CHOICES}
    width = float(student.ppf(0.975, max(len(seeds) - 1, 1)))
    half = {
        c: width * v.std(axis=0, ddof=1) / np.sqrt(len(seeds)) if len(seeds) > 1 else 0 * v[0] for c, v in f1.items()
    }
    mean = {c: v.mean(axis=0) for c, v in f1.items()}
    if plot is not None:
        _draw(plot, mean, half)
    return {
        "labels": [0, *BUDGETS],
        "seeds": list(seeds),
        "pairs": {"first": len(first.truth), "pool": len(pool.truth), "test": len(test.truth)},
        "duplicates": {"first": int(first.truth.sum()), "pool": int(pool.truth.sum()), "test": int(test.truth.sum())},
        "f1": {c: {"mean": mean[c].tolist(), "half_interval": np.asarray(half[c]).tolist()} for c in CHOICES},
        "all_labels": best_of_all(first, pool, test),
        "share_of_random": labels_saved({c: mean[c].tolist() for c in CHOICES}),
    }


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


def best_of_all(first: Pool, pool: Pool, test: Pool) -> float:
    """F1 with every label of the pool: what there is to gain."""
    mean, spread = first.values.mean(axis=0), first.values.std(axis=0) + 1e-9
    values = (np.concatenate([first.values, pool.values]) - mean) / spread
    weights = fitted(
        values, np.concatenate([first.truth, pool.truth]), np.ones(len(values)), towards=np.zeros(values.shape[1] + 1)
    )
    return best_f1(_score(weights, (test.values - mean) / spread), test.truth)


def _score(weights: Floats, values: Floats) -> Floats:
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(values @ weights[:-1] + weights[-1], -40.0, 40.0))))


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
