"""Two processes that talk through gloo on loopback against one process that computes the whole batch itself.

With BatchNorm frozen nothing but the share of the batch differs, so the gradients must be the same: the mean over workers
that DistributedDataParallel takes, and the negatives that InfoNCE borrows from the other worker, their gradients included.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import distributed, multiprocessing

from ndd.training.config import TrainConfig
from ndd.training.local import batches_of
from ndd.training.loop import Split, run_epochs, start_state
from ndd.training.plan import make_batch, plan_epoch
from ndd.training.step import TrainState, distribute, make_state, train_step
from ndd.training.workers import Share, from_first, mean_over_workers
from tests.ndd.training.builders import tiny, tiny_pictures

WORKERS = 2
KINDS = ("contrastive", "triplet", "infonce", "polar", "moments", "moments of pairs", "localization alone")


def config_of(kind: str) -> TrainConfig:
    settings: dict[str, Any] = {"loss__kind": kind}
    if kind not in ("contrastive", "triplet", "infonce"):
        settings = {"model__stn__localization": "polar", "model__stn__angles": 8, "model__stn__prior": True}
        settings |= {"loss__entropy": 0.4}
    if kind.startswith("moments"):
        settings |= {"model__stn__localization": "moments", "loss__into_stn": False}
    if kind == "moments of pairs":  # of which one worker has no duplicate
        settings |= {"loss__kind": "contrastive", "loss__entropy": 0.0}
    if kind == "localization alone":
        settings |= {"epochs": 4, "localization_epochs": 2}  # the step is of the second epoch
    return tiny(
        **settings, loss__teacher=0.5, loss__alignment=0.3, loss__pose=0.7, loss__margin=1.5,
        freeze_batchnorm=True, optim__clip=1e9, stages=[{"until": 1.0, "size": 32, "batch": 6}],
    )  # fmt: skip


def step_of(kind: str, share: Share, wrap: Callable[[TrainState], None]) -> tuple[dict[str, Any], dict[str, float]]:
    """Gradients and figures of a batch of which, with labels, one worker gets all the duplicates and the other none."""
    torch.set_num_threads(1)
    config = config_of(kind)
    prototypes = torch.nn.functional.normalize(torch.randn(24, 8, generator=torch.Generator().manual_seed(0)))
    state = make_state(config, prototypes=prototypes)
    with torch.no_grad():  # away from the identity, where some gradients vanish
        for p in state.model.parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    wrap(state)
    plan = plan_epoch(config, np.arange(24), epoch=1)
    batch = make_batch(plan, plan.rows(1, rank=share.rank, workers=share.workers), tiny_pictures())
    figures = train_step(state, batch, progress=0.5, epoch=1)
    gradients = {n: p.grad for n, p in state.model.named_parameters() if p.grad is not None}
    assert len(gradients) < len(list(state.model.parameters())) or kind != "localization alone"
    return gradients, mean_over_workers(figures)


def worker(rank: int, port: int, out: str) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    store = distributed.TCPStore("127.0.0.1", port, is_master=False, timeout=timedelta(seconds=120))
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=WORKERS)
    share = Share(rank=rank, workers=WORKERS)
    result: dict[str, Any] = {kind: step_of(kind, share, distribute) for kind in KINDS}
    result["mean"] = mean_over_workers({"a": float(rank), "b": float("nan"), "c": float("nan") if rank else 5.0})
    result["first"] = from_first(f"of {rank}")
    result["run"] = run_of(Path(out) / "run", share)
    torch.save(result, f"{out}/{rank}.pt")
    distributed.destroy_process_group()


def run_of(run: Path, share: Share) -> dict[str, Any]:
    """Five steps, ended by the second worker; then to the end."""
    config, images = tiny(freeze_batchnorm=False), tiny_pictures()
    ended = []
    taken = 0

    def stop() -> bool:
        nonlocal taken
        taken += 1
        return share.rank == 1 and taken == 5

    for ending in (stop, None):
        state = start_state(config, run, device="cpu")
        distribute(state)
        batches = batches_of(images, device="cpu", share=share)
        split = Split.draw(len(images), config)
        ended.append((run_epochs(state, images, split, run, batches=batches, share=share, stop=ending), state.step))
        distributed.barrier()
    history = [{n: v for n, v in epoch.items() if n != "seconds"} for epoch in state.history]
    return {"ended": ended, "history": history, "weights": {n: p.detach() for n, p in state.model.named_parameters()}}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes came to."""
    out = tmp_path_factory.mktemp("gloo")
    store = distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    multiprocessing.spawn(worker, args=(store.port, str(out)), nprocs=WORKERS)
    return [torch.load(out / f"{rank}.pt", weights_only=False) for rank in range(WORKERS)]


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_two_processes_are_those_of_one(results: list[dict[str, Any]], kind: str) -> None:
    whole, figures = step_of(kind, Share(), lambda _: None)
    norm = torch.stack([g.norm() for g in whole.values()]).norm()
    for gradients, _ in (result[kind] for result in results):
        difference = torch.stack([(gradients[n] - g).norm() for n, g in whole.items()]).norm()
        assert difference / norm < 1e-5
        for name, gradient in whole.items():
            assert (gradients[name] - gradient).abs().max() < 1e-5 * max(1.0, norm), name
    assert results[0][kind][1] == results[1][kind][1]
    for name, value in results[0][kind][1].items():
        if name.startswith("loss") or name in ("grad_norm", "lr", "corner_displacement"):
            assert value == pytest.approx(figures[name], rel=1e-4), name


def test_negatives_of_the_other_worker_matter(results: list[dict[str, Any]]) -> None:
    """The check above would be idle if a worker's own negatives gave the same: they do not."""
    alone = [step_of("infonce", Share(rank=rank, workers=WORKERS), lambda _: None)[0] for rank in range(WORKERS)]
    averaged = {name: (alone[0][name] + alone[1][name]) / 2 for name in alone[0]}
    together = results[0]["infonce"][0]
    difference = torch.stack([(averaged[n] - g).norm() for n, g in together.items()]).norm()
    assert difference / torch.stack([g.norm() for g in together.values()]).norm() > 1e-2


def test_figures_and_decisions_are_shared(results: list[dict[str, Any]]) -> None:
    for result in results:
        assert result["first"] == "of 0"
        mean = result["mean"]
        assert (mean["a"], mean["c"]) == (0.5, 5.0)
        assert mean["b"] != mean["b"]  # nobody knew


def test_workers_stop_together_and_go_on_together(results: list[dict[str, Any]]) -> None:
    first, second = (result["run"] for result in results)
    assert first["ended"] == second["ended"] == [(False, 5), (True, 6)]
    assert first["history"] == second["history"]
    assert "val_mrr" in first["history"][1]
    for name, value in first["weights"].items():
        assert torch.equal(second["weights"][name], value), name
