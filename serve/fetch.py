"""Fetching a picture by URL without being made to call what a stranger may not call (SSRF).

A name is looked up once, every address it has must be public, and the connection goes to the address that was checked:
a name that changes its mind between check and use (DNS rebinding) gains nothing. Each redirect starts over. Credentials,
proxies of the environment, cookies and compressed answers are not used.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from urllib.parse import SplitResult, urljoin, urlsplit

import httpx

from serve.errors import ApiError
from serve.settings import UrlFetching

__all__ = ["Fetcher", "Resolve", "is_public"]

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""(host, port) → the addresses of the host as text."""

_NEVER = tuple(
    ipaddress.ip_network(text)
    for text in (
        "168.63.129.16/32",  # Azure's host, public by its number alone
        "192.0.0.0/24",  # IETF assignments; Oracle's metadata among them
        "192.88.99.0/24",  # 6to4 relays
        "64:ff9b:1::/48",  # local NAT64
        "2001::/23",  # IETF assignments, Teredo among them
    )
)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_REDIRECTS = (301, 302, 303, 307, 308)
_TYPES = ("image/", "application/octet-stream", "binary/octet-stream")
_HEADERS = {"User-Agent": "ndd", "Accept": "image/*", "Accept-Encoding": "identity"}


def is_public(address: Address) -> bool:
    """True for an address on the public internet; one that hides an IPv4 address is judged by that one too."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address.sixtofour is not None and not is_public(address.sixtofour):
            return False
        if address in _NAT64:
            return is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        if address.scope_id is not None:
            return False
    if any(address in network for network in _NEVER):
        return False
    return address.is_global and not address.is_multicast


async def look_up(host: str, port: int) -> Sequence[str]:
    """The system's answer."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


class Fetcher:
    """Fetches pictures within `settings`; call it with a URL."""

    def __init__(self, settings: UrlFetching, *, most: int, resolve: Resolve = look_up, tls: Any = True) -> None:
        """most: bytes of a picture. resolve, tls (an ssl.SSLContext): for tests and for clusters of their own."""
        self._settings = settings
        self._most = most
        self._resolve = resolve
        self._tls = tls
        self._allow = [ipaddress.ip_network(network) for network in settings.allow]

    async def __call__(self, url: str) -> bytes:
        """The bytes behind `url`. Raises ApiError; it says what was wrong with the request, not what lies inside."""
        try:
            async with asyncio.timeout(self._settings.seconds):
                return await self._follow(url)
        except TimeoutError:
            raise _refused("took too long") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError):
            raise _refused("cannot be fetched") from None

    async def _follow(self, url: str) -> bytes:
        async with httpx.AsyncClient(verify=self._tls, trust_env=False, follow_redirects=False) as client:
            for _ in range(self._settings.redirects + 1):
                answer, content = await self._get(client, url)
                if content is not None:
                    return content
                url = urljoin(url, answer)
        raise _refused("redirects too often")

    async def _get(self, client: httpx.AsyncClient, url: str) -> tuple[str, bytes | None]:
        """(where to go, None) for a redirect, ("", the bytes) for a picture."""
        parts, port = self._checked(url)
        host = parts.hostname or ""
        address = await self._address(host, port)
        literal = f"[{address}]" if isinstance(address, ipaddress.IPv6Address) else str(address)
        path = parts.path or "/"
        direct = f"{parts.scheme}://{literal}:{port}{path}{'?' + parts.query if parts.query else ''}"
        name = f"[{host}]" if ":" in host else host
        default = port == (443 if parts.scheme == "https" else 80)
        headers = {**_HEADERS, "Host": name if default else f"{name}:{port}"}
        request = client.build_request("GET", direct, headers=headers, extensions={"sni_hostname": host})
        request.extensions["timeout"] = httpx.Timeout(self._settings.seconds).as_dict()
        answer = await client.send(request, stream=True)
        try:
            if answer.status_code in _REDIRECTS and "location" in answer.headers:
                return answer.headers["location"], None
            return "", await self._read(answer)
        finally:
            await answer.aclose()

    def _checked(self, url: str) -> tuple[SplitResult, int]:
        if len(url) > 2048 or any(c <= " " or c == "\x7f" or c == "\\" for c in url):
            raise _refused("is not a URL")
        try:
            parts = urlsplit(url)
            port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError:
            raise _refused("is not a URL") from None
        if parts.scheme not in self._settings.schemes:
            raise _refused(f"has another scheme than {' or '.join(self._settings.schemes)}")
        if not parts.hostname or parts.username is not None or parts.password is not None:
            raise _refused("wants a host and no credentials")
        if port not in self._settings.ports:
            raise _refused("names a port that may not be called")
        return parts, port

    async def _address(self, host: str, port: int) -> Address:
        addresses = [ipaddress.ip_address(text) for text in await self._resolve(host, port)]
        if not addresses or not all(self._may_call(address) for address in addresses):
            raise _refused("leads to an address that may not be called")
        return addresses[0]

    def _may_call(self, address: Address) -> bool:
        mapped = getattr(address, "ipv4_mapped", None) or address
        return is_public(address) or any(mapped in network for network in self._allow)

    async def _read(self, answer: httpx.Response) -> bytes:
        kind = answer.headers.get("content-type", "").strip().lower()
        if answer.status_code != 200:
            raise _refused("answers with an error")
        if not kind.startswith(_TYPES):
            raise _refused("is not a picture by its content type")
        if answer.headers.get("content-encoding", "identity").lower() != "identity":
            raise _refused("is compressed")
        content = bytearray()
        async for part in answer.aiter_raw():
            content += part
            if len(content) > self._most:
                raise ApiError(413, "too_large", f"url: a picture may have {self._most} bytes")
        return bytes(content)


def _refused(why: str) -> ApiError:
    return ApiError(422, "url_refused", f"url: {why}")
