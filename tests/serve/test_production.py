"""The YAML for clusters, checked more strictly than Ray does, and what `build` makes of arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from ndd.errors import ConfigError
from serve.app import build
from serve.auth import load_keys
from serve.cli import main
from serve.settings import Settings

# Ray's own use of pydantic, at its import.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

FILE = Path(__file__).resolve().parents[2] / "infra" / "ray" / "serve" / "ndd.yaml"


def known(values: dict[str, Any], schema: type[BaseModel]) -> bool:
    return set(values) <= set(schema.model_fields)


def test_every_key_of_the_yaml_means_something() -> None:
    from ray.serve.schema import HTTPOptionsSchema, LoggingConfig, ServeApplicationSchema, ServeDeploySchema

    said = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    assert known(said, ServeDeploySchema)
    assert known(said["http_options"], HTTPOptionsSchema)
    assert known(said["logging_config"], LoggingConfig)
    (application,) = said["applications"]
    assert known(application, ServeApplicationSchema)
    settings = Settings.of(application["args"])
    assert (settings.replicas, settings.print_key, settings.urls.enabled) == (2, False, False)
    checked = ServeDeploySchema.model_validate(said)
    assert checked.http_options.host == "127.0.0.1"


def test_build_reads_dotted_arguments_and_wants_a_key(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    with pytest.raises(ConfigError, match="no key there"):
        build({"print_key": "false"})
    built = build({"limits.k": "5", "replicas": "3"})
    assert "API key" in capsys.readouterr().err
    assert built._bound_deployment.num_replicas == 3
    monkeypatch.setenv("NDD_KEY", "short")
    with pytest.raises(Exception, match="at least 16"):
        build({})


def test_keys_are_made_listed_and_removed(tmp_path: Path, capsys: Any) -> None:
    file = str(tmp_path / "keys.json")
    assert main(["keys", "add", "team", "--scopes", "read,write", "--file", file]) == 0
    secret = capsys.readouterr().out.strip()
    (key,) = load_keys(tmp_path / "keys.json")
    assert key.fits(secret) and key.scopes == ("read", "write")
    assert main(["keys", "add", "team", "--file", file]) == 2
    assert main(["keys", "add", "other", "--scopes", "everything", "--file", file]) == 2
    assert main(["keys", "list", "--file", file]) == 0
    assert capsys.readouterr().out == "team\tread,write\n"
    assert main(["keys", "remove", "team", "--file", file]) == 0
    assert main(["keys", "remove", "team", "--file", file]) == 2
    assert load_keys(tmp_path / "keys.json") == []
