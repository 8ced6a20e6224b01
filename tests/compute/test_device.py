"""Devices by name, and arithmetic without shortcuts."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from other_device import OTHER, other_device
from torch import nn

from primesvt_deploy.compute.device import (
    CPU,
    compute_device,
    copied_to,
    device_name,
    device_of,
)
from primesvt_deploy.errors import SettingsError

_EXACT = """
import warnings
warnings.simplefilter("error")
import torch
from primesvt_deploy.compute.device import use_exact_arithmetic
torch.backends.fp32_precision = "tf32"
use_exact_arithmetic()
use_exact_arithmetic()
cuda, cudnn = torch.backends.cuda, torch.backends.cudnn
assert cuda.matmul.fp32_precision == cudnn.conv.fp32_precision == "ieee"
assert not cuda.matmul.allow_tf32 and not cudnn.allow_tf32
assert cudnn.deterministic and not cudnn.benchmark
"""


def devices(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


@pytest.mark.parametrize(
    ("count", "name", "expected"),
    [
        (0, "auto", "cpu"),
        (0, "cpu", "cpu"),
        (1, "auto", "cuda:0"),
        (2, "cpu", "cpu"),
        (2, "cuda", "cuda:0"),
        (2, "cuda:1", "cuda:1"),
    ],
)
def test_a_device_by_its_name(
    monkeypatch: pytest.MonkeyPatch, count: int, name: str, expected: str
) -> None:
    devices(monkeypatch, count)
    assert compute_device(name) == torch.device(expected)


@pytest.mark.parametrize(
    ("count", "name", "there"),
    [
        (0, "cuda", "there is no CUDA device here"),
        (1, "cuda:1", "there is one CUDA device, cuda:0 here"),
        (4, "cuda:4", "there are 4 CUDA devices here"),
    ],
)
def test_a_device_that_is_not_there_is_refused(
    monkeypatch: pytest.MonkeyPatch, count: int, name: str, there: str
) -> None:
    devices(monkeypatch, count)
    with pytest.raises(SettingsError, match=f"device is {name}: {there}") as raised:
        compute_device(name)
    assert "pass --device cpu" in str(raised.value)


def test_a_device_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device.index}")
    assert (device_name(CPU), device_name(torch.device("cuda", 1))) == ("CPU", "GPU 1")


def test_a_module_is_copied_to_another_device_alone() -> None:
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    before = copy.deepcopy(module.state_dict())
    assert copied_to(module, CPU) is module and device_of(module) == CPU
    with other_device():
        there = copied_to(module, OTHER)
        assert device_of(there) == OTHER and device_of(module) == CPU
        nn.init.zeros_(there[0].weight)
    assert all(torch.equal(module.state_dict()[name], value) for name, value in before.items())
    assert device_of(nn.ReLU()) == CPU


@pytest.mark.slow
def test_products_of_float32_are_float32_without_a_warning() -> None:
    subprocess.run([sys.executable, "-c", _EXACT], check=True)
