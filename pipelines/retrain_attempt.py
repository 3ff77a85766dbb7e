"""One retraining, as a directory: every step leaves a file, and a step whose file is there is done.

attempt.json        settings, the decisions it knows     champion/       a copy of the model it began from
decisions.csv       those that teach        audits.csv      those that measure
manifest.parquet    the pictures, with their cut
album/              what is compared on     run/            the training run
model/              the challenger          audits.json     what audits say of both
verdict.json        what the comparison gave                promoted.json   the version, once it is champion
score/              the second challenger, where the first is refused: the champion's network, its score refitted with
score-*.json        the labels and moved by the audits; with audits and verdict of its own
report.json, report.md
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from ndd.data.decision_rows import read_decisions, write_decisions
from ndd.data.manifest import ManifestRow, read_manifest, write_manifest
from ndd.errors import NddError, StaleOutput, StoreError
from ndd.files import make_directory
from ndd.model.directory import CONFIG, resolve
from ndd.types import Verdict
from pipelines.retrain_album import TooFewPictures, copies_each, unlike_photographs
from pipelines.retrain_child import run_child
from pipelines.retrain_cut import comparable
from pipelines.retrain_due import Due
from pipelines.retrain_judge import MODEL, SCORE, judge
from pipelines.retrain_notes import read_note, write_note
from pipelines.retrain_report import changes, gain, write_report
from pipelines.tracking import content_digest

__all__ = ["REPORT", "SCRATCH", "Attempt", "Settings"]

REPORT = "report.md"
SCRATCH = ("album", "champion", "gate", "groups", "run/pack")
"""What nobody needs of an attempt that is over."""

_COMPARED = 2000
"""Pictures above which the report does not say how groups changed: it would search the library twice."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What may not change while an attempt goes on."""

    data: str
    recipe: str
    overrides: tuple[str, ...]
    engine: str
    albums: tuple[str, ...]
    photos: int
    sure: float
    promote: bool


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """A retraining that has begun. known: ids of the decisions it learns from. fresh: how many of them are new."""

    directory: Path
    settings: Settings
    champion: Path
    known: tuple[str, ...]
    fresh: int

    @classmethod
    def begin(
        cls,
        directory: Path,
        settings: Settings,
        found: Due,
        rows: Sequence[ManifestRow],
        *,
        champion: Path,
        priors: Mapping[str, float],
    ) -> Self:
        """Write down what it starts from; attempt.json comes last and makes it an attempt. priors: as of `audited`."""
        shutil.rmtree(directory, ignore_errors=True)
        make_directory(directory)
        write_decisions(directory / "decisions.csv", found.train)
        write_decisions(directory / "audits.csv", found.audit)
        write_manifest(directory / "manifest.parquet", rows)
        # A copy: the champion's own directory may be cleared away while we are at work.
        shutil.copytree(champion.resolve(), directory / "champion")
        write_note(
            directory / "priors.json",
            {d.pair_id: priors[d.pair_id] for d in (*found.train, *found.audit) if d.pair_id in priors},
        )
        note = {
            "settings": asdict(settings),
            "known": [d.decision_id for d in found.train],
            "fresh": len(found.fresh),
        }
        write_note(directory / "attempt.json", note)
        opened = cls.open(directory, settings)
        assert opened is not None
        return opened

    @classmethod
    def open(cls, directory: Path, settings: Settings) -> Self | None:
        """The attempt that an earlier call left behind; None if there is none, or if its champion is champion no more.

        Raises StaleOutput if it was begun with other settings, StoreError if it cannot be read.
        """
        note = read_note(directory / "attempt.json")
        if note is None:
            return None
        if note["settings"] != json.loads(json.dumps(asdict(settings))):
            raise StaleOutput(
                f"{directory}: a retraining with other settings is unfinished; use those again, or remove it"
            )
        found = cls(
            directory=directory,
            settings=settings,
            champion=directory / "champion",
            known=tuple(note["known"]),
            fresh=int(note["fresh"]),
        )
        if not found._current():
            sys.stderr.write(
                "another model became champion since the last retraining was interrupted: it begins anew\n"
            )
            shutil.rmtree(directory)
            return None
        return found

    def work(self, lock: int) -> dict[str, Any]:
        """Train, recalibrate, compare, promote, report; what to remember of it, as plain JSON values.

        lock: an open file that the training holds too, so that a lock on it lasts as long as either works. Raises
        TooFewPictures where there are too few to compare on, and then leaves nothing behind.
        """
        rows = read_manifest(self.directory / "manifest.parquet")
        train, audits = (read_decisions(self.directory / name) for name in ("decisions.csv", "audits.csv"))
        try:
            self._album(comparable(rows, [*train, *audits]))
        except TooFewPictures:
            shutil.rmtree(self.directory)  # it would go on with the pictures that were too few
            raise
        self._train(lock)
        judged = judge(
            self.directory, self.champion, rows, train, audits, albums=self.settings.albums, sure=self.settings.sure
        )
        version = self._promote(judged.challenger) if judged.verdict["promoted"] else None
        told: dict[str, Any] = {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "promoted": version is not None,
            "version": version,
            "challenger": judged.challenger,
            "reasons": judged.verdict["reasons"],
            "refused": list(judged.refused),
            "gain": gain(judged.audits, judged.labels, judged.verdict["figures"]),
            "learnt": {
                "duplicate": sum(d.verdict is Verdict.DUPLICATE for d in train),
                "distinct": sum(d.verdict is Verdict.DISTINCT for d in train),
                "fresh": self.fresh,
            },
            "audits": judged.audits,
            "labels": judged.labels,
            "decisions": list(self.known),
        }
        self._report(told, judged.verdict, rows)
        return told

    def _current(self) -> bool:
        """Is the champion still the one it began from, or made by it? What was promoted once is not promoted again."""
        if (self.directory / "promoted.json").is_file():
            return True
        places = (self.champion, self.directory / MODEL, self.directory / SCORE)
        mine = [place for place in places if (place / CONFIG).is_file()]
        return content_digest(resolve(None)) in map(content_digest, mine)

    def _train(self, lock: int) -> None:
        run = self.directory / "run"
        if (run / "model" / "config.json").is_file():
            return
        options = [f"--set={text}" for text in self.settings.overrides]
        command = [sys.executable, "-m", "pipelines", "train", "--recipe", self.settings.recipe, *options]
        command += ["--engine", self.settings.engine, "--data", os.fspath(self.directory / "manifest.parquet")]
        command += ["--init", os.fspath(self.champion), "--decisions", os.fspath(self.directory / "decisions.csv")]
        if self.settings.engine == "ray":
            command += ["--workers", "1"]
        run_child([*command, "--out", os.fspath(run)], lock)

    def _album(self, held: Sequence[ManifestRow]) -> None:
        """Edited copies of pictures that were not trained on, the same ones as long as the pictures are."""
        from pipelines.album import build_album

        place = self.directory / "album"
        if not (place / "groups.csv").is_file():
            shutil.rmtree(place, ignore_errors=True)
            photos = unlike_photographs(held, self.champion, most=self.settings.photos)
            cut = (2 * len(photos)) // 3
            build_album(photos[:cut], place, copies=copies_each(cut), seed=0, singles=photos[cut:])

    def _promote(self, challenger: str = MODEL) -> str | None:
        """Make it the registry's challenger and, if that is wanted, champion; the version that is champion by it."""
        from pipelines.champions import publish, taken_back
        from pipelines.registry import CHALLENGER, CHAMPION, register, set_alias

        done = read_note(self.directory / "promoted.json")
        if done is not None:
            return str(done["version"])  # somebody may have gone back since
        if not self._current():
            raise StoreError(f"{resolve(None)}: became champion meanwhile; the same command begins anew from that one")
        version = register(self.directory / challenger, origin="retrain")
        set_alias(CHALLENGER, version)
        if not self.settings.promote:
            return None
        # Killed between publishing and the note of it, somebody may have gone back to the model before.
        if not taken_back(self.directory / challenger):
            publish(self.directory / challenger, version=version)
            set_alias(CHAMPION, version)
        write_note(self.directory / "promoted.json", {"version": version})
        return version

    def _report(self, told: Mapping[str, Any], verdict: Mapping[str, Any], rows: Sequence[ManifestRow]) -> None:
        groups = None
        if len(rows) <= _COMPARED:
            try:
                groups = changes(
                    self.champion, self.directory / told["challenger"], rows, work=self.directory / "groups"
                )
            except NddError as error:  # the pictures may have gone; what was learnt from them has not
                sys.stderr.write(f"the groups of the library are not compared: {error}\n")
        write_report(self.directory, told, verdict, groups)
