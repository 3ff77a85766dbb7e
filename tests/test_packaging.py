"""The wheel, built and installed where no checkout is in sight: an editable install hides what it lacks."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("ndd", "pipelines", "serve", "feedback")
MAX_WHEEL = 40 * 2**20
"""Bytes: 21 MB of weights in half precision, 11 MB of the same in 8-bit integers, strangers and evidence; the code is next
to nothing."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel, and the third-party libraries of this one behind it; returns its bin folder.

    A path named in a .pth file is searched, but the .pth files in it are not read: the editable install of this
    checkout stays out.
    """
    home = tmp_path_factory.mktemp("clean")
    venv.create(home, with_pip=False, symlinks=True)
    python = home / "bin" / "python"
    uv = Path(sys.executable).parent / "uv"
    command = [str(uv), "pip", "install", "--quiet", "--offline", "--no-deps", "--python", str(python), str(wheel)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    (site,) = home.glob("lib/python*/site-packages")
    (site / "third_party.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return home / "bin"


def _run(command: list[str], cwd: Path, *, timeout: float = 200) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=timeout)


def _shipped(package: str) -> set[str]:
    """Files of a package in the checkout that a user needs."""
    files = (path for path in (ROOT / package).rglob("*") if path.is_file())
    return {
        str(p.relative_to(ROOT)) for p in files if "__pycache__" not in p.parts and p.suffix not in (".pyc", ".log")
    }


def test_the_wheel_holds_every_file_of_the_four_packages(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    for package in PACKAGES:
        assert _shipped(package) - inside == set()
        assert f"{package}/__init__.py" in inside
    assert "ndd/py.typed" in inside
    assert {f"ndd/champion/{name}" for name in ("config.json", "weights.safetensors", "card.json")} <= inside
    assert any(name.startswith("ndd/templates/") for name in inside)
    assert any(name.endswith("licenses/LICENSE") for name in inside)


def test_the_wheel_holds_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.partition("/")[0] for name in archive.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)
    assert wheel.stat().st_size < MAX_WHEEL


def test_the_library_alone_asks_for_no_cluster_and_no_server(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        lines = archive.read(metadata).decode().splitlines()
    wanted = [line for line in lines if line.startswith("Requires-Dist:") and "extra ==" not in line]
    names = {line.split()[1].partition("[")[0].rstrip("<>=!~;,.0123456789") for line in wanted}
    assert {"torch", "numpy", "pillow"} <= names
    assert not names & {"ray", "mlflow", "scikit-learn", "fastapi", "label-studio-sdk", "matplotlib"}


def test_every_module_imports_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    script = f"""
import importlib, json, pkgutil
seen = {{}}
for package in {PACKAGES!r}:
    root = importlib.import_module(package)
    seen[package] = root.__file__
    for module in pkgutil.walk_packages(root.__path__, package + "."):
        if not module.name.endswith(".__main__"):
            seen[module.name] = importlib.import_module(module.name).__file__
print(json.dumps(seen))
"""
    done = _run([str(installed / "python"), "-c", script], tmp_path)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert len(seen) > 30
    assert [name for name, file in seen.items() if not Path(file).is_relative_to(installed.parent)] == []


@pytest.mark.parametrize("command", [["ndd", "--help"], ["python", "-m", "pipelines", "--help"]])
def test_the_commands_answer(installed: Path, tmp_path: Path, command: list[str]) -> None:
    done = _run([str(installed / command[0]), *command[1:]], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "find" in done.stdout


def test_the_installed_command_finds_a_copy(installed: Path, tmp_path: Path) -> None:
    """Model, templates and whatever else a search needs came along in the wheel."""
    found = importlib.util.find_spec("sklearn")
    assert found is not None
    assert found.origin is not None
    photographs = Path(found.origin).parent / "datasets" / "images"
    album = tmp_path / "album"
    album.mkdir()
    for name in ("china.jpg", "flower.jpg"):
        shutil.copy(photographs / name, album)
    with Image.open(album / "china.jpg") as picture:
        picture.resize((480, 320)).save(album / "copy.png")
    done = _run([str(installed / "ndd"), "find", "album", "--out", "result", "--json"], tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["images"], report["failed"], report["groups"]) == (3, 0, 1)
    assert (tmp_path / "result" / "report.html").stat().st_size > 1000


def _locked() -> dict[str, tuple[str, int]]:
    """Name → (version, number of hashes) of every package in requirements.lock."""
    blocks = re.split(r"\n(?=[A-Za-z0-9])", (ROOT / "requirements.lock").read_text())
    heads = {block: re.match(r"([A-Za-z0-9._-]+)==([^\s;]+)", block) for block in blocks}
    return {m[1].lower(): (m[2], block.count("--hash=sha256:")) for block, m in heads.items() if m}


def test_the_lock_holds_hashes_and_names_no_host() -> None:
    text = (ROOT / "requirements.lock").read_text()
    assert "://" not in text
    assert re.search(r"^\s*(-i|--index-url|--extra-index-url|-f|--find-links|--trusted-host)\b", text, re.M) is None
    assert [name for name, (_, hashes) in _locked().items() if hashes == 0] == []


def test_the_lock_holds_what_pyproject_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    asked = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    asked += [line for extra in project["project"]["optional-dependencies"].values() for line in extra]
    asked += [line for group in project["dependency-groups"].values() for line in group]
    locked = _locked()
    for requirement in (Requirement(line) for line in asked if not line.startswith("ndd[")):
        version, _ = locked[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement} against {version}"
