"""Gradient attacks on the descriptor: a copy that is not found (evade), a stranger that is (collide).

FGSM (Goodfellow et al. 2015) is one step of the gradient's sign, PGD (Madry et al. 2018) many small ones projected back to
within `epsilon` of the picture, here in the square that the network sees. The attacker knows the weights. The defence costs one
more picture per look: the vector of the square shrunk to half and back, averaged with that of the square itself. The attack is
made against the bare network, so the figures say what a defence is worth that the attacker does not know. Verification by
keypoints is a second line, which shares nothing with the network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ndd.config import DecodeLimits
from ndd.errors import UsageError
from ndd.metrics.intervals import binomial_interval
from ndd.stages.decode import Decoder
from pipelines.album import Photo

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["EPSILONS", "attack", "perturb"]

EPSILONS = (2 / 255, 8 / 255)
_PHOTOS, _STEPS = 64, 10
_FALSE = 0.01
"""Share of strangers above the threshold: where it lies for an unattacked network."""


def attack(photos: Sequence[Photo], model: Path, *, seed: int = 0) -> dict[str, Any]:
    """Share of attacks that succeed, by kind, strength and goal, before and after the defence. Wants 8 photographs or more;
    raises UsageError."""
    import torch

    from ndd.model import checkpoint

    if len(photos) < 8:
        raise UsageError(f"the attacks want at least eight photographs, got {len(photos)}")
    held = checkpoint.load(model)
    decoder = Decoder(DecodeLimits(), size=held.config.image_size)
    chosen = np.random.default_rng(seed).permutation(len(photos))[:_PHOTOS]
    canvases = np.stack([decoder.read(photos[at].content).canvas for at in chosen])
    x = torch.from_numpy(canvases).permute(0, 3, 1, 2).float() / 255
    plain = held.model

    def defended(batch: Tensor) -> Tensor:
        return torch.nn.functional.normalize(plain(batch) + plain(_softened(batch)), dim=1)

    networks: dict[str, Callable[[Tensor], Tensor]] = {"bare": plain, "defended": defended}
    found: list[dict[str, Any]] = []
    with torch.no_grad():
        clean = {name: network(x) for name, network in networks.items()}
        thresholds = {name: _threshold(of) for name, of in clean.items()}
    for kind, steps in (("FGSM", 1), ("PGD", _STEPS)):
        for epsilon in EPSILONS:
            for goal in ("evade", "collide"):
                target = clean["bare"] if goal == "evade" else clean["bare"].roll(1, 0)
                moved = perturb(plain, x, target, away=goal == "evade", epsilon=epsilon, steps=steps, seed=seed)
                for name, network in networks.items():
                    with torch.no_grad():
                        wanted = clean[name] if goal == "evade" else clean[name].roll(1, 0)
                        cosine = (network(moved) * wanted).sum(dim=1)
                    won = cosine < thresholds[name] if goal == "evade" else cosine >= thresholds[name]
                    found.append(
                        {
                            "attack": kind,
                            "epsilon": epsilon,
                            "goal": goal,
                            "network": name,
                            "succeeded": asdict(binomial_interval(int(won.sum()), len(x))),
                            "cosine": float(cosine.mean()),
                        }
                    )
    return {"photographs": len(x), "thresholds": thresholds, "attacks": found, "page": _page(found, thresholds)}


def perturb(
    network: Callable[[Tensor], Tensor],
    x: Tensor,
    target: Tensor,
    *,
    away: bool,
    epsilon: float,
    steps: int,
    seed: int = 0,
) -> Tensor:
    """(B, 3, S, S) pictures within `epsilon` of `x` in every value, in [0, 1], whose vectors lie away from or near `target`.

    One step is FGSM; more are PGD from a random start.
    """
    import torch

    start = torch.zeros_like(x)
    if steps > 1:
        generator = torch.Generator().manual_seed(seed)
        start = epsilon * (2 * torch.rand(x.shape, generator=generator) - 1)
    elif away:
        # At the picture itself the cosine has its maximum, and no slope.
        start = 0.1 * epsilon * torch.sign(torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)))
    size = epsilon if steps == 1 else 2.5 * epsilon / steps
    moved = (x + start).clamp(0, 1)
    for _ in range(steps):
        moved = moved.detach().requires_grad_(True)
        cosine = (network(moved) * target).sum()
        (slope,) = torch.autograd.grad(cosine, moved)
        step = moved + (-size if away else size) * slope.sign()
        moved = (x + (step - x).clamp(-epsilon, epsilon)).clamp(0, 1)
    return moved.detach()


def _softened(batch: Tensor) -> Tensor:
    import torch

    size = batch.shape[-1]
    small = torch.nn.functional.interpolate(batch, scale_factor=0.5, mode="area")
    return torch.nn.functional.interpolate(small, size=(size, size), mode="bilinear", align_corners=False)


def _threshold(vectors: Tensor) -> float:
    """The cosine that one in a hundred pairs of different photographs exceeds."""
    cosines = (vectors @ vectors.T).numpy()
    return float(np.quantile(cosines[np.triu_indices(len(cosines), 1)], 1.0 - _FALSE))


def _page(found: Sequence[dict[str, Any]], thresholds: dict[str, float]) -> dict[str, Any]:
    rows = []
    for bare, defended in zip(found[::2], found[1::2], strict=True):
        cells = [f"{100 * of['succeeded']['value']:.0f} % (cosine {of['cosine']:.2f})" for of in (bare, defended)]
        rows.append((f"{bare['attack']}, {round(255 * bare['epsilon'])}/255", bare["goal"], *cells))
    return {
        "title": "Attacks on the descriptor",
        "summary": "share of attacks that succeed, by an attacker who knows the weights",
        "heads": ("attack", "goal", "bare", "with the averaged vector"),
        "rows": rows,
        "note": f"Evade: a changed copy falls below the cosine {thresholds['bare']:.2f} that 1 % of strangers exceed. "
        "Collide: a changed stranger rises above it. The descriptor only proposes candidates; keypoints decide.",
    }
