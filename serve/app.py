"""`serve run serve.app:build model=DIR …`: the application that Ray Serve starts."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

from ndd.errors import ConfigError
from serve.auth import Key, load_keys, make_key, new_secret
from serve.deployments import Server
from serve.settings import Settings

__all__ = ["build"]

SHUTDOWN_SECONDS = 20.0


def build(args: Mapping[str, Any]) -> Any:
    """The application for these settings (`serve.settings.Settings`; dotted names for nested ones).

    Raises ConfigError for a setting that is unknown or wrong, and where nobody could use the server for want of a key.
    """
    settings = Settings.of(args)
    keys = _keys(settings)
    from ray import serve

    options: dict[str, Any] = {
        "name": "ndd",
        "num_replicas": settings.replicas,
        "max_ongoing_requests": settings.ongoing,
        "max_queued_requests": settings.queued,
        "graceful_shutdown_timeout_s": SHUTDOWN_SECONDS,
        "health_check_period_s": 5.0,
        "ray_actor_options": {"num_cpus": 1.0, "num_gpus": settings.gpus},
        # Ray's own log of accesses names paths and knows no keys; ours stands beside it.
        "logging_config": {"enable_access_log": False, "log_level": "WARNING"},
    }
    server = serve.deployment(**options)(serve.ingress()(Server))
    return server.bind(settings.to_dict(), keys)


def _keys(settings: Settings) -> tuple[Key, ...]:
    """The key of NDD_KEY, or one that is made and printed where there would be none at all."""
    given = os.environ.get("NDD_KEY")
    if given:
        return (make_key(given, name="NDD_KEY", scopes=("admin",)),)
    if load_keys(settings.keys_path):
        return ()
    if not settings.print_key:
        raise ConfigError(f"{settings.keys_path}: no key there; make one with `python -m serve keys`, or set NDD_KEY")
    secret = new_secret()
    sys.stderr.write(f"API key (made for this run; set NDD_KEY to choose one): {secret}\n")
    return (make_key(secret, name="printed", scopes=("admin",)),)
