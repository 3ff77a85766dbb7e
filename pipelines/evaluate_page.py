"""One page about a model: self-contained, offline, light and dark, in the look of the search's report."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from ndd.files import atomic_path
from pipelines.evaluate_pictures import Pictures
from pipelines.evaluate_run import CHAMPION, WHOLE

__all__ = ["write_page"]


def write_page(path: Path, metrics: Mapping[str, Any], pictures: Pictures) -> Path:
    """Write the page. metrics: what metrics.json holds."""
    import jinja2

    script = _text("ndd", "report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.ChainableUndefined, trim_blocks=True, lstrip_blocks=True
    )
    comparison = metrics.get("comparison", {})
    rankings = {
        name: metrics[key]
        for key, name in (("search", "whole search"), ("descriptor", "descriptor alone"))
        if key in metrics
    }
    families: Mapping[str, Any] = next((of["families"] for of in rankings.values()), {})
    html = environment.from_string(_text("pipelines", "evaluation.html")).render(
        style=_text("ndd", "report.css") + _text("pipelines", "evaluation.css"),
        script=script,
        script_digest=f"sha256-{digest}",
        title=f"How well {metrics['model']['name']} finds copies",
        lead=_lead(metrics),
        headline=tuple(_headline(metrics)),
        methods=comparison.get("methods"),
        comparison=comparison,
        left_out=comparison.get("left_out"),
        pairs=comparison["methods"][CHAMPION]["pairs"] if "methods" in comparison else {},
        whole=WHOLE,
        rankings=rankings,
        strangers=_strangers(rankings),
        album=metrics["album"],
        families=families,
        descriptor_map={
            name: of["map"]["value"] for name, of in metrics.get("descriptor", {}).get("families", {}).items()
        },
        suites=[of["page"] for of in metrics.get("suites", {}).values()],
        figures=pictures.figures,
        missed=pictures.missed,
        mistaken=pictures.false,
        stn=pictures.stn,
        settings=tuple(_settings(metrics)),
        command=metrics.get("command", ""),
    )
    with atomic_path(path) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return path


def _text(package: str, name: str) -> str:
    return (resources.files(package) / "templates" / name).read_text(encoding="utf-8")


def _lead(metrics: Mapping[str, Any]) -> str:
    album = metrics["album"]
    first = f"{album['images']:,} pictures, {album['pairs']:,} true pairs in {album['groups']:,} groups."
    if "search" not in metrics:
        return first
    accepted = metrics["search"]["accepted"]
    return (
        f"{first} The search accepts {100 * accepted['recall']:.1f} % of the true pairs; of what it accepts "
        f"{100 * accepted['precision']:.1f} % is true ({accepted['false']:,} false pairs)."
    )


def _headline(metrics: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    methods = metrics.get("comparison", {}).get("methods", {})
    best = methods.get(WHOLE)
    if best:
        yield "F1 on half-hard pairs", f"{best['f1']['value']:.3f}"
        yield "ROC AUC", f"{best['roc_auc']['value']:.3f}"
    ranking = metrics.get("search") or metrics.get("descriptor")
    if ranking:
        yield "mAP in the album", f"{ranking['map']['value']:.3f}"
        yield "recall at 99 % precision", f"{ranking['recall_at_precision']['0.99']['value']:.3f}"
    if "search" in metrics:
        yield "calibration error", f"{metrics['search']['candidates']['calibration_error']:.4f}"


def _strangers(rankings: Mapping[str, Any]) -> int:
    for of in rankings.values():
        for point in of["false_pairs_per_million_images"].values():
            return int(point["strangers"])
    return 0


def _settings(metrics: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    model, album = metrics["model"], metrics["album"]
    config = model["config"]
    yield (
        "Network",
        f"{config['backbone']}, {config['stn']['kind']} transformer, {config['image_size']} px, {config['dim']} numbers",
    )
    yield "Computed by", model["runtime"]
    yield "Embedding digest", model["embedding_digest"][:16]
    yield "Scorer digest", model["scorer_digest"][:16]
    yield "Album", f"{album['name']}, digest {album['digest'][:16]}"
    yield "Not readable", ", ".join(of["path"] for of in album["unreadable"]) or "none"
    if "search" in metrics:
        search = metrics["search"]
        yield "Threshold, share of duplicates", f"{search['threshold']:.3f}, {search['prior']:.3f}"
        yield (
            "Candidates",
            f"{search['candidates']['pairs']:,} pairs, {100 * search['candidates']['recall']:.1f} % of the true ones",
        )
