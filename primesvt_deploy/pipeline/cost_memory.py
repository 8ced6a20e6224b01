"""Memory of a search: measured growth of single operations, and the peak to expect of a process."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch

from primesvt_deploy.edge.runtime.memory import resident
from primesvt_deploy.model.svit import SViT
from primesvt_deploy.pipeline.cost_pace import Pace
from primesvt_deploy.pruning.recovery.least_squares import SHARES_BYTES

__all__ = ["ExpectedMemory", "GrowthOf", "expected_memory"]

_CLEAR = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"
_COPIES = 4
"""Networks beside the model: lowered, for recovery, and two of a candidate."""


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


@dataclass(frozen=True, kw_only=True)
class ExpectedMemory:
    """Peak memory to expect, bytes.

    Args:
        process: of this process before the search: Python, libraries, model and data.
        states: cached, so that candidates start behind a prefix.
        activations: of a batch.
        recovery: statistics of layers' inputs, and what refits keep of them.
        networks: copies of the dense model.
        session: of ONNX Runtime, after the search.
        on_device: whether states, activations, statistics and copies lie on a device of its own.
    """

    process: int
    states: int
    activations: int
    recovery: int
    networks: int
    session: int
    on_device: bool

    @property
    def search(self) -> int:
        """Bytes that the search takes on its device, beside the process."""
        return self.states + self.activations + self.recovery + self.networks

    @property
    def peak(self) -> int:
        """Peak resident memory of the process."""
        return self.process + max(0 if self.on_device else self.search, self.session)

    @property
    def device_peak(self) -> int | None:
        """Peak memory of the device; None: it is this machine's own."""
        return self.search if self.on_device else None

    def to_dict(self) -> dict[str, int | None]:
        """Plain values for JSON."""
        return {
            "peak_bytes": self.peak,
            "device_peak_bytes": self.device_peak,
            "process_bytes": self.process,
            "cached_state_bytes": self.states,
            "activation_bytes": self.activations,
            "recovery_bytes": self.recovery,
            "network_bytes": self.networks,
            "session_bytes": self.session,
        }


def expected_memory(model: SViT, pace: Pace, states: int, device: torch.device) -> ExpectedMemory:
    """The memory of a search by what was measured of its parts.

    Args:
        model: the dense SViT.
        pace: as measured.
        states: bytes of the states that are cached.
        device: that evaluates.
    """
    weights = sum(each.nbytes for each in model.module.parameters())
    return ExpectedMemory(
        process=resident()["VmRSS"] or 0,
        states=states,
        activations=pace.activation_bytes,
        # Shares of removed inputs are kept beside the statistics, up to a bound.
        recovery=pace.moment_bytes + min(SHARES_BYTES, 2 * pace.moment_bytes),
        networks=_COPIES * weights,
        session=pace.session_bytes or 0,
        on_device=device.type != "cpu",
    )
