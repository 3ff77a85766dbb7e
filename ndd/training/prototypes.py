"""A teacher's features made into targets: one fixed unit vector per picture, which its edited views must find.

Centred and partly whitened: a pretrained network's features share a few strong directions, and the softmax would see
little else.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ndd.errors import InputError, SchemaError

__all__ = ["load_prototypes", "make_prototypes"]


def make_prototypes(features_NF: NDArray[np.floating], *, dim: int, whitening: float = 0.75) -> Tensor:
    """(N, F) features → (N, dim) float32 unit vectors: centred, the `dim` strongest directions kept, each divided by its
    singular value to the power `whitening`. Raises SchemaError if there are fewer than `dim` directions, or a NaN.
    """
    x = np.asarray(features_NF, np.float64)
    if x.ndim != 2 or min(x.shape) < dim:
        raise SchemaError(f"teacher features of shape {x.shape} hold no {dim} directions; lower model.dim")
    if not np.isfinite(x).all():
        raise SchemaError("the teacher features hold NaN or infinity; compute them again")
    x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    x = x - x.mean(axis=0)
    # Of the covariance (F × F) and not of x (N × F): N may be large.
    variance, directions = np.linalg.eigh(x.T @ x)
    strongest = np.argsort(-variance)[:dim]
    scale = np.sqrt(np.maximum(variance[strongest], 1e-12)) ** -whitening
    projected = (x @ directions[:, strongest]) * scale
    projected /= np.maximum(np.linalg.norm(projected, axis=1, keepdims=True), 1e-12)
    return torch.from_numpy(projected.astype(np.float32))


def load_prototypes(path: str | os.PathLike[str], *, pictures: int, dim: int) -> Tensor:
    """Targets from a .npy file of (N, F) features, row i belonging to row i of the pack.

    Raises InputError if there is no such file, SchemaError if it does not hold one row per picture.
    """
    try:
        features = np.load(Path(path), allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; name a .npy file of teacher features") from None
    except (OSError, ValueError) as error:
        raise SchemaError(f"{path}: not a .npy file ({error}); name one of teacher features") from error
    if features.ndim != 2 or len(features) != pictures:
        raise SchemaError(f"{path}: shape {features.shape}, but the pack has {pictures} pictures; one row for each")
    return make_prototypes(features, dim=dim)
