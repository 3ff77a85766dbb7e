"""Many comparisons and queries in one request: lines of JSON in, lines of JSON out, in order, as they are done.

    {"a": {"base64": …}, "b": {"base64": …}}        compares          {"index": 0, "status": 200, "result": {…}}
    {"image": {"base64": …}, "k": 5, "ref": "x"}    queries           {"index": 1, "ref": "x", "status": 422, "error": {…}}

The body is read whatever the answers wait for: most clients read nothing before they have sent everything.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from serve.errors import ApiError, from_exception
from serve.payload import Pictures, read_json, valid
from serve.schemas import BatchCompare, BatchQuery
from serve.service import Service
from serve.settings import Limits

__all__ = ["Lines", "answers", "lines_of"]

_AT_ONCE = 32
"""Items of one batch that are worked on at the same time: enough to keep every thread's batch full."""

Item = Mapping[str, Any] | ApiError


class Lines(StreamingResponse):
    """A streamed answer that leaves the rest of the request's body to whoever reads it."""

    media_type = "application/x-ndjson"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Starlette would read the body here, in wait for the client's going away; the server notices that by itself."""
        await self.stream_response(send)


async def lines_of(body: AsyncIterator[bytes], limits: Limits) -> AsyncIterator[Item]:
    """The JSON objects of the lines of a body; an error in place of a line that holds none."""
    rest = bytearray()
    count = 0
    async for part in body:
        rest += part
        *whole, left = rest.split(b"\n")
        rest = bytearray(left)
        for line in whole:
            if line.strip():
                count += 1
                yield await _item(bytes(line), count, limits)
        if len(rest) > limits.body_bytes:
            raise ApiError(413, "too_large", f"a line may have {limits.body_bytes} bytes")
    if rest.strip():
        yield await _item(bytes(rest), count + 1, limits)


async def answers(items: AsyncIterator[Item], service: Service, pictures: Pictures) -> AsyncIterator[bytes]:
    """One line for each item."""
    tasks: asyncio.Queue[asyncio.Task[bytes] | bytes | None] = asyncio.Queue()
    free = asyncio.Semaphore(_AT_ONCE)
    reader = asyncio.create_task(_read(items, tasks, free, service, pictures))
    running: asyncio.Task[bytes] | None = None
    try:
        while (waiting := await tasks.get()) is not None:
            if isinstance(waiting, bytes):
                yield waiting
            else:
                running = waiting
                yield await waiting
    finally:
        reader.cancel()
        while not tasks.empty():
            left = tasks.get_nowait()
            if isinstance(left, asyncio.Task):
                left.cancel()
        if running is not None:
            running.cancel()


async def _read(
    items: AsyncIterator[Item],
    tasks: asyncio.Queue[asyncio.Task[bytes] | bytes | None],
    free: asyncio.Semaphore,
    service: Service,
    pictures: Pictures,
) -> None:
    index = 0
    try:
        async for item in items:
            tasks.put_nowait(asyncio.create_task(_answer(index, item, free, service, pictures)))
            index += 1
    except ApiError as error:
        tasks.put_nowait(_line(index, None, error))
    finally:
        tasks.put_nowait(None)


async def _answer(index: int, item: Item, free: asyncio.Semaphore, service: Service, pictures: Pictures) -> bytes:
    ref = None if isinstance(item, ApiError) else item.get("ref")
    ref = ref if isinstance(ref, str) else None  # what is no text is refused below, and not given back
    async with free:
        try:
            if isinstance(item, ApiError):
                raise item
            return _line(index, ref, await _work(item, service, pictures))
        except Exception as error:
            return _line(index, ref, from_exception(error))


async def _work(item: Mapping[str, Any], service: Service, pictures: Pictures) -> dict[str, Any]:
    if "image" in item:
        query = valid(BatchQuery, item, pictures=("image",))
        return await service.query(await pictures.of_value(item["image"], name="image"), k=query.k)
    valid(BatchCompare, item, pictures=("a", "b"))
    sides = [item.get(name) for name in ("a", "b")]
    if None in sides:
        raise ApiError(422, "missing_picture", "an item has a and b, or image")
    a, b = [await pictures.of_value(side, name=name) for side, name in zip(sides, ("a", "b"), strict=True)]
    return await service.compare(a, b)


async def _item(line: bytes, count: int, limits: Limits) -> Item:
    if count > limits.batch_items:
        raise ApiError(413, "too_many", f"a batch may have {limits.batch_items} items")
    try:
        return await read_json(line)
    except ApiError as error:
        return error


def _line(index: int, ref: Any, said: Mapping[str, Any] | ApiError) -> bytes:
    head: dict[str, Any] = {"index": index}
    if ref is not None:
        head["ref"] = ref
    if isinstance(said, ApiError):
        head |= {"status": said.status, "error": {"code": said.code, "message": said.message}}
    else:
        head |= {"status": 200, "result": said}
    return json.dumps(head).encode() + b"\n"
