"""Figures of an evaluation, drawn with matplotlib: each function gives one figure, `as_svg` its text.

Colours are named, not fixed: a file gets those of the light theme, a page the CSS variables of its theme.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ndd.metrics.calibration import Reliability
from ndd.metrics.pairs import Confusion

__all__ = [
    "as_svg",
    "confusion_figure",
    "curves_figure",
    "distances_figure",
    "families_figure",
    "map_figure",
    "reliability_figure",
]

_INK, _SOFT, _LINE, _MAT = "#010101", "#010102", "#010103", "#010104"
_SERIES = ("#020201", "#020202", "#020203", "#020204", "#020205", "#020206", "#020207", "#020208")
_LIGHT = {
    **dict(zip((_INK, _SOFT, _LINE, _MAT), ("#1d1f21", "#5a5f66", "#dfdcd5", "#efede8"), strict=True)),
    **dict(
        zip(
            _SERIES,
            ("#0b6b53", "#1c569b", "#84500a", "#6b3fa0", "#b4322e", "#4b5563", "#0f7f8f", "#a3318a"),
            strict=True,
        )
    ),
}
_VARIABLES = {
    **dict(zip((_INK, _SOFT, _LINE, _MAT), ("ink", "soft", "line", "mat"), strict=True)),
    **{colour: f"s{number}" for number, colour in enumerate(_SERIES, start=1)},
}
"""Stand-in colour → what it is in the light theme, and the page's variable for it."""

Values = NDArray[np.float64]


def as_svg(figure: Any, *, themed: bool) -> str:
    """The figure as SVG. themed: with the page's CSS variables as colours, to be put into HTML; else a file of its own."""
    import matplotlib as mpl

    held = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "ndd"}):
        figure.savefig(held, format="svg", transparent=themed, metadata={"Date": None})
    text = held.getvalue()
    for colour in _LIGHT:
        text = text.replace(colour, f"var(--{_VARIABLES[colour]})" if themed else _LIGHT[colour])
    if not themed:
        return text
    text = text[text.index("<svg") :]
    text = re.sub(r"font: ([^;\"]*?)'[^']*'[^;\"]*", r"font: \1system-ui, sans-serif", text)
    head, mark, rest = text.partition(">")
    return re.sub(r'\s(?:width|height)="[^"]*"', "", head) + mark + rest  # as wide as there is room


def curves_figure(labels: NDArray[np.bool_], methods: Mapping[str, Values], thresholds: Mapping[str, float]) -> Any:
    """ROC and precision–recall curves of methods on the same pairs; the dot is where the threshold lies."""
    figure, (roc, pr) = _figure(2, width=10.5, height=4.3)
    for (name, scores), colour in zip(methods.items(), _SERIES, strict=False):
        order = np.argsort(-scores, kind="stable")
        truth = labels[order]
        ends = np.append(np.flatnonzero(np.diff(scores[order]) != 0), len(truth) - 1)
        hits, wrong = np.cumsum(truth)[ends], np.cumsum(~truth)[ends]
        recall, fall_out = hits / max(truth.sum(), 1), wrong / max((~truth).sum(), 1)
        precision = hits / (hits + wrong)
        roc.plot(np.append(0.0, fall_out), np.append(0.0, recall), color=colour, lw=1.8, label=name)
        pr.plot(recall, precision, color=colour, lw=1.8, label=name)
        accepted = scores >= thresholds[name]
        if accepted.any():
            caught = (accepted & labels).sum()
            roc.plot((accepted & ~labels).sum() / (~labels).sum(), caught / labels.sum(), "o", color=colour, ms=5)
            pr.plot(caught / labels.sum(), caught / accepted.sum(), "o", color=colour, ms=5)
    _axes(roc, "false positive rate", "recall", title="ROC")
    _axes(pr, "recall", "precision", title="Precision and recall")
    pr.set_ylim(0.48, 1.015)
    handles, names = roc.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, frameon=False, labelcolor=_INK, fontsize=9)
    return figure


def confusion_figure(counts: Confusion, *, name: str) -> Any:
    """The four counts of one method's decisions, with their share of each truth."""
    figure, (axes,) = _figure(1, width=4.2, height=3.6)
    table = np.array(
        [[counts.true_positive, counts.false_negative], [counts.false_positive, counts.true_negative]], np.float64
    )
    share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    for row in range(2):
        for column in range(2):
            right = row == column
            axes.add_patch(
                _rectangle((column - 0.48, row - 0.48), 0.96, _SERIES[0] if right else _SERIES[4], share[row, column])
            )
            axes.text(column, row - 0.08, f"{int(table[row, column]):,}", ha="center", va="center", color=_INK, size=17)
            axes.text(
                column, row + 0.2, f"{100 * share[row, column]:.1f} %", ha="center", va="center", color=_INK, size=10
            )
    axes.set(xlim=(-0.5, 1.5), ylim=(1.5, -0.5), xticks=(0, 1), yticks=(0, 1))
    axes.set_xticklabels(("accepted", "refused"))
    axes.set_yticklabels(("duplicates", "strangers"), rotation=90, va="center")
    axes.set_title(name, color=_INK, fontsize=11, loc="left")
    axes.tick_params(length=0, colors=_SOFT)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure


def distances_figure(by_kind: Mapping[str, Values], *, threshold: float, name: str) -> Any:
    """Histograms of 1 − score of duplicates and of strangers, with the threshold."""
    figure, (axes,) = _figure(1, width=6.0, height=3.6)
    every = 1.0 - np.concatenate(list(by_kind.values()))
    edges = np.linspace(min(0.0, every.min()), every.max() + 1e-9, 50)
    for (kind, scores), colour in zip(by_kind.items(), (_SERIES[0], _SERIES[2], _SERIES[4], _SERIES[1]), strict=False):
        axes.hist(1.0 - scores, edges, color=colour, alpha=0.45, label=kind, edgecolor=colour, linewidth=0.6)
    axes.axvline(1.0 - threshold, color=_INK, lw=1.2, ls="--")
    axes.annotate(
        " threshold", (1.0 - threshold, 0.96), xycoords=("data", "axes fraction"), color=_SOFT, fontsize=9, va="top"
    )
    _axes(axes, "distance (1 − score)", "pairs", title=name)
    axes.legend(frameon=False, labelcolor=_INK, fontsize=9)
    return figure


def reliability_figure(found: Reliability) -> Any:
    """Share of duplicates against the score that was given, and how many pairs had it."""
    figure, (axes, counts) = _figure(2, width=4.6, height=4.4, rows=2, ratios=(3, 1))
    used = found.count > 0
    axes.plot((0, 1), (0, 1), color=_LINE, lw=1.2)
    axes.plot(found.score[used], found.frequency[used], "o-", color=_SERIES[0], lw=1.8, ms=4)
    _axes(axes, "", "share of duplicates", title=f"Calibration (expected error {found.error:.4f})")
    width = 1.0 / len(found.count)
    at = (np.arange(len(found.count)) + 0.5) * width
    counts.bar(at, np.maximum(found.count, 0.5), width * 0.9, color=_SERIES[5], alpha=0.6)
    counts.set_yscale("log")
    _axes(counts, "score", "pairs", title="")
    return figure


def families_figure(rows: Sequence[tuple[str, Mapping[str, float], Mapping[str, float] | None]]) -> Any:
    """Recall of each edit family with its interval: (family, by the descriptor alone, by the whole search)."""
    figure, (axes,) = _figure(1, width=8.6, height=0.9 + 0.34 * len(rows))
    for at, (_, descriptor, whole) in enumerate(rows):
        for shift, of, colour in ((0.16, descriptor, _SERIES[1]), (-0.16, whole, _SERIES[0])):
            if of is not None:
                axes.plot((of["low"], of["high"]), (at + shift, at + shift), color=colour, lw=2, alpha=0.5)
                axes.plot(of["value"], at + shift, "o", color=colour, ms=5)
    axes.plot([], [], "o-", color=_SERIES[0], label="whole search")
    axes.plot([], [], "o-", color=_SERIES[1], label="descriptor alone")
    axes.set_yticks(range(len(rows)), [name.replace("_", " ") for name, _, _ in rows])
    axes.invert_yaxis()
    _axes(axes, "recall at 99 % precision", "", title="")
    axes.set_xlim(-0.02, 1.02)
    axes.legend(frameon=False, labelcolor=_INK, fontsize=9, loc="lower left")
    return figure


def map_figure(points: NDArray[np.floating], groups: Sequence[str], *, coloured: int = 8) -> Any:
    """A map of vectors (N, 2): each group's pictures joined to their middle, some groups coloured, the rest in grey."""
    figure, (axes,) = _figure(1, width=8.6, height=5.6)
    names = list(dict.fromkeys(groups))
    labels = np.array([names.index(group) for group in groups])
    sizes = np.bincount(labels)
    shown = [int(at) for at in np.argsort(-sizes, kind="stable")[: coloured * 6] if sizes[at] > 1]
    axes.plot(*points.T, "o", color=_LINE, ms=2.5)
    for turn, at in enumerate(shown):
        mine, colour = points[labels == at], _SERIES[turn % len(_SERIES)]
        middle = mine.mean(axis=0)
        for point in mine:
            axes.plot(*zip(middle, point, strict=True), color=colour, lw=0.7, alpha=0.6)
        axes.plot(*mine.T, "o", color=colour, ms=4)
    axes.set_axis_off()
    return figure


def _figure(count: int, *, width: float, height: float, rows: int = 1, ratios: Sequence[float] | None = None) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    grid = {"height_ratios": ratios} if ratios else None
    axes = figure.subplots(rows, count // rows, squeeze=False, gridspec_kw=grid)
    return figure, tuple(axes.ravel())


def _axes(axes: Any, x: str, y: str, *, title: str) -> None:
    axes.set_xlabel(x, color=_SOFT)
    axes.set_ylabel(y, color=_SOFT)
    axes.set_title(title, color=_INK, fontsize=11, loc="left")
    axes.tick_params(colors=_SOFT, labelsize=9)
    axes.grid(color=_LINE, lw=0.7)
    axes.set_axisbelow(True)
    axes.patch.set_alpha(0.0)
    for name, spine in axes.spines.items():
        spine.set_visible(name in ("left", "bottom"))
        spine.set_color(_LINE)


def _rectangle(corner: tuple[float, float], side: float, colour: str, strength: float) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle(corner, side, side, color=colour, alpha=0.08 + 0.42 * float(strength), lw=0)
