"""The page at `/`: drop two pictures and see what they are to each other, or look one up in the index."""

from __future__ import annotations

from importlib import resources

from fastapi import FastAPI, Response

from serve.errors import ApiError

__all__ = ["add_page"]

_FILES = {
    "index.html": "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def add_page(app: FastAPI) -> None:
    """Serve the page and its two files; whoever opens it gives the key there."""
    folder = resources.files("serve") / "page_files"
    contents = {name: (folder / name).read_bytes() for name in _FILES}

    def answer(name: str) -> Response:
        headers = {"Content-Security-Policy": _POLICY, "Cache-Control": "no-cache"}
        return Response(contents[name], headers={**headers, "Content-Type": _FILES[name]})

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return answer("index.html")

    @app.get("/page/{name}", include_in_schema=False)
    async def part(name: str) -> Response:
        if name not in _FILES:
            raise ApiError(404, "not_found", "there is no such file")
        return answer(name)
