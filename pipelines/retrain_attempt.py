"""One retraining, as a directory: every step leaves a file, and a step whose file is there is done.

attempt.json        settings, the champion it began from, the decisions it knows
decisions.csv       those that teach        audits.csv      those that measure
manifest.parquet    the pictures, with their cut
run/                the training run        model/          the challenger, calibrated
album/              what is compared on     verdict.json    what the comparison gave
report.json, report.md
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from ndd.data.decision_rows import read_decisions, write_decisions
from ndd.data.manifest import ManifestRow, Split, read_manifest, write_manifest
from ndd.errors import StaleOutput, StoreError
from ndd.files import atomic_path, make_directory
from ndd.model.directory import CALIBRATION, describe, resolve
from ndd.types import Decision, ImageId, Verdict
from pipelines.recalibrate import audited, recalibrate
from pipelines.retrain_album import unlike_photographs
from pipelines.retrain_due import Due
from pipelines.retrain_report import changes, write_report

__all__ = ["REPORT", "Attempt", "Settings"]

REPORT = "report.md"

_COPIES = 3
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
        cls, directory: Path, settings: Settings, found: Due, rows: Sequence[ManifestRow], *, champion: Path
    ) -> Self:
        """Write down what it starts from; attempt.json comes last and makes it an attempt."""
        shutil.rmtree(directory, ignore_errors=True)
        make_directory(directory)
        write_decisions(directory / "decisions.csv", found.train)
        write_decisions(directory / "audits.csv", found.audit)
        write_manifest(directory / "manifest.parquet", rows)
        # A copy: the champion's own directory may be cleared away while we are at work.
        shutil.copytree(champion.resolve(), directory / "champion")
        note = {
            "settings": asdict(settings),
            "known": [d.decision_id for d in found.train],
            "fresh": len(found.fresh),
        }
        _write(directory / "attempt.json", note)
        opened = cls.open(directory, settings)
        assert opened is not None
        return opened

    @classmethod
    def open(cls, directory: Path, settings: Settings) -> Self | None:
        """The attempt that an earlier call left behind; None if there is none.

        Raises StaleOutput if it was begun with other settings, StoreError if it cannot be read.
        """
        note = _read(directory / "attempt.json")
        if note is None:
            return None
        if note["settings"] != json.loads(json.dumps(asdict(settings))):
            raise StaleOutput(
                f"{directory}: a retraining with other settings is unfinished; use those again, or remove it"
            )
        return cls(
            directory=directory,
            settings=settings,
            champion=directory / "champion",
            known=tuple(note["known"]),
            fresh=int(note["fresh"]),
        )

    def work(self) -> dict[str, Any]:
        """Train, recalibrate, compare, promote, report; what to remember of it, as plain JSON values."""
        rows = read_manifest(self.directory / "manifest.parquet")
        train, audits = (read_decisions(self.directory / name) for name in ("decisions.csv", "audits.csv"))
        self._train()
        album = self._album(rows)
        human = self._calibrate(rows, audits, album)
        verdict = self._compare()
        version = self._promote() if verdict["promoted"] and self.settings.promote else None
        told: dict[str, Any] = {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "promoted": version is not None,
            "version": version,
            "reasons": verdict["reasons"],
            "gain": _gain(human, verdict),
            "learnt": {
                "duplicate": sum(d.verdict is Verdict.DUPLICATE for d in train),
                "distinct": sum(d.verdict is Verdict.DISTINCT for d in train),
                "fresh": self.fresh,
            },
            "audits": human,
            "decisions": list(self.known),
        }
        self._report(told, verdict, rows)
        return told

    def _train(self) -> None:
        run = self.directory / "run"
        if (run / "model" / "config.json").is_file():
            return
        options = [f"--set={text}" for text in self.settings.overrides]
        command = [sys.executable, "-m", "pipelines", "train", "--recipe", self.settings.recipe, *options]
        command += ["--engine", self.settings.engine, "--data", os.fspath(self.directory / "manifest.parquet")]
        command += ["--init", os.fspath(self.champion), "--decisions", os.fspath(self.directory / "decisions.csv")]
        if self.settings.engine == "ray":
            command += ["--workers", "1"]
        _child([*command, "--out", os.fspath(run)])

    def _album(self, rows: Sequence[ManifestRow]) -> Path:
        """Edited copies of pictures that were not trained on, the same ones as long as the pictures are."""
        from pipelines.album import build_album

        place = self.directory / "album"
        if not (place / "groups.csv").is_file():
            shutil.rmtree(place, ignore_errors=True)
            held = [row for row in rows if row.split is Split.TEST]
            photos = unlike_photographs(held, self.champion, most=self.settings.photos)
            half = (2 * len(photos)) // 3
            build_album(photos[:half], place, copies=_COPIES, seed=0, singles=photos[half:])
        return place

    def _calibrate(self, rows: Sequence[ManifestRow], audits: Sequence[Decision], album: Path) -> dict[str, Any]:
        """The challenger: the trained network with the champion's calibration, moved by the audits."""
        target, uri_of = self.directory / "model", {ImageId(row.id): row.uri for row in rows}
        done = _read(self.directory / "audits.json")
        if done is None or not (target / "config.json").is_file():
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(self.directory / "run" / "model", target)
            if (self.champion / CALIBRATION).is_file():
                shutil.copyfile(self.champion / CALIBRATION, target / CALIBRATION)
            before = audited(self.champion, audits, uri_of).figures()
            after = recalibrate(target, audited(target, audits, uri_of))
            done = {"champion": before, "challenger": after}
            _write(self.directory / "audits.json", done)
        return done

    def _compare(self) -> dict[str, Any]:
        done = _read(self.directory / "verdict.json")
        if done is None:
            from pipelines.promote import challenge
            from pipelines.session import default_workers, ray_session
            from pipelines.stages import RayRunner

            workers = default_workers()
            with ray_session(workers=workers):
                verdict = challenge(
                    self.directory / "model",
                    self.champion,
                    albums=[self.directory / "album", *map(Path, self.settings.albums)],
                    work=self.directory / "gate",
                    runner=RayRunner(workers=workers),
                    sure=self.settings.sure,
                )
            done = {"promoted": verdict.promoted, "reasons": list(verdict.reasons), "figures": dict(verdict.figures)}
            _write(self.directory / "verdict.json", done)
        return done

    def _promote(self) -> str:
        """The version that is champion now."""
        from pipelines.promote import publish
        from pipelines.registry import CHALLENGER, CHAMPION, register, set_alias

        now = describe(resolve(None)).embedding_digest
        mine = describe(self.directory / "model").embedding_digest
        if now not in (describe(self.champion).embedding_digest, mine):
            raise StoreError(
                f"{resolve(None)}: another model became champion meanwhile; remove {self.directory} to start from that one"
            )
        version = register(self.directory / "model", origin="retrain")
        set_alias(CHALLENGER, version)
        publish(self.directory / "model", version=version)
        set_alias(CHAMPION, version)
        return version

    def _report(self, told: Mapping[str, Any], verdict: Mapping[str, Any], rows: Sequence[ManifestRow]) -> None:
        groups = None
        if len(rows) <= _COMPARED:
            groups = changes(self.champion, self.directory / "model", rows, work=self.directory / "groups")
        write_report(self.directory, told, verdict, groups)


def _gain(human: Mapping[str, Any], verdict: Mapping[str, Any]) -> float | None:
    """By how much more often the challenger agrees with the audits; None without enough of them."""
    before, after = human["champion"].get("roc_auc"), human["challenger"].get("roc_auc")
    return None if before is None or after is None else round(after - before, 4)


def _child(command: Sequence[str]) -> None:
    """Run a command that says on stderr what it does; StoreError with its last line if it fails, ended if we are."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as child:
        last = ""
        try:
            assert child.stderr is not None
            for line in child.stderr:
                sys.stderr.write(line)
                last = line.strip() or last
            code = child.wait()
        except BaseException:
            child.send_signal(signal.SIGTERM)
            child.wait()
            raise
    if code != 0:
        raise StoreError(f"{' '.join(command[2:4])} ended with exit code {code}: {last}; the same command goes on")


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _write(path: Path, value: Mapping[str, Any]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
