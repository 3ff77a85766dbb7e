"""What OpenAPI has to be told by hand: bodies that hold pictures, examples, and how the calls follow one another."""

from __future__ import annotations

import base64
from typing import Any

from fastapi import FastAPI

from serve import schemas

__all__ = ["ADD", "ADDED", "BATCH", "COMPARE", "DECIDE", "METRICS", "PICTURE", "PROBLEMS", "QUERY", "UNKNOWN", "finish"]


def _tiny(shift: int) -> str:
    """An 8 × 8 picture in the plainest format (PPM), base64: small enough to read in a page of documentation."""
    pixels = bytes(
        (row * 29 + column * 17 * (1 + shift) + channel * 80) % 256
        for row in range(8)
        for column in range(8)
        for channel in range(3)
    )
    return base64.b64encode(b"P6\n8 8\n255 " + pixels).decode()


_ONE, _OTHER = _tiny(0), _tiny(1)
_HEAD = _ONE[:16]

_BASE64: dict[str, Any] = {
    "title": "A picture file in base64",
    "description": "The bytes of a JPEG, PNG, WebP, GIF, TIFF, BMP, AVIF, HEIC or PNM file.",
    "type": "string",
    "anyOf": [
        {"title": "small PNM pictures, for trying out", "enum": [_ONE, _OTHER]},
        {"title": "an 8 × 8 PPM picture", "type": "string", "pattern": f"^{_HEAD}[A-Za-z0-9+/]{{254}}=?=?$"},
        {"title": "any picture file", "type": "string", "contentEncoding": "base64", "contentMediaType": "image/*"},
    ],
}
_INLINE = {
    "title": "a picture, inline",
    "type": "object",
    "required": ["base64"],
    "additionalProperties": False,
    "properties": {"base64": _BASE64},
}
_BY_URL = {
    "title": "a picture, fetched by the server",
    "type": "object",
    "required": ["url"],
    "additionalProperties": False,
    "properties": {"url": {"type": "string", "format": "uri"}},
}
_PICTURE = {"$ref": "#/components/schemas/Picture"}
_FILE = {"title": "a picture file", "type": "string", "format": "binary", "contentMediaType": "image/*"}
_PART = {"anyOf": [_FILE, *_BASE64["anyOf"][:2]]}
"""A part of a form: a file, or a text field in base64."""
EXAMPLE_ID = "photo-1"
_ID = {
    "type": "string",
    "anyOf": [
        {"title": "the id of the examples", "enum": [EXAMPLE_ID]},
        {"title": "any id", "type": "string", "minLength": 1, "maxLength": 256, "pattern": "^[^\\x00-\\x1f\\x7f]+$"},
    ],
}
_EXAMPLES = [{"base64": _ONE}, {"base64": _OTHER}]


def _body(
    model: type[schemas.Strict], pictures: tuple[str, ...], example: dict[str, Any], *, optional: bool = False
) -> dict[str, Any]:
    """A request body, as JSON and as a form: the fields of `model` with these pictures beside them."""
    fields = model.model_json_schema()
    required = [*([] if optional else pictures), *fields.get("required", [])]
    plain = {"type": "object", "additionalProperties": False, "required": required}
    rest = fields.get("properties", {})
    as_json = plain | {"properties": {**dict.fromkeys(pictures, _PICTURE), **rest}}
    as_form = plain | {
        "properties": {**dict.fromkeys(pictures, _FILE), **rest},
        "required": [*required, *(pictures if optional else ())],
    }
    content = {"application/json": {"schema": as_json, "example": example}, "multipart/form-data": {"schema": as_form}}
    return {"requestBody": {"required": True, "content": content}}


COMPARE = _body(schemas.CompareFields, ("a", "b"), {"a": _EXAMPLES[0], "b": _EXAMPLES[1]})
QUERY = _body(schemas.QueryFields, ("image",), {"image": _EXAMPLES[0], "k": 5}, optional=True)
ADD = _body(schemas.AddFields, ("image",), {"image": _EXAMPLES[0], "id": EXAMPLE_ID, "metadata": {"album": "holidays"}})
ADD["requestBody"]["content"]["application/json"]["schema"]["properties"]["id"] = _ID
ADD["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]["id"] = _ID


def _decision(left: str, right: str) -> dict[str, Any]:
    """A decision that names its pictures by these two fields."""
    fields = schemas.DecisionFields.model_json_schema()
    others = {"left", "right", "left_id", "right_id"} - {left, right}
    named = (
        _ID if left == "left" else {"type": "string", "pattern": "^[0-9a-f]{64}$", "description": "sha256 of a file"}
    )
    rest = {name: value for name, value in fields["properties"].items() if name not in others}
    properties = {**rest, left: named, right: named}
    required = [left, right, *fields["required"]]
    return {"type": "object", "additionalProperties": False, "required": required, "properties": properties}


DECIDE = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"anyOf": [_decision("left_id", "right_id"), _decision("left", "right")]},
                "example": {"left_id": "0" * 64, "right_id": "1" * 64, "verdict": "distinct", "reviewer": "ann"},
            }
        },
    }
}
BATCH = {
    "requestBody": {
        "required": True,
        "content": {
            "application/x-ndjson": {
                "schema": {"type": "string", "description": "one item of `items` per line"},
                "example": "{}\n",
            },
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["items"],
                    "additionalProperties": False,
                    "properties": {"items": {"type": "array", "items": {"$ref": "#/components/schemas/BatchItem"}}},
                },
                "example": {"items": [{"a": _EXAMPLES[0], "b": _EXAMPLES[1]}, {"image": _EXAMPLES[0], "k": 3}]},
            },
        },
    },
    "responses": {
        "200": {
            "description": "A line of JSON for each item, in order: index, ref, status, and result or error.",
            "content": {"application/x-ndjson": {"schema": {"type": "string"}}},
        }
    },
}
_PROBLEM: dict[str, Any] = {"model": schemas.Problem}
PROBLEMS: dict[int | str, dict[str, Any]] = {
    "4XX": _PROBLEM | {"description": "The request cannot be answered as it is."},
    503: _PROBLEM | {"description": "Not now; try again."},
    507: _PROBLEM | {"description": "No room to store it; nothing was changed."},
}
_LINKS = {
    "get": {"operationId": "get_image", "parameters": {"id": "$response.body#/id"}},
    "picture": {"operationId": "get_picture", "parameters": {"id": "$response.body#/id"}},
    "remove": {"operationId": "remove_image", "parameters": {"id": "$response.body#/id"}},
}
ADDED: dict[int | str, dict[str, Any]] = {
    201: {"description": "Added.", "links": _LINKS},
    200: {"model": schemas.Added, "description": "It was there already, or replaced another one.", "links": _LINKS},
    409: _PROBLEM | {"description": "The id is taken by another picture."},
}
UNKNOWN: dict[int | str, dict[str, Any]] = {404: _PROBLEM | {"description": "No picture of this id."}}
PICTURE: dict[int | str, dict[str, Any]] = {
    **UNKNOWN,
    200: {"description": "The file.", "content": {"application/octet-stream": {"schema": _FILE}}},
}
METRICS: dict[int | str, dict[str, Any]] = {
    200: {"description": "Prometheus text.", "content": {"text/plain": {"schema": {"type": "string"}}}}
}


def finish(app: FastAPI, *, urls: bool) -> None:
    """Let `app.openapi` name the schemas above and the key, once. urls: this server fetches pictures by URL."""
    plain = app.openapi

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            said = plain()
            parts = said.setdefault("components", {})
            parts.setdefault("schemas", {}).update(_schemas(urls))
            parts["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            for path, calls in said["paths"].items():
                for call in calls.values():
                    _settle(call, secured=path.startswith("/v1/"))
            # Whoever tries the calls in this order finds the example in the index, and removes it last.
            last = said["paths"].pop("/v1/images/{id}")
            said["paths"]["/v1/images/{id}"] = last
        return app.openapi_schema or {}

    app.openapi = described  # type: ignore[method-assign]


def _schemas(urls: bool) -> dict[str, Any]:
    item = _body(schemas.BatchCompare, ("a", "b"), {})["requestBody"]["content"]["application/json"]["schema"]
    query = _body(schemas.BatchQuery, ("image",), {})["requestBody"]["content"]["application/json"]["schema"]
    return {
        "Picture": {"oneOf": [_INLINE, _BY_URL], "examples": _EXAMPLES} if urls else _INLINE | {"examples": _EXAMPLES},
        "BatchItem": {"anyOf": [item, query]},
    }


def _settle(call: dict[str, Any], *, secured: bool) -> None:
    """Names that links can use, and who needs a key."""
    if secured:
        call["security"] = [{"key": []}]
    for parameter in call.get("parameters", ()):
        if parameter["name"] == "id":
            parameter["schema"] = _ID
    call["responses"].pop("422", None)  # FastAPI's own form of it; ours is among 4XX
