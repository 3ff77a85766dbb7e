"""What the loop says of the server's obedience, of a server that runs."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from ndd.data.decisions import DecisionStore
from ndd.home import home
from ndd.model.directory import describe
from ndd.types import Decision, Verdict, image_id
from pipelines.album import read_album
from pipelines.loop_server import Asked
from tests.samples import photographs
from tests.serve.running import KEYS, encoded, running


def test_it_counts_what_is_obeyed_and_what_against_the_score(tmp_path: Path, model: Path) -> None:
    files = {f"{name}.png": encoded(pixels) for name, pixels in photographs().items()}
    files["cat-again.jpg"] = encoded(photographs()["cat"], ".jpg")
    (tmp_path / "album").mkdir()
    for name, content in files.items():
        (tmp_path / "album" / name).write_bytes(content)
    rows = [f"{name},{name[:3]},single" for name in files]
    (tmp_path / "album" / "groups.csv").write_text("\n".join(["image,group,note", *rows]) + "\n")
    album, store = read_album(tmp_path / "album"), DecisionStore(home().decisions)
    said = {("cat.png", "cat-again.jpg"): Verdict.DISTINCT, ("cat.png", "rocket.png"): Verdict.DISTINCT,
            ("cat.png", "coffee.png"): Verdict.DUPLICATE, ("coffee.png", "rocket.png"): Verdict.UNSURE}  # fmt: skip
    for (a, b), verdict in said.items():
        left, right = sorted((image_id(files[a]), image_id(files[b])))
        about = {"reviewer": "ann", "time": datetime.now(UTC), "embedding_digest": "e", "scorer_digest": "s"}
        store.append(Decision(left_id=left, right_id=right, verdict=verdict, relation=None, **about))  # type: ignore[arg-type]
    with running(tmp_path, model, {"review.rate": 0}) as server:
        asked = Asked(server.url, KEYS["read"])
        assert asked.digests()["embedding"] == describe(model).embedding_digest
        with server.client() as client:
            copies = client.compare(files["cat.png"], files["cat-again.jpg"])
            strangers = client.compare(files["cat.png"], files["coffee.png"])
        against = (copies.score >= copies.threshold) + (strangers.score < strangers.threshold)
        assert against > 0
        assert asked.obeyed(album, store) == (
            f"of 3 decided pairs the server answers 3 as was decided, {against} of them against its score"
        )
