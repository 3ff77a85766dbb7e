"""What OpenAPI has to be told by hand: bodies that hold pictures, examples, and how the calls follow one another."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastapi import FastAPI

from serve import schemas

__all__ = ["ADD", "ADDED", "BATCH", "COMPARE", "DECIDE", "METRICS", "PICTURE", "PROBLEMS", "QUERY", "UNKNOWN", "finish"]


def _tiny(shift: int) -> str:
    """An 8 × 8 picture in the plainest format (PPM), base64: small enough to read in a page of documentation."""
    pixels = bytes((y * 29 + x * 17 * (1 + shift) + c * 80) % 256 for y in range(8) for x in range(8) for c in range(3))
    return base64.b64encode(b"P6\n8  8\n255\n" + pixels).decode()


def _starts() -> str:
    """A pattern for base64 that begins like a picture file. Some forms of small PNM pictures are spelt out to the end, so
    that tools which make requests up from the description make real pictures most of the time."""
    letter = "[A-Za-z0-9+/]"
    # Head → letters of the pixels behind it; each head has a multiple of three bytes, so that base64 can be cut there.
    small = {
        b"P6\n8  8\n255\n": 256,
        b"P6\n6  6\n255\n": 144,
        b"P5\n6  8\n255\n": 64,
        b"P5\n12   12\n255\n": 192,
        b"P5\n16    9\n255\n": 192,
        b"P4\n8  12\n": 16,
        b"P4\n24 10\n": 40,
    }
    whole = [
        base64.b64encode(head).decode().replace("+", "[+]") + f"{letter}{{{rest}}}" for head, rest in small.items()
    ]
    # JPEG, PNG, GIF, WebP, TIFF (both orders), BMP, PNM, and ISO media (HEIC, AVIF: `ftyp` after a length), each as far as
    # its first bytes decide whole letters; then up to a multiple of four letters, as base64 has it.
    first = ["/9j/", "iVBORw0KGgo", "R0lGOD", "UklGR", "SUkqA", "TU0AK", "Qk", "UD[Q-Y]", f"AAAA{letter}{{2}}Z0eXB"]
    first[-1:] = [f"AAAA{letter}{{2}}Z0eXB", f"AAAA{letter}{{2}}ZnR5c"]
    lengths = [4, 11, 6, 5, 5, 5, 2, 3, 11, 11]
    any_length = [f"{start}{letter}{{{-length % 4}}}" for start, length in zip(first, lengths, strict=True)]
    end = f"(?:{letter}{{4}})*(?:{letter}{{2}}==|{letter}{{3}}=)?"
    return f"^(?:{'|'.join(whole)}|(?:{'|'.join(any_length)}){end})$"


_ONE, _OTHER = _tiny(0), _tiny(1)
_BASE64: dict[str, Any] = {
    "title": "A picture file in base64",
    "description": "The bytes of a JPEG, PNG, WebP, GIF, TIFF, BMP, AVIF, HEIC or PNM file.",
    "type": "string",
    "contentEncoding": "base64",
    "contentMediaType": "image/*",
    "pattern": _starts(),
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
EXAMPLE_ID, OTHER_ID = "photo-1", "photo-2"


def _named(example: str) -> dict[str, Any]:
    """A picture of the index by its id, for instance by this one."""
    return {"type": "string", "pattern": f"^(?:{example}|[^\\x00-\\x1f\\x7f]{{1,256}})$", "example": example}


_NAMED = _named(EXAMPLE_ID)
_EXAMPLES = [{"base64": _ONE}, {"base64": _OTHER}]


def _with_pictures(pictures: Sequence[str], picture: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """An object of these pictures and the fields of a model's schema beside them."""
    return {
        "type": "object",
        "additionalProperties": False,
        "required": [*pictures, *fields.get("required", [])],
        "properties": {**dict.fromkeys(pictures, picture), **fields.get("properties", {})},
    }


def _form(pictures: Sequence[str], fields: Mapping[str, Any]) -> dict[str, Any]:
    """The same as a form, in which a picture is a file, or a text in base64."""
    return {"anyOf": [_with_pictures(pictures, picture, fields) for picture in (_FILE, _BASE64)]}


def _body(json: Mapping[str, Any], form: Mapping[str, Any], *examples: dict[str, Any]) -> dict[str, Any]:
    """A request body by its two schemas."""
    named = {f"example {at}": {"value": value} for at, value in enumerate(examples, 1)}
    content = {
        "application/json": {"schema": json, "examples": named},
        "multipart/form-data": {"schema": form},
    }
    return {"requestBody": {"required": True, "content": content}}


_NO_FIELDS: dict[str, Any] = {}
_ADDED = schemas.AddFields.model_json_schema()
COMPARE = _body(
    _with_pictures(("a", "b"), _PICTURE, _NO_FIELDS),
    _form(("a", "b"), _NO_FIELDS),
    {"a": _EXAMPLES[0], "b": _EXAMPLES[1]},
)
QUERY = _body(
    {"$ref": "#/components/schemas/QueryBody"},
    {"$ref": "#/components/schemas/QueryForm"},
    {"image": _EXAMPLES[0], "k": 5},
)
ADD = _body(
    _with_pictures(("image",), _PICTURE, _ADDED),
    _form(("image",), _ADDED),
    {"image": _EXAMPLES[0], "id": EXAMPLE_ID, "metadata": {"album": "holidays"}},
    {"image": _EXAMPLES[1], "id": OTHER_ID},
)


def _decision(title: str, named: Mapping[str, dict[str, Any]], *, timed: bool | None) -> dict[str, Any]:
    """A decision that names its pictures by these two fields. timed: it says when; None: it may."""
    fields = schemas.DecisionFields.model_json_schema()
    rest = {name: value for name, value in fields["properties"].items() if name not in _SIDES}
    required = [*named, *fields["required"]]
    if timed is False:
        rest.pop("time")
    elif timed:
        required.append("time")
        rest["time"] = {"type": "string", "format": "date-time"}
    properties = {**rest, **named}
    return {
        "title": title,
        "type": "object",
        "additionalProperties": False,
        "required": required,
        "properties": properties,
    }


_SIDES = ("left", "right", "left_id", "right_id")
_SHA256 = {"type": "string", "pattern": "^[0-9a-f]{64}$", "description": "sha256 of a file"}
_BY_CONTENT = {"left_id": _SHA256, "right_id": _SHA256}
_DECISIONS = [
    _decision("two files, now", _BY_CONTENT, timed=False),
    _decision("two files, at a time; the same again is recorded once", _BY_CONTENT, timed=True),
    _decision("two pictures of the index", {"left": _NAMED, "right": _named(OTHER_ID)}, timed=None),
]
DECIDE = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"anyOf": _DECISIONS},
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


def finish(app: FastAPI, *, urls: bool, k: int, model: Callable[[], tuple[str, int]]) -> None:
    """Let `app.openapi` name the schemas above and the key. urls: this server fetches pictures by URL. k: most matches.
    model: digest and dimension of the embeddings that this server understands now."""
    plain = app.openapi
    known: dict[tuple[str, int], dict[str, Any]] = {}

    def described() -> dict[str, Any]:
        now = model()
        if now not in known:
            app.openapi_schema = None
            said = plain()
            parts = said.setdefault("components", {})
            parts.setdefault("schemas", {}).update(_schemas(urls, k, now))
            parts["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            for path, calls in said["paths"].items():
                for call in calls.values():
                    _settle(call, secured=path.startswith("/v1/"))
            # Whoever tries the calls in this order finds the example in the index, and removes it last.
            said["paths"]["/v1/images/{id}"] = said["paths"].pop("/v1/images/{id}")
            known.clear()
            known[now] = said
        return known[now]

    app.openapi = described  # type: ignore[method-assign]


def _schemas(urls: bool, k: int, model: tuple[str, int]) -> dict[str, Any]:
    digest, dim = model
    ref = {"type": "string", "maxLength": 256}
    most = {"type": "integer", "minimum": 1, "maximum": k, "default": 10}
    by_picture = _with_pictures(("image",), _PICTURE, {"properties": {"k": most}})
    compared = _with_pictures(("a", "b"), _PICTURE, {"properties": {"ref": ref}})
    asked = _with_pictures(("image",), _PICTURE, {"properties": {"k": most, "ref": ref}})
    number = {"type": "number", "minimum": -1, "maximum": 1}
    by_vector = {
        "type": "object",
        "additionalProperties": False,
        "required": ["vector", "embedding_digest"],
        "properties": {
            "vector": {"type": "array", "items": number, "minItems": dim, "maxItems": dim},
            "embedding_digest": {"type": "string", "enum": [digest], "description": "of the model that answers here"},
            "k": most,
        },
    }
    return {
        "Picture": {"oneOf": [_INLINE, _BY_URL], "examples": _EXAMPLES} if urls else _INLINE | {"examples": _EXAMPLES},
        "QueryBody": {"anyOf": [by_picture, by_vector]},
        "QueryForm": _form(("image",), {"properties": {"k": most}}),
        "BatchItem": {"anyOf": [compared, asked]},
    }


def _settle(call: dict[str, Any], *, secured: bool) -> None:
    """Names that links can use, and who needs a key."""
    if secured:
        call["security"] = [{"key": []}]
    for parameter in call.get("parameters", ()):
        if parameter["name"] == "id":
            parameter["schema"] = _NAMED
    call["responses"].pop("422", None)  # FastAPI's own form of it; ours is among 4XX
