"""The house rules, executed: who imports whom, how large a file may grow, what an import may do."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("ndd", "pipelines", "serve", "feedback")
LINT_IMPORTS = Path(sys.executable).parent / "lint-imports"

LAYERS = "Apps never import one another, and stand on ndd"
LIBRARY = "The library knows no cluster, tracker, server or labelling tool"
MLFLOW = "Only pipelines.tracking talks to MLflow"
LABELS = "Only feedback.labelstudio talks to Label Studio"

# contract → (file, what is added to it, how the report names the forbidden import)
VIOLATIONS = {
    LAYERS: [
        ("ndd/metrics/__init__.py", "import pipelines", "ndd.metrics -> pipelines"),
        ("pipelines/__init__.py", "import serve", "pipelines -> serve"),
        ("serve/__init__.py", "import feedback", "serve -> feedback"),
        ("feedback/__init__.py", "def late():\n    import pipelines.album", "feedback -> pipelines.album"),
    ],
    LIBRARY: [
        ("ndd/config.py", "def late():\n    import ray", "ndd.config -> ray"),
        ("ndd/types.py", "import mlflow.pytorch", "ndd.types -> mlflow"),
        ("ndd/metrics/__init__.py", "from sklearn.metrics import roc_auc_score", "ndd.metrics -> sklearn"),
        ("ndd/errors.py", "import fastapi", "ndd.errors -> fastapi"),
        ("ndd/__init__.py", "import starlette.requests", "ndd -> starlette"),
        ("ndd/data/__init__.py", "import label_studio_sdk", "ndd.data -> label_studio_sdk"),
    ],
    MLFLOW: [
        ("pipelines/album.py", "def late():\n    import mlflow", "pipelines.album -> mlflow"),
        ("serve/__init__.py", "import mlflow.pyfunc", "serve -> mlflow"),
    ],
    LABELS: [
        ("feedback/__init__.py", "import label_studio_sdk", "feedback -> label_studio_sdk"),
        ("pipelines/__init__.py", "from label_studio_sdk import LabelStudio", "pipelines -> label_studio_sdk"),
    ],
}


def _lint(directory: Path) -> subprocess.CompletedProcess[str]:
    command = [str(LINT_IMPORTS), "--no-logo", "--no-cache"]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=120)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The four packages and their configuration, to be broken at will."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=_only_python)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def _only_python(directory: str, names: list[str]) -> list[str]:
    return [n for n in names if n == "__pycache__" or not (Path(directory, n).is_dir() or n.endswith(".py"))]


def _python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def test_the_contracts_are_kept(copied: Path) -> None:
    done = _lint(copied)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in (LAYERS, LIBRARY, MLFLOW, LABELS):
        assert f"{name} KEPT" in done.stdout


@pytest.mark.parametrize("contract", VIOLATIONS)
def test_a_violation_breaks_its_contract_and_no_other(copied: Path, contract: str) -> None:
    for file, addition, _ in VIOLATIONS[contract]:
        path = copied / file
        path.write_text(f"{path.read_text()}\n\n{addition}\n")
    done = _lint(copied)
    assert done.returncode != 0
    assert f"{contract} BROKEN" in done.stdout, done.stdout + done.stderr
    for _, _, named in VIOLATIONS[contract]:
        assert named in done.stdout, done.stdout
    # What the library must not touch, nobody but one room may: those contracts overlap on purpose.
    others = set(VIOLATIONS) - {contract} - ({MLFLOW, LABELS} if contract == LIBRARY else set())
    assert [name for name in others if f"{name} KEPT" not in done.stdout] == []


def test_the_two_rooms_with_a_licence_may_use_it(copied: Path) -> None:
    (copied / "pipelines/tracking.py").write_text("def late():\n    import mlflow\n")
    (copied / "pipelines/user.py").write_text("import pipelines.tracking\n")
    (copied / "feedback/labelstudio.py").write_text("import label_studio_sdk\n")
    done = _lint(copied)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_file_is_longer_than_400_lines() -> None:
    long = {str(p.relative_to(ROOT)): n for p in _python_files(*PACKAGES, "tests") if (n := _lines(p)) > 400}
    assert long == {}


def _lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def test_every_folder_of_tests_and_of_packages_has_an_init() -> None:
    folders = {path.parent for path in _python_files(*PACKAGES, "tests")}
    assert [str(f.relative_to(ROOT)) for f in sorted(folders) if not (f / "__init__.py").is_file()] == []


def test_there_is_no_drawer_for_everything() -> None:
    drawers = {"utils.py", "util.py", "helpers.py", "common.py", "misc.py"}
    assert [str(p.relative_to(ROOT)) for p in _python_files(*PACKAGES, "tests") if p.name in drawers] == []


def test_infrastructure_is_configuration_only() -> None:
    assert list((ROOT / "infra").rglob("*.py")) == []


def test_serve_never_imports_itself_by_the_name_that_ray_uses() -> None:
    # `import serve` inside serve/ would be this package or Ray's console script's, depending on where one stands.
    for path in _python_files("serve"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert "serve" not in [alias.name for alias in node.names], path


@pytest.mark.parametrize("package", PACKAGES)
def test_public_modules_say_what_is_public(package: str) -> None:
    def silent(path: Path) -> bool:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        defines = any(
            isinstance(n, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef) and not n.name.startswith("_")
            for n in tree.body
        )
        names = [t.id for n in tree.body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)]
        return defines and "__all__" not in names

    assert [str(path.relative_to(ROOT)) for path in _python_files(package) if silent(path)] == []


HEAVY = ("torch", "torchvision", "ray", "mlflow", "faiss", "cv2", "sklearn", "pyarrow")


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_a_package_does_nothing(package: str, tmp_path: Path) -> None:
    """No heavy library comes along; no thread, file, child process or environment variable is left behind."""
    script = f"""
import os, sys, threading
sys.path.insert(0, {str(ROOT)!r})
before = dict(os.environ)
acts = []
def hook(event, args):
    if event in ("socket.connect", "socket.bind", "subprocess.Popen", "os.mkdir", "os.system", "os.putenv", "os.rename"):
        acts.append((event, args))
    elif event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+"):
        acts.append((event, args))
sys.addaudithook(hook)
import {package}
assert acts == [], acts
assert dict(os.environ) == before
assert threading.active_count() == 1
heavy = [name for name in {HEAVY!r} if name in sys.modules]
assert heavy == [], heavy
assert os.listdir() == []
"""
    command = [sys.executable, "-B", "-c", script]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
