"""No test talks to anything beyond this machine: an audit hook in every Python process that a test starts.

A refused attempt raises OSError where it happens and is written to $NDD_TEST_NETWORK_LOG, so that the test fails even
if the code under test, or a library in a worker process, swallows the error.

Python runs `sitecustomize` of its own accord at start-up; tests/conftest.py loads it into the test process itself.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import sys
from typing import Any

__all__ = ["install"]

# Ray's dashboard asks at every start which cloud it is in, and has no setting against it. It gets no answer; the test
# at hand is not to blame.
CLOUD_METADATA = ("169.254.169.254", "metadata.google.internal")


def _is_local(host: object, own: frozenset[str]) -> bool:
    if isinstance(host, bytes):
        host = host.decode("ascii", "replace")
    if host is None or host == "":  # the wildcard address: listening, not calling
        return True
    if not isinstance(host, str):
        return False
    if host.lower() in own:
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified or str(address) in own


def _refuse(event: str, host: object, log: str) -> None:
    if host in CLOUD_METADATA:
        raise OSError(errno.ENETUNREACH, "tests run in no cloud")
    line = f"{event} {host!r} by process {os.getpid()} ({' '.join(sys.orig_argv)[:200]!r})\n"
    handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(handle, line.encode())
    finally:
        os.close(handle)
    raise OSError(errno.ENETUNREACH, f"tests open no connection beyond this machine: {line.strip()}")


def install() -> None:
    """Add the hook if $NDD_TEST_NETWORK_LOG says where to report; hooks last as long as the process."""
    log = os.environ.get("NDD_TEST_NETWORK_LOG")
    if not log:
        return
    # Ray talks to itself by the address of this machine's own interface.
    own = frozenset(os.environ.get("NDD_TEST_OWN_ADDRESSES", "").lower().split())

    def hook(event: str, args: tuple[object, ...]) -> None:
        if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
            sock: Any = args[0]
            address = args[1]
            if sock.family not in (socket.AF_INET, socket.AF_INET6) or not isinstance(address, tuple):
                return
            if _is_local(address[0], own):
                return
            if event == "socket.connect" and sock.type & 0xF == socket.SOCK_DGRAM:
                # The usual way to ask for one's own address: no packet leaves. Answer as a machine without a network.
                raise OSError(errno.ENETUNREACH, "tests run as if there were no network")
            _refuse(event, address, log)
        elif event in ("socket.getaddrinfo", "socket.gethostbyname") and not _is_local(args[0], own):
            _refuse(event, args[0], log)

    sys.addaudithook(hook)


install()
