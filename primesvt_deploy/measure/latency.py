"""Latency of artifacts for one image, measured in turns so that noise affects all alike."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from primesvt_deploy.progress import SILENT, Progress

__all__ = ["Latency", "cpu_name", "measure_latency"]

_FEWEST = 5


@dataclass(frozen=True)
class Latency:
    """Wall times of a call.

    Args:
        milliseconds: time of each run, ms, in order.
    """

    milliseconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median, ms."""
        return float(np.median(self.milliseconds))

    @property
    def p95(self) -> float:
        """95th percentile, ms."""
        return float(np.percentile(self.milliseconds, 95))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"median_ms": round(self.median, 3), "p95_ms": round(self.p95, 3)}


def measure_latency(
    calls: Mapping[str, Callable[[], object]],
    *,
    runs: int,
    warmup: int = 10,
    seconds: float = math.inf,
    progress: Progress = SILENT,
) -> dict[str, Latency]:
    """Time calls in rounds; in each round every call runs once.

    Args:
        calls: the calls to time, by name.
        runs: timed rounds, at most.
        warmup: untimed rounds before, at most.
        seconds: no new round begins after so many, once five are timed; at most a third of them
            goes to warming up.
        progress: gets the rounds done; no step.

    Returns:
        Wall times of each call, by name.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    begun = time.perf_counter()
    for number in range(warmup):
        if number and time.perf_counter() - begun > seconds / 3:
            break
        for call in calls.values():
            call()
    for number in range(runs):
        if number >= _FEWEST and time.perf_counter() - begun > seconds:
            break
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            times[name].append(1e3 * (time.perf_counter() - started))
        progress.advance(number + 1, runs, "rounds")
    return {name: Latency(tuple(values)) for name, values in times.items()}


def cpu_name() -> str:
    """The CPU's model name, or its architecture where the system does not name it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "Model"):
                return value.strip()
    return platform.processor() or platform.machine()
