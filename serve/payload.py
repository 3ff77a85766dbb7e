"""Bodies → pictures and fields. A picture comes as a file of a form, or in JSON as {"base64": …} or {"url": …}."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from serve.errors import ApiError
from serve.settings import Limits

__all__ = ["Payload", "Pictures", "from_validation", "read_json", "read_payload", "valid"]

Fetch = Callable[[str], Awaitable[bytes]]
_AT_ONCE = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """A body: the pictures of a form (or none), and other fields as JSON values; those of a form are text."""

    files: Mapping[str, bytes] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)


class _InMemory(MultiPartParser):
    """Keeps files in memory: the body is bounded, and a full disk must not stop a comparison. A part without a file name is
    kept as it came (latin-1 loses no byte), because many clients send a picture so."""

    spool_max_size = 1 << 40

    def on_part_end(self) -> None:
        """A part is complete."""
        if self._current_part.file is None:
            self.items.append((self._current_part.field_name, self._current_part.data.decode("latin-1")))
        else:
            super().on_part_end()

    def close(self) -> None:
        """Let all files go, those of a form that was cut short too."""
        for file in self._files_to_close_on_error:
            file.close()


class Pictures:
    """Gets the bytes of pictures, whichever way they come."""

    def __init__(self, limits: Limits, fetch: Fetch | None) -> None:
        """fetch: how URLs are fetched; None refuses them."""
        self._limits = limits
        self._fetch = fetch

    async def of(self, payload: Payload, *names: str) -> list[bytes]:
        """The pictures of these fields. Raises ApiError naming the one that is missing or wrong."""
        return [await self._one(payload, name) for name in names]

    async def of_value(self, value: Any, *, name: str) -> bytes:
        """The picture that a JSON value gives."""
        if isinstance(value, str):  # the shortest JSON there is
            value = {"base64": value}
        if not isinstance(value, Mapping) or set(value) not in ({"base64"}, {"url"}):
            raise ApiError(422, "bad_picture", f'{name}: send {{"base64": …}} or {{"url": …}}, or a file of a form')
        (kind, text), *_ = value.items()
        if not isinstance(text, str):
            raise ApiError(422, "bad_picture", f"{name}.{kind}: a text is wanted")
        content = await self._decode(text, name) if kind == "base64" else await self._from_url(text, name)
        return self._checked(content, name)

    async def _one(self, payload: Payload, name: str) -> bytes:
        if name in payload.files:
            return self._checked(payload.files[name], name)
        if name not in payload.values:
            raise ApiError(422, "missing_picture", f"{name}: no picture under this name")
        return await self.of_value(payload.values[name], name=name)

    async def _decode(self, text: str, name: str) -> bytes:
        try:
            if len(text) < _AT_ONCE:
                return base64.b64decode(text, validate=True)
            return await asyncio.to_thread(base64.b64decode, text, validate=True)
        except (binascii.Error, ValueError):
            raise ApiError(422, "bad_base64", f"{name}.base64: not base64; encode the bytes of the file") from None

    async def _from_url(self, url: str, name: str) -> bytes:
        if self._fetch is None:
            raise ApiError(422, "urls_off", f"{name}.url: this server fetches no URLs; send the picture itself")
        return await self._fetch(url)

    def _checked(self, content: bytes, name: str) -> bytes:
        if len(content) > self._limits.image_bytes:
            most = self._limits.image_bytes
            raise ApiError(413, "too_large", f"{name}: a picture may have {most} bytes; send a smaller one")
        return content


async def read_payload(request: Request, *, pictures: Sequence[str] = ()) -> Payload:
    """The body of a request, a form or a JSON object. pictures: fields of a form that hold one. Raises ApiError for
    anything else."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _form(request, pictures)
    if kind == "application/json":
        return Payload(values=await read_json(await request.body()))
    raise ApiError(415, "media_type", "send multipart/form-data or application/json")


async def read_json(body: bytes) -> dict[str, Any]:
    """A JSON object. Raises ApiError."""
    try:
        value = json.loads(body) if len(body) < _AT_ONCE else await asyncio.to_thread(json.loads, body)
    except (ValueError, RecursionError):
        raise ApiError(400, "bad_json", "the body is not valid JSON") from None
    if not isinstance(value, dict):
        raise ApiError(422, "bad_json", "the body is a JSON object")
    return value


async def _form(request: Request, pictures: Sequence[str]) -> Payload:
    # The body is bounded as a whole (`serve.guard`), so a part of it needs no bound of its own.
    parser = _InMemory(request.headers, request.stream(), max_files=16, max_fields=32, max_part_size=1 << 40)
    try:
        return await _sorted_out(await parser.parse(), pictures)
    except (MultiPartException, KeyError, ValueError, AssertionError) as error:
        raise ApiError(400, "bad_form", f"the form cannot be read ({type(error).__name__})") from None
    finally:
        parser.close()


async def _sorted_out(form: FormData, pictures: Sequence[str]) -> Payload:
    """Pictures by name, other parts as text: which of them have a file name is a matter of the client's taste."""
    files: dict[str, bytes] = {}
    values: dict[str, Any] = {}
    for name, value in form.multi_items():
        if name in files or name in values:
            raise ApiError(422, "bad_form", f"{_shown(name)}: given twice")
        named = isinstance(value, UploadFile)
        content = await value.read() if isinstance(value, UploadFile) else value.encode("latin-1")
        if name not in pictures:
            values[name] = content.decode()
        else:
            files[name] = content if named else await asyncio.to_thread(_of_part, content)
    return Payload(files=files, values=values)


def _of_part(content: bytes) -> bytes:
    """A picture without a file name: in base64, or as it is (no format writes base64's letters only)."""
    try:
        return base64.b64decode(content, validate=True)
    except ValueError:
        return content


def valid(model: type[BaseModel], values: Mapping[str, Any], *, pictures: Sequence[str] = ()) -> Any:
    """The fields beside the pictures, checked. Raises ApiError naming the first that is wrong."""
    rest = {name: value for name, value in values.items() if name not in pictures}
    try:
        return model.model_validate(rest)
    except ValidationError as error:
        raise from_validation(error.errors(include_url=False, include_input=False)) from None


def from_validation(errors: Sequence[Any]) -> ApiError:
    """What to answer for pydantic's list of what is wrong: the first of it, without the values."""
    first = errors[0]
    if first["type"] == "json_invalid":
        return ApiError(400, "bad_json", "the body is not valid JSON")
    place = ".".join(str(part) for part in first["loc"]) or "body"
    return ApiError(422, "bad_field", f"{_shown(place)}: {first['msg'].removeprefix('Value error, ')}")


def _shown(name: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in name)[:60]
