"""The schedules run one and the same command, and that command exists."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.retrain import add_arguments

INFRA = Path(__file__).resolve().parents[2] / "infra"
COMMAND = ["-m", "pipelines", "retrain"]


def cron_words() -> list[str]:
    lines = (INFRA / "cron" / "ndd-retrain.cron").read_text(encoding="utf-8").splitlines()
    (line,) = [text for text in lines if text and not text.startswith("#")]
    minute, hour, *every = line.split()[:5]
    assert (0 <= int(minute) < 60, 0 <= int(hour) < 24, every) == (True, True, ["*", "*", "*"])
    assert "%" not in line  # cron would end the line there
    return shlex.split(line)[5:]


def job() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(
        (INFRA / "k8s" / "base" / "retrain-cronjob.yaml").read_text(encoding="utf-8")
    )
    return found


def container() -> dict[str, Any]:
    (only,) = job()["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    found: dict[str, Any] = only
    return found


def guide_words() -> list[str]:
    text = (INFRA.parent / "docs" / "guides" / "retrain.md").read_text(encoding="utf-8")
    (line,) = [part for part in text.splitlines() if "ray job submit" in part]
    return shlex.split(line.split("`")[1])


@pytest.mark.parametrize("words", [cron_words(), container()["args"], guide_words()], ids=["cron", "k8s", "ray job"])
def test_it_is_the_retraining_with_arguments_that_it_takes(words: list[str]) -> None:
    start = words.index("-m")
    assert words[start : start + 3] == COMMAND
    rest = words[start + 3 :]
    rest = rest[: rest.index(">>")] if ">>" in rest else rest
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert parser.parse_args(rest).data.is_absolute()
    assert any(word.startswith("NDD_HOME=/") for word in words)  # nobody's default directory


def test_cron_needs_no_environment() -> None:
    words = cron_words()
    program = words[words.index("-m") - 1]
    assert program.startswith("/")
    assert words[words.index(">>") + 2] == "2>&1"


def test_the_cron_job_does_not_overlap_and_has_no_rights() -> None:
    spec = job()["spec"]
    assert (job()["apiVersion"], job()["kind"]) == ("batch/v1", "CronJob")
    assert spec["concurrencyPolicy"] == "Forbid"
    pod = spec["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container()["securityContext"]["allowPrivilegeEscalation"] is False
    (token,) = [entry for entry in container()["env"] if entry["name"] == "RAY_AUTH_TOKEN"]
    assert "secretKeyRef" in token["valueFrom"]
