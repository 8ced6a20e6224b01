"""The device that networks are computed on, and arithmetic that gives the same spikes each time."""

from __future__ import annotations

import torch

from primesvt_deploy.errors import SettingsError

__all__ = ["CPU", "compute_device", "device_name", "use_exact_arithmetic"]

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


def use_exact_arithmetic() -> None:
    """Have float32 products computed in float32 (no TF32) by kernels that repeat themselves.

    It holds for this process: a spike that flips changes a candidate.
    """
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
