"""Keeping a replica's second door shut.

Every replica of Ray Serve 2.60 opens a gRPC server for calls between deployments on all interfaces (`[::]:0`, no setting);
without RAY_USE_TLS it asks for no key, and what it is sent is unpickled. This application has one deployment and nobody
calls it that way, so the server is bound to loopback. Ray calls a replica's constructor before it opens the port.
"""

from __future__ import annotations

import logging
from typing import Any

__all__ = ["keep_inside"]

_log = logging.getLogger("ndd.serve")


def keep_inside() -> bool:
    """From now on in this process, Ray's own gRPC servers for all interfaces listen on loopback; False if this Ray opens
    them in another way, which is also logged."""
    from ray.serve._private import replica

    plain: Any = getattr(replica, "add_port_to_grpc_server", None)
    if plain is None:
        _log.warning("this version of Ray opens its ports in another way; check what listens, or set RAY_USE_TLS")
        return False
    if getattr(plain, "inside", False):
        return True

    def inside(server: Any, address: str) -> Any:
        return plain(server, address.replace("[::]:", "127.0.0.1:", 1))

    inside.inside = True  # type: ignore[attr-defined]
    vars(replica)["add_port_to_grpc_server"] = inside
    return True
