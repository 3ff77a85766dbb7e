"""As much of S3 as reading pictures and copying an index takes, on loopback: HEAD, GET with ranges, list, PUT, DELETE."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

__all__ = ["bucket"]

_DATE, _ISO = "Thu, 01 Jan 2026 00:00:00 GMT", "2026-01-01T00:00:00.000Z"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    bucket: str
    objects: dict[str, bytes]
    parts: dict[str, dict[int, bytes]]
    sent: list[str]

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _key(self) -> tuple[str, dict[str, list[str]]]:
        parts = urlsplit(self.path)
        return unquote(parts.path).lstrip("/").partition("/")[2], parse_qs(parts.query, keep_blank_values=True)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        key, query = self._key()
        if not self.path.startswith(f"/{self.bucket}"):
            self._send(404, b"")
        elif not key:
            self._send(200, self._listing(query))
        elif key not in self.objects:
            self._send(404, b"")
        else:
            content, status, headers = self.objects[key], 200, {"Last-Modified": _DATE, "ETag": '"x"'}
            if asked := self.headers.get("Range"):
                start, end = asked.removeprefix("bytes=").split("-")
                last = min(int(end), len(content) - 1)
                headers["Content-Range"] = f"bytes {start}-{last}/{len(content)}"
                content, status = content[int(start) : last + 1], 206
            self._send(status, content, headers)

    def do_PUT(self) -> None:
        key, query = self._key()
        content = self._body()
        if "uploadId" in query:
            self.parts[query["uploadId"][0]][int(query["partNumber"][0])] = content
        else:
            self.objects[key] = content
            self.sent.append(key)
        self._send(200, b"", {"ETag": '"x"'})

    def do_POST(self) -> None:
        key, query = self._key()
        self._body()
        if "uploads" in query:
            name = f"u{len(self.parts)}"
            self.parts[name] = {}
            self._send(
                200,
                f"<InitiateMultipartUploadResult><UploadId>{name}</UploadId></InitiateMultipartUploadResult>".encode(),
            )
        else:
            parts = self.parts[query["uploadId"][0]]
            self.objects[key] = b"".join(parts[number] for number in sorted(parts))
            self.sent.append(key)
            self._send(200, b'<CompleteMultipartUploadResult><ETag>"x"</ETag></CompleteMultipartUploadResult>')

    def do_DELETE(self) -> None:
        self.objects.pop(self._key()[0], None)
        self._send(204, b"")

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            content = b""
            while length := int(self.rfile.readline(), 16):
                content += self.rfile.read(length)
                self.rfile.readline()
            self.rfile.readline()
        else:
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        return _plain(content) if "aws-chunked" in self.headers.get("Content-Encoding", "") else content

    def _listing(self, query: dict[str, list[str]]) -> bytes:
        prefix = query.get("prefix", [""])[0]
        found = [key for key in sorted(self.objects) if key.startswith(prefix)]
        rows = "".join(
            f"<Contents><Key>{escape(k)}</Key><LastModified>{_ISO}</LastModified><Size>{len(self.objects[k])}</Size></Contents>"
            for k in found
        )
        head = f"<Name>{self.bucket}</Name><IsTruncated>false</IsTruncated><Prefix>{escape(prefix)}</Prefix>"
        return f"<ListBucketResult>{head}<KeyCount>{len(found)}</KeyCount>{rows}</ListBucketResult>".encode()

    def _send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD" and status != 204:
            self.wfile.write(content)


def _plain(content: bytes) -> bytes:
    """The body within Amazon's own chunks, whose last one is followed by a checksum."""
    plain = b""
    while True:
        size, _, content = content.partition(b"\r\n")
        length = int(size.split(b";")[0], 16)
        if not length:
            return plain
        plain, content = plain + content[:length], content[length + 2 :]


@contextmanager
def bucket(objects: dict[str, bytes], sent: list[str] | None = None, *, name: str = "b") -> Iterator[str]:
    """Serve `objects` as the bucket `name`, and note in `sent` the keys that are written; the URL's options that lead there."""
    noted: list[str] = [] if sent is None else sent
    handler = type("Handler", (_Handler,), {"bucket": name, "objects": objects, "parts": {}, "sent": noted})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"?scheme=http&region=us-east-1&endpoint_override=127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
