"""The roles as a Ray Serve deployment.

ONE replica class composes ingress, embedder, searcher and verifier in its own process: a hop between deployments costs more
than all of it but the network (`docs/adr/0005-serving.md`). More replicas share one index on one disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serve.auth import Key
from serve.settings import Settings

__all__ = ["Server"]


class Server:
    """One replica of everything. Nothing heavy is imported before a replica starts."""

    def __init__(self, settings: Mapping[str, Any], keys: tuple[Key, ...]) -> None:
        from ray import serve

        from serve.heap import keep_trimmed
        from serve.logs import log_as_json
        from serve.loopback import keep_inside
        from serve.service import Service

        log_as_json()
        keep_inside()
        keep_trimmed()
        self._settings = Settings.from_dict(settings)
        self._keys = keys
        replica = serve.get_replica_context().replica_id.unique_id
        self._service = Service(self._settings, replica=replica)

    def __serve_build_asgi_app__(self) -> Any:
        from serve.api import application
        from serve.auth import KeyRing

        ring = KeyRing(self._keys, path=self._settings.keys_path)
        return application(self._service, settings=self._settings, keys=ring, stamp=False)

    async def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """`user_config: {model: …}` in a YAML: another model without another replica."""
        await self._service.models.use(user_config.get("model", self._settings.model))

    def check_health(self) -> None:
        """Called by Serve; raising makes it replace this replica."""
        self._service.check()
