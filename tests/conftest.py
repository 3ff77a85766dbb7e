"""What every test gets: a clean environment, settings of its own, and no network.

Session-wide: libraries kept offline and quiet, hypothesis deterministic, and the guard of tests/network_guard in this
process and in every Python process a test starts. Per test: a fresh $NDD_HOME and no setting left from the shell.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import settings

GUARD = Path(__file__).parent / "network_guard"

# Set before any library is imported, so that none phones home or fetches weights.
OFFLINE = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "OMP_NUM_THREADS": "1",  # the networks of tests are tiny: their threads would mostly wait for one another
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # Ray's services listen on loopback alone
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_USAGE_STATS_REPORT_URL": "http://127.0.0.1:9/",  # Ray reports even that it must not report
}
# What a shell may carry and a test must not see.
STRAY = ("NDD_", "MLFLOW_", "RAY_", "TORCH_HOME")
# What a test must not see of the tests before it (a running Ray keeps settings of its own in RAY_*).
LEFTOVER = ("NDD_", "MLFLOW_")

_log: Path | None = None


def _own_addresses() -> str:
    addresses = {"localhost", socket.gethostname(), socket.getfqdn()}
    for interface in psutil.net_if_addrs().values():
        addresses.update(
            a.address.partition("%")[0] for a in interface if a.family in (socket.AF_INET, socket.AF_INET6)
        )
    return " ".join(sorted(name for name in addresses if name))


def pytest_configure(config: pytest.Config) -> None:
    """Put the environment in order and the guard in place before any test module is imported."""
    global _log
    for name in [name for name in os.environ if name.startswith(STRAY)]:
        del os.environ[name]
    os.environ.update(OFFLINE)
    handle, name = tempfile.mkstemp(prefix="ndd-network-", suffix=".log")
    os.close(handle)
    _log = Path(name)
    os.environ["NDD_TEST_NETWORK_LOG"] = name
    os.environ["NDD_TEST_OWN_ADDRESSES"] = _own_addresses()
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(GUARD), os.environ.get("PYTHONPATH")]))
    spec = importlib.util.spec_from_file_location("ndd_test_network_guard", GUARD / "sitecustomize.py")
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    # The same examples on every run; a slow machine is not a failure.
    settings.register_profile("ndd", deadline=None, derandomize=True, print_blob=True)
    settings.load_profile("ndd")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the guard's log."""
    if _log is not None:
        _log.unlink(missing_ok=True)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A fresh $NDD_HOME; what an earlier test or library set is gone."""
    for name in list(os.environ):
        if name.startswith(LEFTOVER) and not name.startswith("NDD_TEST_") and name not in OFFLINE:
            monkeypatch.delenv(name)
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("NDD_HOME", str(home / "ndd"))
    monkeypatch.setenv("TORCH_HOME", str(home / "torch"))


@pytest.fixture(autouse=True)
def _no_network() -> Iterator[None]:
    """Fail the test during which any guarded process tried to reach beyond this machine."""
    assert _log is not None
    before = _log.stat().st_size
    yield
    with _log.open(encoding="utf-8") as file:
        file.seek(before)
        attempts = file.read()
    if attempts:
        pytest.fail(f"tests open no connection beyond this machine:\n{attempts}", pytrace=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory with random weights."""
    from tests.samples import small_model  # torch, which many tests do without

    return small_model(tmp_path_factory.mktemp("models") / "model")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the small album."""
    from tests.samples import small_album

    return small_album(tmp_path_factory.mktemp("albums") / "album")
