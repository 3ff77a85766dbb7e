"""As much of S3 as reading pictures takes, on loopback: HEAD, GET with ranges, list."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

__all__ = ["object_store"]

_DATE, _ISO = "Thu, 01 Jan 2026 00:00:00 GMT", "2026-01-01T00:00:00.000Z"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    objects: dict[str, bytes]

    def do_HEAD(self) -> None:
        self._answer(head=True)

    def do_GET(self) -> None:
        self._answer(head=False)

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self, *, head: bool) -> None:
        parts = urlsplit(self.path)
        bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
        if bucket != "album" or (key and key not in self.objects):
            self._send(404, b"", {}, head=head)
        elif not key:
            self._send(200, self._listing(parse_qs(parts.query)), {"Content-Type": "application/xml"}, head=head)
        else:
            content, status, headers = self.objects[key], 200, {"Last-Modified": _DATE, "ETag": '"x"'}
            if asked := self.headers.get("Range"):
                start, end = asked.removeprefix("bytes=").split("-")
                last = min(int(end), len(content) - 1)
                headers["Content-Range"] = f"bytes {start}-{last}/{len(content)}"
                content, status = content[int(start) : last + 1], 206
            self._send(status, content, headers, head=head)

    def _listing(self, query: dict[str, list[str]]) -> bytes:
        prefix = query.get("prefix", [""])[0]
        found = [key for key in sorted(self.objects) if key.startswith(prefix)]
        rows = "".join(
            f"<Contents><Key>{escape(k)}</Key><LastModified>{_ISO}</LastModified><Size>{len(self.objects[k])}</Size>"
            "</Contents>"
            for k in found
        )
        return (
            "<?xml version='1.0'?><ListBucketResult><Name>album</Name><IsTruncated>false</IsTruncated>"
            f"<Prefix>{escape(prefix)}</Prefix><KeyCount>{len(found)}</KeyCount>{rows}</ListBucketResult>"
        ).encode()

    def _send(self, status: int, content: bytes, headers: dict[str, str], *, head: bool) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if not head:
            self.wfile.write(content)


@contextmanager
def object_store(objects: dict[str, bytes]) -> Iterator[str]:
    """Serve `objects` as the bucket `album`; the options that make a URL lead there."""
    handler = type("Handler", (_Handler,), {"objects": objects})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"?scheme=http&region=us-east-1&endpoint_override=127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
