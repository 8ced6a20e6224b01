"""Processes that share a batch take the step that one takes with the whole of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as processes
from torch import nn

from primesvt_deploy.training.shared_step import average_gradients, synchronized_norms

pytestmark = pytest.mark.slow

RANKS = 2
SAMPLES = 12


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.Tanh(), nn.Conv2d(5, 4, 1)]
    last = [nn.BatchNorm2d(4, affine=False), nn.Flatten(), nn.BatchNorm1d(64)]
    return nn.Sequential(*layers, *last).double()


def batch() -> torch.Tensor:
    noise = torch.Generator().manual_seed(1)
    return 3.0 + 2.0 * torch.randn(SAMPLES, 2, 6, 6, generator=noise, dtype=torch.float64)


def step(net: nn.Module, samples: torch.Tensor) -> torch.Tensor:
    loss = (net(samples) * torch.linspace(0.1, 2.0, 64)).square().mean()
    loss.backward()
    return loss


def run_rank(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), RANKS)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=RANKS)
    net, each = network(), SAMPLES // RANKS
    with synchronized_norms():
        loss = step(net, batch()[rank * each : (rank + 1) * each])
    mean = average_gradients(net.parameters(), loss)
    gradients = [p.grad for p in net.parameters()]
    torch.save((mean, gradients, net.state_dict()), folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    folder = tmp_path_factory.mktemp("ranks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLOO_SOCKET_IFNAME", "lo")
        processes.spawn(run_rank, (folder,), nprocs=RANKS)
    return [torch.load(folder / f"{rank}.pt") for rank in range(RANKS)]


def test_it_is_the_step_of_one_process(found: list[Any]) -> None:
    net = network()
    loss = float(step(net, batch()).detach())
    mean, gradients, state = found[0]
    assert mean == pytest.approx(loss, rel=1e-12)
    for parameter, gradient in zip(net.parameters(), gradients, strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-9, atol=1e-12)
    for name, value in net.state_dict().items():
        torch.testing.assert_close(state[name], value, rtol=1e-9, atol=1e-12)


def test_all_processes_have_the_same(found: list[Any]) -> None:
    for mean, gradients, state in found[1:]:
        assert mean == found[0][0]
        assert all(map(torch.equal, gradients, found[0][1]))
        assert all(torch.equal(state[name], value) for name, value in found[0][2].items())
