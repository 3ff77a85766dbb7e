"""MLflow: the only place that writes to it. Nothing here runs at import, and MLflow is imported inside functions.

A run is known by a file in its directory, so a later call that goes on with the run goes on with the same MLflow run.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ndd.errors import StoreError
from ndd.files import atomic_path, make_directory
from ndd.home import home
from ndd.model.directory import CONFIG, describe, shipped

__all__ = ["CONTENT", "EXPERIMENT", "REGISTERED_MODEL", "Registry", "TrackedRun", "content_digest", "tracking_uri"]

EXPERIMENT = "ndd-train"
REGISTERED_MODEL = "ndd"
"""Training adds versions to it and sets no alias; retraining sets `challenger`, only promotion sets `champion`."""

CONTENT = "content_digest"
"""Tag of a version: `content_digest` of its directory."""

_FILE, _MLMODEL = "mlflow.json", "MLmodel"


def content_digest(model: Path) -> str:
    """sha256 over the names and bytes of a model directory's files; what MLflow adds to it does not count."""
    whole = hashlib.sha256()
    files = (path for path in model.rglob("*") if path.is_file() and path.name != _MLMODEL)
    for path in sorted(files, key=lambda path: path.relative_to(model).as_posix()):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        whole.update(f"{path.relative_to(model).as_posix()}\n{content}\n".encode())
    return whole.hexdigest()


def tracking_uri() -> str:
    """MLFLOW_TRACKING_URI, or the SQLite file in $NDD_HOME."""
    named = os.environ.get("MLFLOW_TRACKING_URI")
    if named:
        return named
    database = home().mlflow_db
    make_directory(database.parent)
    return f"sqlite:///{database}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackedRun:
    """One training run in MLflow."""

    uri: str
    run_id: str
    directory: Path

    @classmethod
    def open(
        cls, directory: Path, *, params: Mapping[str, Any], tags: Mapping[str, str], experiment: str = EXPERIMENT
    ) -> TrackedRun:
        """The MLflow run of the training run in `directory`: the one it has, else a new one with these parameters and tags.

        params: nested settings, flattened to dotted names. Raises StoreError if its file names a run that is not there.
        """
        make_directory(directory)
        noted = _read(directory / _FILE)
        uri = noted["uri"] if noted else tracking_uri()
        client = _client(uri)
        if noted is None:
            run = client.create_run(_experiment(client, experiment), run_name=directory.name, tags=dict(tags))
            noted = {"uri": uri, "run_id": run.info.run_id}
            _log_params(client, run.info.run_id, params)
            _write(directory / _FILE, noted)
        else:
            _existing(client, noted["run_id"], directory)
            client.update_run(noted["run_id"], status="RUNNING")
        return cls(uri=uri, run_id=noted["run_id"], directory=directory)

    def epochs(self) -> set[int]:
        """The epochs that have been logged."""
        return {metric.step for metric in _client(self.uri).get_metric_history(self.run_id, "loss")}

    def log_epoch(self, figures: Mapping[str, float]) -> None:
        """Figures of one epoch, at the step number `figures["epoch"]`; NaN and infinity, which say nothing, are left out."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        step = int(figures["epoch"])
        metrics = [Metric(k, float(v), now, step) for k, v in figures.items() if k != "epoch" and math.isfinite(v)]
        _client(self.uri).log_batch(self.run_id, metrics=metrics)

    def log_health(self, history: Sequence[Mapping[str, float]]) -> None:
        """Keep the curves of the epochs so far as the artifact `plots/health.png`."""
        from pipelines.health import health_figure

        _client(self.uri).log_figure(self.run_id, health_figure(history), "plots/health.png")

    def register(self, model: Path, *, tags: Mapping[str, str]) -> str:
        """Keep the model directory as an artifact and make it the newest version of `ndd`, without an alias.

        The artifact is a model directory that MLflow can load too (`mlflow.pyfunc.load_model("models:/ndd/1")`, see
        `pipelines.pair_model`). Where there is no `ndd` yet, the model that comes with the package becomes version 1 first.
        Returns the version; a run has one, however often this is called.
        """
        noted = _read(self.directory / _FILE) or {}
        if "version" in noted:
            return str(noted["version"])
        client = _client(self.uri)
        experiment = client.get_run(self.run_id).info.experiment_id
        _register_shipped_first(client, experiment)
        version = _add_version(client, self.run_id, model, tags={"origin": "train", **tags})
        _write(self.directory / _FILE, {"uri": self.uri, "run_id": self.run_id, "version": version})
        return version

    def end(self, status: str) -> None:
        """`FINISHED`, `FAILED` or `KILLED`."""
        _client(self.uri).set_terminated(self.run_id, status=status)


class Registry:
    """The versions of `ndd` and their aliases at `uri` (default: `tracking_uri()`). Raises StoreError if it cannot be asked."""

    def __init__(self, uri: str | None = None) -> None:
        self.uri = uri or tracking_uri()
        self._client = _client(self.uri)

    def by_alias(self, alias: str) -> Any | None:
        """The version with this alias, as MLflow describes it; None if there is none."""
        return self._ask(lambda client: client.get_model_version_by_alias(REGISTERED_MODEL, alias))

    def by_number(self, version: str) -> Any | None:
        """The version of this number; None if there is none."""
        return self._ask(lambda client: client.get_model_version(REGISTERED_MODEL, version))

    def by_tag(self, name: str, value: str) -> Any | None:
        """The newest version with this tag; None if there is none."""
        found = self._ask(lambda client: client.search_model_versions(f"name = '{REGISTERED_MODEL}'")) or []
        return max((of for of in found if of.tags.get(name) == value), key=lambda of: int(of.version), default=None)

    def set_alias(self, alias: str, version: str) -> None:
        """Move the alias to the version, which has to exist."""
        self._client.set_registered_model_alias(REGISTERED_MODEL, alias, version)

    def add(self, model: Path, *, tags: Mapping[str, str], name: str) -> str:
        """Keep the model directory as the newest version, in a run of its own called `name`; its number."""
        client = self._client
        experiment = _experiment(client, EXPERIMENT)
        _register_shipped_first(client, experiment)
        run = client.create_run(experiment, run_name=name)
        version = _add_version(client, run.info.run_id, model, tags=tags)
        client.set_terminated(run.info.run_id)
        return version

    def log(self, name: str, *, figures: Mapping[str, float], files: Sequence[Path], experiment: str) -> str:
        """A finished run `name` with figures as metrics and files and folders as artifacts; its id."""
        from mlflow.entities import Metric

        client, now = self._client, int(time.time() * 1000)
        run = client.create_run(_experiment(client, experiment), run_name=name)
        metrics = [Metric(key, float(value), now, 0) for key, value in figures.items() if math.isfinite(value)]
        for start in range(0, len(metrics), 1000):
            client.log_batch(run.info.run_id, metrics=metrics[start : start + 1000])
        for path in files:
            if path.is_dir():
                client.log_artifacts(run.info.run_id, str(path), artifact_path=path.name)
            else:
                client.log_artifact(run.info.run_id, str(path))
        client.set_terminated(run.info.run_id)
        return str(run.info.run_id)

    def download(self, version: Any, into: Path) -> Path:
        """Copy the files of a version below `into`; the directory they are in."""
        return Path(self._client.download_artifacts(version.run_id, "model", str(into)))

    def _ask(self, question: Callable[[Any], Any]) -> Any | None:
        from mlflow.exceptions import MlflowException

        try:
            return question(self._client)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise StoreError(f"{self.uri}: the model registry does not answer ({error.error_code})") from error


def _client(uri: str) -> Any:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # else every new database is announced on stderr
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _register_shipped_first(client: Any, experiment: str) -> None:
    """Where there is no `ndd` yet, the model that comes with the package becomes its version 1."""
    if _create_registered_model(client) and (shipped() / CONFIG).is_file():
        run = client.create_run(experiment, run_name="shipped with the package")
        _add_version(client, run.info.run_id, shipped(), tags={"origin": "shipped"})
        client.set_terminated(run.info.run_id)


def _create_registered_model(client: Any) -> bool:
    """False if it is there already."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(REGISTERED_MODEL)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        return False
    return True


def _add_version(client: Any, run_id: str, model: Path, *, tags: Mapping[str, str]) -> str:
    with tempfile.TemporaryDirectory(prefix="ndd-register-") as scratch:
        copy = Path(shutil.copytree(model, Path(scratch) / "model"))
        _describe_for_mlflow(copy, run_id)
        client.log_artifacts(run_id, str(copy), artifact_path="model")
    source = f"{client.get_run(run_id).info.artifact_uri}/model"
    said = describe(model)
    digests = {
        "embedding_digest": said.embedding_digest,
        "scorer_digest": said.scorer_digest,
        CONTENT: content_digest(model),
    }
    return str(client.create_model_version(REGISTERED_MODEL, source, run_id=run_id, tags={**digests, **tags}).version)


def _describe_for_mlflow(directory: Path, run_id: str) -> None:
    """Write `MLmodel` beside the model's own files: how MLflow loads it, what goes in and what comes out."""
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import AnyType

    # A picture is a path (string) or a file's bytes (binary); a column of a signature has one type, hence Any.
    pictures = Schema([ColSpec(AnyType(), name, required=False) for name in ("left", "right")])
    kinds = {"score": DataType.double, "distance": DataType.double, "duplicate": DataType.boolean}
    answers = Schema([ColSpec(kind, name) for name, kind in kinds.items()])
    described = Model(run_id=run_id, signature=ModelSignature(inputs=pictures, outputs=answers))
    # What `mlflow.pyfunc.add_to_model` adds; that module takes seconds to import, and warns of itself.
    loader = {"loader_module": "pipelines.pair_model", "python_version": platform.python_version()}
    described.add_flavor("python_function", **loader)
    described.save(str(directory / _MLMODEL))


def _experiment(client: Any, name: str) -> str:
    """Its id. Artifacts of a SQLite tracker lie beside the database, not in whatever directory the command was run from."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        uri = client.tracking_uri
        place = Path(uri.removeprefix("sqlite:///")).absolute().parent / "mlartifacts"
        try:
            return str(
                client.create_experiment(
                    name, artifact_location=place.as_uri() if uri.startswith("sqlite:///") else None
                )
            )
        except MlflowException:
            found = client.get_experiment_by_name(name)  # another process was quicker
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        raise StoreError(f"MLflow experiment {name!r} was deleted; restore it with `mlflow experiments restore`")
    return str(found.experiment_id)


def _existing(client: Any, run_id: str, directory: Path) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.get_run(run_id)
    except MlflowException:
        raise StoreError(
            f"{directory / _FILE}: MLflow run {run_id} is not at {client.tracking_uri}; "
            "set MLFLOW_TRACKING_URI to where it is, or remove the file to track the run anew"
        ) from None


def _log_params(client: Any, run_id: str, params: Mapping[str, Any]) -> None:
    from mlflow.entities import Param

    flat = [Param(name, text[:6000]) for name, text in _flatten(params).items()]
    for start in range(0, len(flat), 100):
        client.log_batch(run_id, params=flat[start : start + 100])


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value if isinstance(value, str) else json.dumps(value)
    return flat


def _read(path: Path) -> dict[str, str] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        return {str(k): str(v) for k, v in value.items()}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError) as error:
        raise StoreError(f"{path}: cannot be read ({error}); remove it to track the run anew") from error


def _write(path: Path, value: Mapping[str, str]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value) + "\n", encoding="utf-8")
