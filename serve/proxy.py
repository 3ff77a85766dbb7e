"""What runs inside Ray's HTTP proxy: a deadline for requests whose head never ends, and memory that goes back.

Ray Serve starts its proxy with uvicorn, which waits for ever for the rest of a request's head; neither has a setting
against that. Ray calls `prepare` there (RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH), before uvicorn looks up its
protocol by name: the name then stands for one that closes such connections.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.config import HTTP_PROTOCOLS
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from serve.heap import keep_trimmed

__all__ = ["HEAD_SECONDS", "DeadlineProtocol", "prepare"]

HEAD_SECONDS = 10.0
"""From the first byte of a connection or of a further request on it to the end of its head."""

_Base: Any = AutoHTTPProtocol


class DeadlineProtocol(_Base):  # type: ignore[misc]
    """uvicorn's protocol, closing connections that do not come to the point."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """A connection that says nothing at all is closed too."""
        super().connection_made(transport)
        self._arm()

    def data_received(self, data: bytes) -> None:
        """Bytes came; once they have completed a head, a request is under way and the application keeps the time."""
        if self._deadline is None and self._idle():
            self._arm()
        super().data_received(data)
        if not self._idle():
            self._disarm()

    def connection_lost(self, exc: Exception | None) -> None:
        """Gone."""
        self._disarm()
        super().connection_lost(exc)

    def _idle(self) -> bool:
        cycle = self.cycle
        return cycle is None or cycle.response_complete

    def _arm(self) -> None:
        self._deadline = self.loop.call_later(HEAD_SECONDS, self._too_late)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_late(self) -> None:
        self._deadline = None
        if self._idle() and not self.transport.is_closing():
            self.transport.close()


def prepare() -> list[Any]:
    """Called by Ray in each process that accepts HTTP; returns no middleware."""
    HTTP_PROTOCOLS["auto"] = "serve.proxy:DeadlineProtocol"
    keep_trimmed()
    return []
