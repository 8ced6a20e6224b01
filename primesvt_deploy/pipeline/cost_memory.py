"""Memory of a search: measured growth of single operations, and the peak to expect of a process."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import TracebackType

import torch

from primesvt_deploy.edge.runtime.memory import resident

__all__ = ["GrowthOf"]

_CLEAR = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"


class GrowthOf:
    """Measures by how much memory grows while something runs; a context manager.

    On CUDA it is the device's memory that tensors take, elsewhere resident memory of the process,
    where the system (Linux) tells that; else it stays 0.

    Args:
        device: that it runs on.

    Attributes:
        bytes: of growth, once it has run.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._before = device, 0
        self.bytes = 0

    def __enter__(self) -> GrowthOf:
        """Set the peak back to what is in use now."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            self._before = torch.cuda.memory_allocated(self._device)
        else:
            with contextlib.suppress(OSError):
                _CLEAR.write_text(_RESET_PEAK)
            self._before = resident()["VmRSS"] or 0
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Read the peak."""
        if self._device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self._device)
        else:
            peak = resident()["VmHWM"] or 0
        self.bytes = max(0, peak - self._before)
