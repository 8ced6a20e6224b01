"""Tell without torch, which takes seconds to import, that this machine has no CUDA device."""

from __future__ import annotations

import ctypes
from pathlib import Path

from primesvt_deploy.errors import SettingsError

__all__ = ["check_driver"]

_DRIVER = "libcuda.so.1"
_AMD = Path("/dev/kfd")
"""Devices of AMD, which torch calls CUDA, too."""


def check_driver(device: str) -> None:
    """Refuse CUDA where no driver of it can be loaded.

    Args:
        device: as `compute_device` takes it; that finds what only torch can tell.

    Raises:
        SettingsError: there is none.
    """
    if not device.startswith("cuda") or _AMD.exists():
        return
    try:
        ctypes.CDLL(_DRIVER)
    except OSError as error:
        raise SettingsError(
            f"device is {device}: there is no CUDA device here, as the driver ({_DRIVER}) cannot "
            "be loaded; pass --device cpu, or leave it out"
        ) from error
