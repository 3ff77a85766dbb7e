"""A teacher's features as targets, against the singular value decomposition they are defined by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ndd.errors import InputError, SchemaError
from ndd.training.prototypes import load_prototypes, make_prototypes


def features(count: int = 60, dim: int = 20) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.standard_normal((count, dim)) * np.linspace(5, 0.1, dim) + 2).astype(np.float32)


@pytest.mark.parametrize("whitening", [0.0, 0.75, 1.0])
def test_against_the_singular_values(whitening: float) -> None:
    x = features().astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    x -= x.mean(axis=0)
    u, s, _ = np.linalg.svd(x, full_matrices=False)
    expected = u[:, :8] * s[:8] ** (1 - whitening)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    made = make_prototypes(features(), dim=8, whitening=whitening).numpy()
    np.testing.assert_allclose(made @ made.T, expected @ expected.T, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(made, axis=1), 1.0, atol=1e-6)


def test_whitening_evens_the_directions_out() -> None:
    plain, white = (make_prototypes(features(), dim=8, whitening=w).numpy() for w in (0.0, 1.0))
    spread = [np.linalg.svd(p - p.mean(axis=0), compute_uv=False) for p in (plain, white)]
    assert spread[1][0] / spread[1][-1] < 0.7 * spread[0][0] / spread[0][-1]


def test_what_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="64 directions"):
        make_prototypes(features(), dim=64)
    broken = features()
    broken[3, 4] = np.nan
    with pytest.raises(SchemaError, match="NaN"):
        make_prototypes(broken, dim=8)
    np.save(tmp_path / "f.npy", features())
    assert load_prototypes(tmp_path / "f.npy", pictures=60, dim=8).shape == (60, 8)
    with pytest.raises(SchemaError, match="61 pictures"):
        load_prototypes(tmp_path / "f.npy", pictures=61, dim=8)
    with pytest.raises(InputError, match="no such file"):
        load_prototypes(tmp_path / "g.npy", pictures=60, dim=8)
    (tmp_path / "g.npy").write_bytes(b"not numpy")
    with pytest.raises(SchemaError, match=r"g\.npy"):
        load_prototypes(tmp_path / "g.npy", pictures=60, dim=8)
