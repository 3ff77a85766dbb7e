"""The guard itself: what it lets through, and that nothing gets past it unseen."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

# TEST-NET-3 (RFC 5737): never assigned, so even an unguarded attempt would reach nobody.
ELSEWHERE = "203.0.113.7"


def _take_attempts(before: int) -> str:
    """What was reported since `before`, taken off the log so that this test passes."""
    log = Path(os.environ["NDD_TEST_NETWORK_LOG"])
    text = log.read_text()
    os.truncate(log, before)
    return text[before:]


@pytest.fixture
def reported() -> int:
    """Length of the guard's log before the test."""
    return Path(os.environ["NDD_TEST_NETWORK_LOG"]).stat().st_size


def test_loopback_is_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        client.sendall(b"x")
        connection, _ = server.accept()
        with connection:
            assert connection.recv(1) == b"x"


def test_an_address_elsewhere_is_refused_and_reported(reported: int) -> None:
    with socket.socket() as client, pytest.raises(OSError, match="no connection beyond this machine"):
        client.connect((ELSEWHERE, 80))
    assert ELSEWHERE in _take_attempts(reported)


def test_a_name_elsewhere_is_not_even_looked_up(reported: int) -> None:
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen("http://example.invalid/", timeout=5)
    assert "getaddrinfo 'example.invalid'" in _take_attempts(reported)


def test_a_datagram_elsewhere_is_refused(reported: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender, pytest.raises(OSError, match="no connection"):
        sender.sendto(b"x", (ELSEWHERE, 9))
    assert "sendto" in _take_attempts(reported)


def test_a_child_process_is_guarded_even_if_it_swallows_the_error(reported: int) -> None:
    script = f"""
import socket
try:
    socket.create_connection(({ELSEWHERE!r}, 80), timeout=5)
except OSError:
    pass
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
    assert ELSEWHERE in _take_attempts(reported)
