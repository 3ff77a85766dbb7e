"""A model directory as a function of pairs of pictures: what MLflow loads for `models:/ndd/1`.

MLflow finds this module by its name in the registered version's `MLmodel` and calls `_load_pyfunc`; nothing here imports it.
"""

from __future__ import annotations

from typing import Any

from ndd.detector import Detector
from ndd.errors import SchemaError

__all__ = ["PairModel"]

_IN, _OUT = ("left", "right"), ("score", "distance", "duplicate")


class PairModel:
    """Scores pairs as `ndd compare` does."""

    def __init__(self, directory: str) -> None:
        self._detector = Detector(directory)

    def predict(self, model_input: Any, params: object = None) -> Any:
        """A table with columns `left` and `right` (paths, or the bytes of files) → one with `score`, `distance`, `duplicate`.

        model_input: a pandas DataFrame, or a mapping of columns. Raises SchemaError for other columns or values, DecodeError
        for a picture that cannot be read.
        """
        import pandas as pd  # type: ignore[import-untyped]  # comes with MLflow

        table = model_input if isinstance(model_input, pd.DataFrame) else pd.DataFrame(model_input)
        missing = [name for name in _IN if name not in table.columns]
        if missing:
            raise SchemaError(f"column {missing[0]!r} is missing; give {' and '.join(_IN)}: paths or bytes of pictures")
        matches = [
            self._detector.compare(_picture(left, "left", row), _picture(right, "right", row))
            for row, (left, right) in enumerate(zip(table["left"], table["right"], strict=True))
        ]
        columns = {name: [getattr(match, name) for match in matches] for name in _OUT}
        kinds = {"score": "float64", "distance": "float64", "duplicate": "bool"}
        return pd.DataFrame(columns, index=table.index).astype(kinds)


def _picture(value: Any, name: str, row: int) -> str | bytes:
    if isinstance(value, str):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    raise SchemaError(f"row {row}, column {name!r}: {type(value).__name__}; give a path or the bytes of a picture file")


def _load_pyfunc(path: str) -> PairModel:
    return PairModel(path)
