"""The second device of the tests refuses what a GPU refuses, and computes what the CPU does."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from other_device import OTHER, is_there, other_device
from torch import nn
from torch.nn import functional as F


@pytest.fixture(autouse=True)
def _device() -> Iterator[None]:
    with other_device():
        yield


def network(seed: int = 0) -> nn.Sequential:
    """A convolution, a norm and a classifier."""
    torch.manual_seed(seed)
    layers = (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4))
    return nn.Sequential(*layers)


HERE = torch.arange(1.0, 4.0)


@pytest.mark.parametrize(
    "mixed",
    [
        lambda there: there + HERE,
        lambda there: HERE * there,
        lambda there: torch.cat([there, HERE]),
        lambda there: torch.equal(there, HERE),
        lambda there: HERE.add_(there.sum()),
        lambda there: HERE.sum().add_(there.sum()),
        lambda there: HERE[there.long() - 1],
        lambda there: there.index_select(0, torch.tensor([0])),
        lambda there: torch.where(HERE > 1, there, 0.0),
        lambda there: F.linear(HERE, there[None]),
        lambda there: torch.ge(there, 2.0, out=torch.empty(3)),
    ],
)
def test_tensors_of_both_devices_do_not_meet(mixed: Callable[[torch.Tensor], Any]) -> None:
    with pytest.raises(RuntimeError, match="expected all tensors to be on the same device"):
        mixed(HERE.to(OTHER))


@pytest.mark.parametrize(
    "allowed",
    [
        lambda x: x * torch.tensor(2.0),
        lambda x: torch.tensor(2.0) - x,
        lambda x: x[torch.tensor([2, 0])],
        lambda x: x[torch.tensor([True, False, True])],
        lambda x: x.clone().index_put_((torch.tensor([1]),), torch.tensor(7.0)),
        lambda x: torch.empty(3, device=x.device).copy_(HERE),
        lambda x: x.new_tensor([1.0, 2.0, 3.0]) + x.new_zeros(3) + torch.ones_like(x) + x,
        lambda x: torch.arange(3, device=x.device) + x,
    ],
)
def test_numbers_indices_and_copies_may_be_of_the_cpu(
    allowed: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    found = allowed(HERE.to(OTHER))
    assert found.device == OTHER
    assert torch.equal(found.cpu(), allowed(HERE))


@pytest.mark.parametrize("into", [np.asarray, np.array, lambda x: x.numpy()])
def test_no_array_is_made_of_a_tensor_there(into: Callable[[torch.Tensor], Any]) -> None:
    with pytest.raises(TypeError, match="NumPy"):
        into(HERE.to(OTHER))
    assert HERE.to(OTHER).cpu().numpy().tolist() == HERE.tolist() == HERE.to(OTHER).tolist()


def test_a_generator_of_the_cpu_makes_nothing_there() -> None:
    with pytest.raises(RuntimeError, match="generator"):
        torch.randn(3, generator=torch.Generator(), device=OTHER)


def test_copies_are_apart() -> None:
    before = torch.zeros(2)
    there = before.to(OTHER)
    back = there.to("cpu")
    there += 1.0
    assert before.tolist() == back.tolist() == [0.0, 0.0]
    assert there.to(OTHER) is there and there.double().device == OTHER


def test_a_module_there_computes_what_it_does_here() -> None:
    model, samples = network().eval(), torch.randn(2, 3, 8, 8)
    moved = copy.deepcopy(copy.deepcopy(model).to(OTHER)).to(memory_format=torch.channels_last)
    assert all(map(is_there, (*moved.parameters(), *moved.buffers())))
    assert len(list(moved.parameters())) == len(list(model.parameters()))
    seen: list[torch.Tensor] = []
    moved[0].register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    found = moved(samples.to(OTHER))
    assert found.device == seen[0].device == OTHER
    expected = model.to(memory_format=torch.channels_last)(samples)
    assert torch.equal(found.cpu(), expected)
    with pytest.raises(RuntimeError, match="same device"):
        moved(samples)
    assert not any(map(is_there, moved.to("cpu").state_dict().values()))
    assert torch.equal(moved(samples), expected)


def test_a_module_is_trained_there_as_it_is_here() -> None:
    samples, labels = torch.randn(4, 3, 8, 8), torch.arange(4)
    trained = []
    for device in (torch.device("cpu"), OTHER):
        model = network().to(device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(model(samples.to(device)), labels.to(device)).backward()
            optimizer.step()
        trained.append(model.to("cpu").state_dict())
    assert all(torch.equal(tensor, trained[1][name]) for name, tensor in trained[0].items())
    untrained = network().state_dict()
    assert not torch.equal(untrained["0.weight"], trained[0]["0.weight"])


def test_gradients_pass_between_devices() -> None:
    values = torch.ones(3, requires_grad=True)
    (values.to(OTHER) * 2.0).cpu().sum().backward()
    assert values.grad is not None and values.grad.tolist() == [2.0, 2.0, 2.0]


def test_linear_algebra_there() -> None:
    matrix = torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    matrix = matrix @ matrix.T + torch.eye(5)

    def solved(x: torch.Tensor) -> list[torch.Tensor]:
        factor, failed = torch.linalg.cholesky_ex(x)
        assert not int(failed)
        changed = x.clone()
        changed[:, torch.tensor([0, 3])] = 0.0
        solution = torch.linalg.solve(x, x[:, :2])
        return [torch.cholesky_inverse(factor), torch.cholesky_solve(x, factor), changed, solution]

    for found, expected in zip(solved(matrix.to(OTHER)), solved(matrix), strict=True):
        assert found.device == OTHER and torch.equal(found.cpu(), expected)
