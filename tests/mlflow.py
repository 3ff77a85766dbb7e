"""What tests against a real MLflow have in common."""

from __future__ import annotations

import pytest

__all__ = ["MLFLOW_WARNINGS"]

# MLflow uses what SQLAlchemy has deprecated, and leaves connections to the garbage collector.
MLFLOW_WARNINGS = [
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
