"""Figures in a README and a model card, put there by a program: whoever writes them by hand writes them once.

In a text file the lines between `<!-- figures -->` and `<!-- /figures -->` are replaced; in a card (JSON) the entry
`evaluation`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ndd.errors import InputError, UsageError
from ndd.files import atomic_path

__all__ = ["BEGIN", "END", "block", "read_metrics", "update_card", "update_text"]

BEGIN, END = "<!-- figures -->", "<!-- /figures -->"
_MEASURES = {"precision": "P", "recall": "R", "f1": "F1", "roc_auc": "ROC AUC", "map": "mAP"}


def read_metrics(path: Path) -> dict[str, Any]:
    """The figures of an evaluation. Raises InputError."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found["album"]["images"], found["model"]["embedding_digest"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: no figures of an evaluation ({error!r}); run `python -m pipelines evaluate`"
        ) from None
    return found


def update_text(path: Path, metrics: Mapping[str, Any]) -> None:
    """Replace what is between the marks. Raises UsageError where they are missing or in disorder."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise UsageError(f"{path}: wants the lines {BEGIN} and {END} once each, in this order")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    with atomic_path(path) as temporary:
        temporary.write_text(f"{before}{BEGIN}\n{block(metrics)}{END}{after}", encoding="utf-8")


def update_card(path: Path, metrics: Mapping[str, Any]) -> None:
    """Put the figures into a model card. Raises UsageError if they are another model's, or there is no card."""
    from ndd.model.directory import describe

    said = describe(path.parent)
    if said.embedding_digest != metrics["model"]["embedding_digest"]:
        raise UsageError(
            f"{path}: the figures are those of another model ({metrics['model']['name']}); evaluate this one"
        )
    card = dict(said.card) | {"evaluation": _summary(metrics)}
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(card, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def block(metrics: Mapping[str, Any]) -> str:
    """The figures as Markdown."""
    return "\n".join(_lines(metrics)) + "\n"


def _lines(metrics: Mapping[str, Any]) -> Iterator[str]:
    album, model = metrics["album"], metrics["model"]
    yield (
        f"Model `{model['embedding_digest'][:12]}` on {album['images']:,} pictures with {album['pairs']:,} true pairs; "
        "written by `python -m pipelines evaluate --update`, 95 % intervals by bootstrap over photographs."
    )
    yield ""
    rows = {
        key: name for key, name in (("search", "whole search"), ("descriptor", "descriptor alone")) if key in metrics
    }
    if rows:
        yield "| all pairs of the album | mAP | µAP | recall at P 90 % | at P 99 % | at P 99.9 % |"
        yield "|---|---|---|---|---|---|"
    for key, name in rows.items():
        of = metrics[key]
        values = [of["map"], of["micro_ap"], *of["recall_at_precision"].values()]
        yield f"| {name} | " + " | ".join(map(_text, values)) + " |"
    methods = metrics.get("comparison", {}).get("methods", {})
    if methods:
        yield ""
        yield "| labelled pairs, half of the strangers hard | " + " | ".join(_MEASURES.values()) + " |"
        yield "|---" * (1 + len(_MEASURES)) + "|"
    for name, of in methods.items():
        yield f"| {name} | " + " | ".join(_text(of[key]) for key in _MEASURES) + " |"
    if "travel" in metrics.get("suites", {}):
        yield from _travelled(metrics["suites"]["travel"])


def _travelled(travel: Mapping[str, Any]) -> Iterator[str]:
    yield ""
    yield f"| threshold {travel['threshold']:.3f}, for 99 % on the first album | precision | recall |"
    yield "|---|---|---|"
    for name, of in travel["albums"].items():
        at = of["at_the_first_threshold"]
        yield f"| {name} | {_text(at['precision'])} | {at['recall']:.3f} |"


def _text(of: Mapping[str, float]) -> str:
    return f"{of['value']:.3f} ({of['low']:.3f}–{of['high']:.3f})"


def _summary(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What a card keeps: the overall figures, without families and folds."""
    found: dict[str, Any] = {"album": {key: metrics["album"][key] for key in ("name", "digest", "images", "pairs")}}
    for key in ("search", "descriptor"):
        if key in metrics:
            found[key] = {name: metrics[key][name] for name in ("map", "micro_ap", "recall_at_precision")}
    methods = metrics.get("comparison", {}).get("methods", {})
    if methods:
        found["comparison"] = {name: {key: of[key] for key in _MEASURES} for name, of in methods.items()}
    return found
