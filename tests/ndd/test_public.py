"""The public surface is what `__all__` says, and having it costs nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

import ndd


def test_every_public_name_is_there_and_nothing_else_leaks() -> None:
    assert sorted(ndd.__all__) == list(ndd.__all__)
    for name in ndd.__all__:
        assert getattr(ndd, name).__module__.startswith("ndd.")
    leaked = (
        {n for n in vars(ndd) if not n.startswith("_")} - set(ndd.__all__) - {"annotations", "TYPE_CHECKING", "Any"}
    )
    assert {n for n in leaked if type(vars(ndd)[n]).__name__ != "module"} == set()


def test_importing_ndd_loads_neither_torch_nor_an_engine() -> None:
    script = "import sys, ndd; print(sorted({'torch', 'ray', 'mlflow', 'cv2', 'faiss'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_unknown_name_is_named() -> None:
    with pytest.raises(AttributeError, match="Detectr"):
        ndd.__getattr__("Detectr")
