"""The outermost layer of the application: request ids, bodies that are too large or too slow, logs, numbers, last errors.

Plain ASGI, because it has to act while a body is still arriving.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from serve.errors import ApiError, body_of, from_exception
from serve.metrics import Numbers
from serve.settings import Limits

__all__ = ["BATCH_PATH", "Guard"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

BATCH_PATH = "/v1/batch"
_log = logging.getLogger("ndd.serve")
_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_DRAIN_SECONDS = 2.0


class Guard:
    """Wraps the application `app`."""

    def __init__(self, app: Any, *, limits: Limits, numbers: Numbers, stamp: bool) -> None:
        """stamp: write the request id into answers; Ray's proxy does it by itself."""
        self._app = app
        self._stamp = stamp
        self._limits = limits
        self._numbers = numbers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = _Request(scope, receive, send, limits=self._limits, stamp=self._stamp)
        scope.setdefault("state", {})["request_id"] = request.id
        start = time.perf_counter()
        self._numbers.begin()
        try:
            await self._app(scope, request.receive, request.send)
        except ApiError as error:
            await request.refuse(error)
        except asyncio.CancelledError:
            request.status = 499
            raise
        except Exception as error:
            _log.exception("unhandled", extra={"fields": {"request_id": request.id}})
            await request.refuse(from_exception(error))
        finally:
            seconds = time.perf_counter() - start
            state = scope.get("state", {})
            route = getattr(scope.get("route"), "path", "unknown")
            self._numbers.end(route, scope["method"], request.status, seconds)
            fields = {
                "request_id": request.id,
                "method": scope["method"],
                "route": route,
                "status": request.status,
                "ms": round(seconds * 1e3, 1),
                "bytes_in": request.taken,
                "key": state.get("key_name"),
                **state.get("log", {}),
            }
            _log.info("request", extra={"fields": fields})


class _Request:
    """One request's streams, counted and timed."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, *, limits: Limits, stamp: bool) -> None:
        self._receive, self._send, self._limits, self._stamp = receive, send, limits, stamp
        self._most = limits.batch_bytes if scope["path"] == BATCH_PATH else limits.body_bytes
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        self.id = given.decode() if _ID.fullmatch(given) else secrets.token_hex(8)
        declared = headers.get(b"content-length", b"")
        self._declared = int(declared) if declared.isdigit() and len(declared) < 20 else 0
        self._waited = 0.0
        self._complete = False
        self._close = False
        self.taken = 0
        self.started = False
        self.finished = False
        self.status = 0

    async def receive(self) -> Message:
        """The next part of the body. Raises ApiError for one that is too large or comes too slowly."""
        if self._declared > self._most:
            raise self._too_large()
        message = await self._next(self._limits.receive_seconds)
        if self.taken > self._most:
            raise self._too_large()
        return message

    async def _next(self, patience: float) -> Message:
        if self._complete:  # what is awaited now is the client's going away, for as long as the answer takes
            return await self._receive()
        budget = patience + self.taken / self._limits.receive_rate - self._waited
        start = time.perf_counter()
        try:
            message = await asyncio.wait_for(self._receive(), max(budget, 0.01))
        except TimeoutError:
            self._close = True
            raise ApiError(408, "too_slow", "the body did not arrive in time; send it faster") from None
        self._waited += time.perf_counter() - start
        self.taken += len(message.get("body", b""))
        self._complete = message["type"] != "http.request" or not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """Pass an answer on, with its request id."""
        if message["type"] == "http.response.start":
            self.started = True
            self.status = message["status"]
            if self.status >= 400:
                await self._drain()
            message["headers"] = [*message.get("headers", ()), *self._headers()]
        await self._send(message)
        self.finished = message["type"] == "http.response.body" and not message.get("more_body", False)

    async def refuse(self, error: ApiError) -> None:
        """Answer with an error; where an answer has begun, end it so that the client sees it cut."""
        if self.finished:
            return
        if self.started:
            raise ConnectionAbortedError("the answer had begun")
        content = json.dumps(body_of(error, request_id=self.id)).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
        headers += [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
        await self.send({"type": "http.response.start", "status": error.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": content})

    def _headers(self) -> list[tuple[bytes, bytes]]:
        added = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer")]
        if self._stamp:
            added.append((b"x-request-id", self.id.encode()))
        if self._close:
            added.append((b"connection", b"close"))
        return added

    async def _drain(self) -> None:
        """Take in the rest of a body nobody wants: many clients read the answer only after they have sent everything."""
        if self._close or self._declared > self._most:
            self._close = True
            return
        try:
            async with asyncio.timeout(_DRAIN_SECONDS):
                while not self._complete and self.taken <= self._limits.body_bytes:
                    await self._next(_DRAIN_SECONDS)
        except (TimeoutError, ApiError):
            pass
        self._close = not self._complete

    def _too_large(self) -> ApiError:
        self._close = True
        return ApiError(413, "too_large", f"the body may have {self._most} bytes; send a smaller picture or fewer")
