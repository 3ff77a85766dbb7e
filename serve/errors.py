"""What goes wrong with a request, as a status and one sentence; never a path of the server or a stack trace.

{"error": {"code": "unreadable_picture", "message": "a: header: no picture format known here"}, "request_id": "…"}
"""

from __future__ import annotations

import errno
from typing import Any

from ndd.errors import ConflictError, DecodeError, InputError, NddError, StoreError, StoreFull

__all__ = ["ApiError", "body_of", "from_exception"]


class ApiError(Exception):
    """An answer that is not 2xx. code: for programs, stable; message: one sentence for people, without secrets."""

    def __init__(self, status: int, code: str, message: str, *, headers: dict[str, str] | None = None) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.headers = headers or {}

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (self.status, self.code, self.message, self.headers))


def _rebuild(status: int, code: str, message: str, headers: dict[str, str]) -> ApiError:
    return ApiError(status, code, message, headers=headers)


def body_of(error: ApiError, *, request_id: str) -> dict[str, Any]:
    """The JSON body of an error."""
    return {"error": {"code": error.code, "message": error.message}, "request_id": request_id}


def from_exception(error: BaseException, *, name: str = "picture") -> ApiError:
    """What to answer for an exception of the library. name: the field that holds the picture at fault."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, DecodeError):
        return ApiError(
            422, "unreadable_picture", f"{name}: {error.reason}; send a JPEG, PNG, WebP, GIF, TIFF or HEIC file"
        )
    if isinstance(error, StoreFull) or _is_full(error):
        return ApiError(507, "storage_full", "the server has no room left to store this; nothing was changed")
    if isinstance(error, ConflictError):
        return ApiError(409, "conflict", "the id is taken by another picture; send replace=true or another id")
    if isinstance(error, InputError):
        return ApiError(422, "bad_input", f"{name}: cannot be used as asked")
    if isinstance(error, StoreError):
        return ApiError(503, "storage", "the store cannot be used right now; try again", headers={"Retry-After": "1"})
    if isinstance(error, NddError):
        return ApiError(
            503, "unavailable", "the model cannot be used right now; try again", headers={"Retry-After": "1"}
        )
    return ApiError(500, "internal", "the server met an error; its log has it under this request_id")


def _is_full(error: BaseException | None) -> bool:
    seen = 0
    while error is not None and seen < 10:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return True
        error = error.__cause__ or error.__context__
        seen += 1
    return False
