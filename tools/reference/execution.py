"""Execution of a training: devices, processes, precision, time."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from primesvt_deploy.errors import SettingsError

__all__ = ["Execution", "Processes"]

_PATIENCE = timedelta(hours=2)
"""The others wait while the first evaluates or saves."""


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Execution settings of a training, which are no part of its recipe.

    Args:
        device: the device of this process.
        rank: number of this process among those that train together.
        devices: how many processes, a device each, share each step.
        workers: processes that load images.
        mixed_precision: run layers in bfloat16 where torch's autocast does.
        compiled: compile the network (torch.compile).
        save_seconds: seconds between checkpoints.
        log_steps: steps between lines of the log.
        seconds: stop after so many, with a checkpoint; None: at the end of the training.
        stop: asked after each step whether to stop there, with a checkpoint.
    """

    device: torch.device
    rank: int = 0
    devices: int = 1
    workers: int = 0
    mixed_precision: bool = False
    compiled: bool = False
    save_seconds: float = 300.0
    log_steps: int = 50
    seconds: float | None = None
    stop: Callable[[], bool] = lambda: False


@dataclass(frozen=True, kw_only=True)
class Processes:
    """The processes that torchrun started, or this one alone.

    Args:
        rank: number of this process.
        count: processes on all machines; their --output must be one folder.
        local_rank: number of this process on its machine.
        local_count: processes on its machine.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    local_count: int = 1

    @classmethod
    def from_environment(cls) -> Processes:
        """The processes that torchrun's environment variables describe.

        Raises:
            SettingsError: there are several, but not all of torchrun's variables.
        """
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        if os.environ.get("WORLD_SIZE", "1") == "1":
            return cls()
        try:
            values = [int(os.environ[name]) for name in names]
        except (KeyError, ValueError) as error:
            raise SettingsError(
                f"WORLD_SIZE is {os.environ['WORLD_SIZE']!r}, and {', '.join(names)} do not all "
                "have numbers: unset it, or start several devices by torchrun"
            ) from error
        rank, count, local_rank, local_count = values
        return cls(rank=rank, count=count, local_rank=local_rank, local_count=local_count)

    def device(self, requested: str) -> torch.device:
        """The device of this process.

        Args:
            requested: "cpu", "cuda" or "auto".

        Raises:
            SettingsError: torch sees no CUDA device, or too few.
        """
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if requested == "cpu" or (requested == "auto" and not found):
            return torch.device("cpu")
        if self.local_rank >= found:
            raise SettingsError(
                f"--device {requested}: torch sees {found} CUDA devices here, for "
                f"{self.local_count} processes: start fewer, or pass --device cpu"
            )
        torch.cuda.set_device(self.local_rank)
        return torch.device("cuda", self.local_rank)

    def join(self, device: torch.device) -> None:
        """Connect to the other processes, if there are any.

        Raises:
            SettingsError: they cannot be reached.
        """
        if self.count == 1:
            return
        kind = "nccl" if device.type == "cuda" else "gloo"
        try:
            dist.init_process_group(kind, timeout=_PATIENCE)
        except (ValueError, RuntimeError) as error:
            raise SettingsError(
                f"process {self.rank} of {self.count} cannot meet the others "
                f"({str(error).splitlines()[0]}): start them by torchrun"
            ) from error
