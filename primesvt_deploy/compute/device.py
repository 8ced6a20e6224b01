"""The device that networks are computed on, and arithmetic that gives the same spikes each time."""

from __future__ import annotations

import copy
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import nn

from primesvt_deploy.errors import SettingsError

__all__ = [
    "CPU",
    "compute_device",
    "copied_to",
    "device_name",
    "device_of",
    "use_exact_arithmetic",
]

_Module = TypeVar("_Module", bound=nn.Module)

CPU = torch.device("cpu")


def compute_device(name: str) -> torch.device:
    """The device of a name.

    Args:
        name: `cpu`, `cuda` (the first), `cuda:N`, or `auto`: CUDA where there is one.

    Raises:
        SettingsError: CUDA, or a number of it, that this machine does not have.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda", 0) if count else CPU
    device = torch.device(name)
    if device.type != "cuda":
        return device
    number = device.index or 0
    if number >= count:
        there = {0: "there is no CUDA device", 1: "there is one CUDA device, cuda:0"}.get(
            count, f"there are {count} CUDA devices"
        )
        raise SettingsError(
            f"device is {name}: {there} here that this PyTorch ({torch.__version__}) can use; pass "
            "--device cpu, or leave it out"
        )
    return torch.device("cuda", number)


def device_name(device: torch.device) -> str:
    """A device in words, such as `NVIDIA H200`; `CPU` for that of this machine."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return device.type.upper()


def device_of(module: nn.Module) -> torch.device:
    """The device of a module's tensors; the CPU where it has none."""
    first = next(chain(module.parameters(), module.buffers()), None)
    return CPU if first is None else first.device


def copied_to(module: _Module, device: torch.device) -> _Module:
    """A copy of a module on a device; the module itself where it is there already."""
    return module if device_of(module) == device else copy.deepcopy(module).to(device)


def use_exact_arithmetic() -> None:
    """Have float32 products computed in float32 (no TF32) by kernels that repeat themselves.

    It holds for this process: a spike that flips changes a candidate.
    """
    # The older flag first: torch raises where someone reads it and it contradicts the newer ones.
    torch.backends.cudnn.allow_tf32 = False
    cudnn: Any = torch.backends.cudnn  # its operations are unknown to its stubs
    for operation in (torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn):
        operation.fp32_precision = "ieee"
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
