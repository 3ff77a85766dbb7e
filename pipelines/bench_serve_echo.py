"""The deployment of `bench serve --only grpc`: it gives back what it is sent. In a module of its own, because what a script
defines cannot be found by the processes that Ray starts."""

from __future__ import annotations

from typing import Any

__all__ = ["Echo", "Reply"]


class Reply:
    """Bytes in the form that Ray asks of an answer over gRPC."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def SerializeToString(self) -> bytes:
        """The bytes."""
        return self._content


class Echo:
    """Bytes there and back."""

    async def __call__(self, request: Any) -> Any:
        """Over HTTP."""
        from starlette.responses import Response

        return Response(await request.body())

    async def Echo(self, content: bytes) -> Reply:
        """Over gRPC."""
        return Reply(content)
