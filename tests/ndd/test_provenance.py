"""Which code made a result: changes with the code, not with the place."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import ndd
from ndd.provenance import code_version, source_digest

ROOT = Path(ndd.__file__).parents[1]


def test_source_digest_sees_code_and_nothing_else(tmp_path: Path) -> None:
    package = tmp_path / "package"
    (package / "sub").mkdir(parents=True)
    (package / "a.py").write_text("x = 1\n")
    (package / "sub" / "page.html").write_text("<p>")
    before = source_digest(package)

    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "a.cpython-311.pyc").write_bytes(b"\0")
    (package / "weights.safetensors").write_bytes(b"\0")
    (package / "py.typed").touch()
    (package / "champion").mkdir()
    (package / "champion" / "calibration.json").write_text("{}")  # has a digest of its own
    assert source_digest(package) == before
    assert source_digest(Path(shutil.copytree(package, tmp_path / "elsewhere"))) == before

    (package / "a.py").write_text("x = 2\n")
    changed = source_digest(package)
    (package / "a.py").rename(package / "b.py")
    renamed = source_digest(package)
    (package / "sub" / "page.html").write_text("<q>")
    repainted = source_digest(package)
    (package / "sub" / "table.json").write_text("[1]")
    (package / "sub" / "words.npy").write_bytes(b"1")
    assert len({before, changed, renamed, repainted, source_digest(package)}) == 5


def test_code_version_is_equal_for_a_copy_installed_elsewhere(tmp_path: Path) -> None:
    """As a wheel unpacks it: the package's files in another place, and no project around them."""
    ignore = shutil.ignore_patterns("__pycache__", "*.safetensors")
    shutil.copytree(ROOT / "ndd", tmp_path / "ndd", ignore=ignore)
    shutil.copytree(ROOT / "pipelines", tmp_path / "pipelines", ignore=ignore)
    ask = "import ndd; from ndd.provenance import code_version as v; print(v(), v('pipelines', 'ndd'), ndd.__file__)"
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    answer = subprocess.run(
        [sys.executable, "-c", ask],
        env=os.environ | {"PYTHONPATH": path},
        cwd=tmp_path,
        capture_output=True,
        check=True,
    )
    library, both, place = answer.stdout.decode().split()
    assert place.startswith(str(tmp_path))
    assert library == code_version() == code_version("ndd")
    assert both == code_version("ndd", "pipelines")
    assert library != both
