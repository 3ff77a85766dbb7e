"""HTTP in, HTTP out: who may do what, and which fields make which call."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Path, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from serve import openapi, schemas
from serve.auth import KeyRing
from serve.batch import Lines, answers, lines_of
from serve.errors import ApiError, body_of, from_exception
from serve.fetch import Fetcher
from serve.guard import Guard
from serve.metrics import CONTENT_TYPE_LATEST
from serve.page import add_page
from serve.payload import Pictures, from_validation, read_json, read_payload, valid
from serve.rates import Rates
from serve.service import Service
from serve.settings import Settings

__all__ = ["application"]

Needs = Callable[[str], Any]


class Json(JSONResponse):
    """JSON of ASCII letters: an index that was filled from a disk may hold names that are no valid Unicode."""

    def render(self, content: Any) -> bytes:
        """The body."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


def application(service: Service, *, settings: Settings, keys: KeyRing, stamp: bool = True) -> Any:
    """The ASGI application around `service`, guarded. stamp: write request ids into answers (Ray's proxy does it)."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await service.start()
        yield
        await service.stop()

    app = FastAPI(
        title="ndd",
        summary="Is this picture already there, and what are these two to each other?",
        version="1",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        responses=openapi.PROBLEMS,
    )
    fetch = Fetcher(settings.urls, most=settings.limits.image_bytes) if settings.urls.enabled else None
    pictures = Pictures(settings.limits, fetch)
    needs = _needs(keys, Rates(rate=settings.limits.requests_per_second, burst=settings.limits.burst))
    _add_errors(app)
    app.include_router(_judging(service, pictures, settings, needs))
    app.include_router(_keeping(service, pictures, settings, needs))
    app.include_router(_telling(service, settings, needs))
    add_page(app)
    openapi.finish(app, urls=settings.urls.enabled, k=settings.limits.k, model=service.embedding)
    return Guard(app, limits=settings.limits, numbers=service.numbers, stamp=stamp)


def _needs(keys: KeyRing, rates: Rates) -> Needs:
    def needs(scope: str) -> Any:
        async def check(request: Request) -> None:
            kind, _, secret = request.headers.get("authorization", "").partition(" ")
            key = keys.find(secret.strip()) if kind.lower() == "bearer" else None
            if key is None:
                remedy = {"WWW-Authenticate": "Bearer"}
                raise ApiError(401, "no_key", "no valid key; send the header Authorization: Bearer KEY", headers=remedy)
            request.state.key_name = key.name
            if not key.may(scope):
                raise ApiError(403, "scope", f"this key may not {scope}; use one with that scope")
            wait = rates.wait(key.digest)
            if wait:
                raise ApiError(429, "too_often", "too many requests with this key", headers={"Retry-After": str(wait)})

        return Depends(check)

    return needs


def _add_errors(app: FastAPI) -> None:
    def said(request: Request, error: ApiError) -> Response:
        return Json(body_of(error, request_id=request.state.request_id), error.status, headers=error.headers)

    @app.exception_handler(ApiError)
    async def refused(request: Request, error: ApiError) -> Response:
        return said(request, error)

    @app.exception_handler(HTTPException)
    async def not_here(request: Request, error: HTTPException) -> Response:
        codes = {404: "not_found", 405: "method"}
        headers = dict(error.headers or {})
        return said(
            request, ApiError(error.status_code, codes.get(error.status_code, "http"), error.detail, headers=headers)
        )

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return said(request, from_validation(error.errors()))

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> Response:
        return said(request, from_exception(error))


def _judging(service: Service, pictures: Pictures, settings: Settings, needs: Needs) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["judge"], dependencies=[needs("read")])

    @router.post("/compare", response_model=schemas.Answer, openapi_extra=openapi.COMPARE)
    async def compare(request: Request) -> Response:
        """What two pictures are to each other: the body of `ndd compare --json`."""
        payload = await read_payload(request, pictures=("a", "b"))
        valid(schemas.CompareFields, payload.values, pictures=("a", "b"))
        a, b = await pictures.of(payload, "a", "b")
        return Json(await service.compare(a, b))

    @router.post("/query", response_model=schemas.QueryAnswer, openapi_extra=openapi.QUERY)
    async def query(request: Request) -> Response:
        """Is this picture already there? A picture, or an embedding with the digest of the model that made it."""
        payload = await read_payload(request, pictures=("image",))
        fields = valid(schemas.QueryFields, payload.values, pictures=("image",))
        if fields.vector is not None:
            if "image" in payload.files or "image" in payload.values:
                raise ApiError(422, "bad_field", "vector: send an image or a vector, not both")
            return Json(await service.query_vector(fields.vector, fields.embedding_digest, k=fields.k))
        (image,) = await pictures.of(payload, "image")
        return Json(await service.query(image, k=fields.k))

    @router.post("/batch", response_class=Lines, openapi_extra=openapi.BATCH)
    async def batch(request: Request) -> Response:
        """Many comparisons and queries at once, answered line by line in their order."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "application/json":
            return Lines(answers(_listed(await read_json(await request.body()), settings), service, pictures))
        if kind not in ("application/x-ndjson", "application/ndjson", "application/jsonl"):
            raise ApiError(415, "media_type", "send application/x-ndjson, or application/json with items")
        return Lines(answers(lines_of(request.stream(), settings.limits), service, pictures))

    return router


async def _listed(body: dict[str, Any], settings: Settings) -> AsyncIterator[Any]:
    items = body.get("items")
    if not isinstance(items, list):
        raise ApiError(422, "bad_field", "items: a list is wanted")
    for at, item in enumerate(items):
        if at >= settings.limits.batch_items:
            raise ApiError(413, "too_many", f"a batch may have {settings.limits.batch_items} items")
        yield item if isinstance(item, dict) else ApiError(422, "bad_field", "an item is an object")


PathId = Annotated[str, Path(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]+$")]


def _keeping(service: Service, pictures: Pictures, settings: Settings, needs: Needs) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["index"])

    @router.post(
        "/images",
        response_model=schemas.Added,
        status_code=201,
        dependencies=[needs("write")],
        openapi_extra=openapi.ADD,
        responses=openapi.ADDED,
    )
    async def add(request: Request) -> Response:
        """Put a picture into the index under your id. On disk when this answers; the same again changes nothing."""
        payload = await read_payload(request, pictures=("image",))
        fields = valid(schemas.AddFields, payload.values, pictures=("image",))
        (image,) = await pictures.of(payload, "image")
        said = await service.add(image, id=fields.id, metadata=fields.metadata, replace=fields.replace)
        return Json(said, 201 if said["status"] == "added" else 200)

    @router.get(
        "/images/{id:path}",
        operation_id="get_image",
        response_model=schemas.Stored,
        dependencies=[needs("read")],
        responses=openapi.UNKNOWN,
    )
    async def get(id: PathId) -> Response:
        """What is kept of a picture."""
        return Json(await service.get(id))

    @router.delete(
        "/images/{id:path}", operation_id="remove_image", response_model=schemas.Removed, dependencies=[needs("write")]
    )
    async def remove(id: PathId) -> Response:
        """Take a picture out of the index; removing what is not there is no error."""
        return Json(await service.remove(id))

    @router.get(
        "/pictures/{id:path}", operation_id="get_picture", dependencies=[needs("read")], responses=openapi.PICTURE
    )
    async def picture(id: PathId) -> Response:
        """The bytes of a picture that was added, if the server keeps them."""
        headers = {"Content-Security-Policy": "sandbox", "Content-Disposition": "attachment"}
        return Response(await service.picture(id), media_type="application/octet-stream", headers=headers)

    @router.post(
        "/decisions",
        response_model=schemas.Decided,
        status_code=201,
        dependencies=[needs("write")],
        openapi_extra=openapi.DECIDE,
    )
    async def decide(request: Request) -> Response:
        """Record a person's word about two pictures; queries obey it from now on."""
        said = valid(schemas.DecisionFields, (await read_payload(request)).values)
        return Json(await service.decide(said), 201)

    return router


def _telling(service: Service, settings: Settings, needs: Needs) -> APIRouter:
    router = APIRouter(tags=["tell"])

    @router.get("/v1/model", response_model=schemas.ModelSaid, dependencies=[needs("read")])
    async def model() -> Response:
        """Which model answers, on which index."""
        return Json(service.said())

    @router.get("/healthz", response_model=schemas.Status)
    async def healthz() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @router.get("/readyz", response_model=schemas.Status)
    async def readyz() -> dict[str, str]:
        """Requests can be worked on."""
        try:
            service.check()
        except RuntimeError:
            raise ApiError(503, "not_ready", "a part of the server has stopped") from None
        return {"status": "ready"}

    @router.get("/metrics", dependencies=[] if settings.open_metrics else [needs("read")], responses=openapi.METRICS)
    async def metrics() -> Response:
        """Numbers of this replica in Prometheus' text format."""
        return Response(service.numbers.text(), headers={"content-type": CONTENT_TYPE_LATEST})

    return router
