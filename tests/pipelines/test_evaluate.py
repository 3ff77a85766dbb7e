"""An evaluation from pictures to page, its suites, and figures put where they are shown."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from ndd.errors import InputError, UsageError
from ndd.images import decode
from ndd.local import LocalRunner
from ndd.model.directory import shipped
from pipelines.album import Album, Photo, build_album
from pipelines.cli import main
from pipelines.demo import photographs
from pipelines.evaluate import _numbers
from pipelines.evaluate_attack import perturb
from pipelines.evaluate_hard import CLUTTER, LOOKALIKES, make_pairs
from pipelines.evaluate_page import write_page
from pipelines.evaluate_pictures import draw
from pipelines.evaluate_publish import BEGIN, END, block, read_metrics, update_card, update_text
from pipelines.evaluate_run import CHAMPION, WHOLE, Evaluation, Plan, evaluate
from pipelines.evaluate_travel import _lowest
from pipelines.evaluate_truth import Truth, read_truth
from tests.samples import small_model


def small_photos() -> list[Photo]:
    found = []
    for photo in photographs()[:10]:
        pixels = decode(photo.content).pixels
        factor = 150 / max(pixels.shape[:2])
        size = (round(pixels.shape[1] * factor), round(pixels.shape[0] * factor))
        found.append(
            Photo.of_array(photo.name, np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8))
        )
    return found


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Album:
    root = tmp_path_factory.mktemp("evaluate") / "album"
    return build_album(small_photos(), root, copies=1, families=("compression", "mirror"), seed=1)


@pytest.fixture(scope="module")
def found(album: Album, tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    work = tmp_path_factory.mktemp("work")
    plan = Plan(
        model=shipped(),
        truth=Truth(album, None),
        work=work,
        compare={"a twin": small_model(work / "twin")},
        search=False,
        most=10,
    )
    return evaluate(plan, LocalRunner(workers=1))


def test_the_figures(found: Evaluation) -> None:
    metrics = json.loads(json.dumps(found.metrics, default=lambda value: value.item()))
    assert metrics["album"]["pairs"] == 10
    assert metrics["album"]["unreadable"] == []
    assert set(metrics["descriptor"]["families"]) == {"compression", "mirror"}
    assert sum(of["copies"] for of in metrics["descriptor"]["families"].values()) == 10
    for of in metrics["descriptor"]["families"].values():
        assert sum(part["pairs"] for part in of["severity"].values()) == of["copies"]
    methods = metrics["comparison"]["methods"]
    assert list(methods) == ["a twin", CHAMPION, WHOLE, "SIFT + FLANN", "PDQ", "pHash", "dHash"]
    for of in methods.values():
        assert of["setting"]
        assert sum(of["confusion"].values()) == sum(of["pairs"].values())
    assert methods[WHOLE]["roc_auc"]["value"] >= methods["a twin"]["roc_auc"]["value"]


def test_the_page_stands_alone(found: Evaluation, tmp_path: Path) -> None:
    pictures = draw(found, tmp_path / "pictures")
    page = write_page(tmp_path / "evaluation.html", found.metrics, pictures).read_text(encoding="utf-8")
    assert "SIFT + FLANN" in page
    assert page.count("<svg") >= 6
    assert not re.search(r'(?:src|href)="(?!data:|#)', page), "nothing is fetched"
    assert "var(--s1)" in page
    assert "#0202" not in page, "no stand-in colour is left"
    names = {path.name for path in (tmp_path / "pictures").iterdir()}
    assert {"curves.svg", "distances.svg", "families.svg", "map.svg", "stn.jpg", "missed.jpg", "false.jpg"} <= names
    assert "var(--" not in (tmp_path / "pictures" / "curves.svg").read_text(encoding="utf-8")


def test_pairs_as_truth(album: Album, tmp_path: Path) -> None:
    rows = [f"{group[0]},{group[1]},1" for group in album.groups().values()]
    firsts = [group[0] for group in album.groups().values()]
    rows += [f"{a},{b},0" for a, b in zip(firsts, firsts[1:] + firsts[:1], strict=True)]
    (album.root / "pairs.csv").write_text("left,right,label\n" + "\n".join(rows) + "\n")
    plan = Plan(model=shipped(), truth=read_truth(album.root / "pairs.csv"), work=tmp_path, search=False)
    metrics = evaluate(plan, LocalRunner(workers=1)).metrics
    assert "descriptor" not in metrics
    assert set(metrics["comparison"]["methods"][CHAMPION]["pairs"]) == {"duplicate", "distinct"}


def test_an_unreadable_picture_is_listed(album: Album, tmp_path: Path) -> None:
    root = build_album(small_photos()[:4], tmp_path / "album", copies=1, families=("mirror",)).root
    damaged = next(iter((root / "images").glob("*mirror*")))
    damaged.write_bytes(b"no picture")
    plan = Plan(model=shipped(), truth=read_truth(root / "groups.csv"), work=tmp_path / "work", search=False)
    metrics = evaluate(plan, LocalRunner(workers=1)).metrics
    assert [of["path"] for of in metrics["album"]["unreadable"]] == [f"images/{damaged.name}"]
    assert metrics["album"]["images"] == 7
    assert "too few" in metrics["comparison"]["left_out"], "four groups are no five folds, and the page says so"


def test_figures_go_where_they_are_shown(found: Evaluation, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    update_text(readme, found.metrics)
    text = readme.read_text()
    assert text == f"before\n{BEGIN}\n{block(found.metrics)}{END}\nafter\n"
    assert "old" not in text
    update_text(readme, found.metrics)
    assert readme.read_text() == text
    readme.write_text("no marks\n")
    with pytest.raises(UsageError, match="once each"):
        update_text(readme, found.metrics)
    model = small_model(tmp_path / "model")
    with pytest.raises(UsageError, match="another model"):
        update_card(model / "card.json", found.metrics)


def test_figures_are_used_again_without_measuring(found: Evaluation, tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text(json.dumps(found.metrics, default=lambda value: value.item()))
    readme = tmp_path / "README.md"
    readme.write_text(f"{BEGIN}\n{END}\n")
    assert main(["evaluate", "--out", str(tmp_path), "--reuse", "--update", str(readme)]) == 0
    assert "| labelled pairs" in readme.read_text()
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(InputError, match="no figures"):
        read_metrics(tmp_path / "metrics.json")


def test_hard_pairs_are_two_readable_pictures_that_differ() -> None:
    kinds = dict(make_pairs(small_photos()[:4], each=2))
    assert set(kinds) == {*LOOKALIKES, *CLUTTER}
    for kind, pairs in kinds.items():
        for left, right in pairs:
            assert left != right, kind
            decode(left), decode(right)
    assert kinds == dict(make_pairs(small_photos()[:4], each=2))


def test_an_attack_stays_within_its_bounds_and_does_what_it_is_for() -> None:
    torch.manual_seed(0)
    linear = torch.nn.Linear(3 * 8 * 8, 4)

    def network(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(linear(x.flatten(1) - 0.5), dim=1)

    x = torch.rand(5, 3, 8, 8)
    with torch.no_grad():
        target = network(x)
    for steps in (1, 10):
        for away in (True, False):
            goal = target if away else target.roll(1, 0)
            moved = perturb(network, x, goal, away=away, epsilon=0.1, steps=steps)
            assert float((moved - x).abs().max()) <= 0.1 + 1e-6
            assert float(moved.min()) >= 0.0
            assert float(moved.max()) <= 1.0
            with torch.no_grad():
                before, after = ((network(y) * goal).sum(dim=1).mean() for y in (x, moved))
            assert (after < before) if away else (after > before)


def test_the_lowest_threshold_of_a_precision_by_hand() -> None:
    labels = np.array([True] * 99 + [False] + [True] * 50 + [False] * 3)
    scores = np.array([0.9] * 99 + [0.8] + [0.7] * 50 + [0.6] * 3)
    assert _lowest(scores, labels) == pytest.approx(0.65)
    assert _lowest(np.where(scores < 0.7, 0.1, scores), labels) == 0.5
    assert _lowest(np.array([0.6, 0.55]), np.array([True, True])) == 0.5
    assert _lowest(np.array([0.9]), np.array([False])) == 1.0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_command(album: Album, tmp_path: Path) -> None:
    """All of it on Ray, the whole search too, with progress on stderr."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "pipelines", "evaluate", "--truth", str(album.root / "groups.csv")]
    done = subprocess.run([*command, "--out", str(out), "--pairs", "10"], capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr
    assert str(out / "evaluation.html") in done.stdout
    assert "of 20" in done.stderr
    metrics = json.loads((out / "metrics.json").read_text())
    assert {"accepted", "grouped", "candidates", "fates"} <= metrics["search"].keys()
    assert (out / "evaluation.html").stat().st_size < 5_000_000


def test_every_number_has_a_name_that_mlflow_allows() -> None:
    metrics = {"a": {"µAP (x): y": 1, "list": [1], "flag": True}, "b": 0.5}
    assert dict(_numbers(metrics)) == {"a.µAP  x   y": 1.0, "b": 0.5}
