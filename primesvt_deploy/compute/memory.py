"""Memory of the device that networks are computed on."""

from __future__ import annotations

import os

import torch

__all__ = ["total_memory"]


def total_memory(device: torch.device) -> int:
    """Bytes of a CUDA device's memory, or of this machine's."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
