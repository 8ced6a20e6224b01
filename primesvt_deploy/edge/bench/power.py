"""Measured power, on boards that report it: the power management chip of a Raspberry Pi 5.

`vcgencmd pmic_read_adc` gives current and voltage of each rail, such as
`3V7_WL_SW_A current(0)=0.00292788A` and `3V7_WL_SW_V volt(8)=3.71414400V`.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any

from primesvt_deploy.edge.bench.vcgencmd import ask_firmware

__all__ = ["COVERS", "EnergyUse", "Power", "Sampler", "measure_power", "read_watts"]

COVERS = "PMIC rails; not what USB devices draw nor the regulators' losses"
"""Scope of the figures."""

_INTERVAL_SECONDS = 0.2
_IDLE_SECONDS = 5.0
_READING = re.compile(r"^\s*(\w+)_([AV]) (?:current|volt)\(\d+\)=(\d+\.?\d*)[AV]\s*$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Power:
    """Mean power over a time span.

    Args:
        mean_watts: mean of the samples, watts.
        samples: number of samples.
        seconds: time span.
    """

    mean_watts: float
    samples: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class EnergyUse:
    """Energy that inferences took.

    Args:
        idle: power just before the inferences.
        running: power during the inferences.
        inferences: number of inferences.
        seconds: their duration.
    """

    idle: Power
    running: Power
    inferences: int
    seconds: float

    @property
    def millijoules(self) -> float:
        """Energy of one inference, mJ, including what the idle board draws."""
        return 1e3 * self.running.mean_watts * self.seconds / self.inferences

    @property
    def millijoules_above_idle(self) -> float:
        """Energy of one inference, mJ, without what the idle board draws."""
        above = self.running.mean_watts - self.idle.mean_watts
        return 1e3 * above * self.seconds / self.inferences

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "idle": asdict(self.idle),
            "running": asdict(self.running),
            "inferences": self.inferences,
            "seconds": self.seconds,
            "millijoules_an_inference": self.millijoules,
            "millijoules_an_inference_above_idle": self.millijoules_above_idle,
            "covers": COVERS,
        }


def read_watts() -> float | None:
    """Power of all rails that have both a current and a voltage, watts; None if there is none."""
    answer = ask_firmware("pmic_read_adc") or ""
    found = {(rail, kind): float(value) for rail, kind, value in _READING.findall(answer)}
    watts = [
        amperes * found[rail, "V"]
        for (rail, kind), amperes in found.items()
        if kind == "A" and (rail, "V") in found
    ]
    return sum(watts) if watts else None


class Sampler:
    """Samples power in a thread while a `with` block runs.

    Args:
        interval: seconds between samples; longer if the board answers more slowly.

    Attributes:
        power: mean power, once the block has ended; None if nothing was read.
    """

    def __init__(self, *, interval: float = _INTERVAL_SECONDS) -> None:
        self.power: Power | None = None
        self._interval = interval
        self._ended = threading.Event()
        self._watts: list[float] = []
        self._started = 0.0
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Sampler:
        self._started = time.perf_counter()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        seconds = time.perf_counter() - self._started
        self._thread.join()
        if self._watts:
            mean = sum(self._watts) / len(self._watts)
            self.power = Power(mean_watts=mean, samples=len(self._watts), seconds=seconds)

    def _sample(self) -> None:
        while not self._ended.is_set():
            begun = time.perf_counter()
            watts = read_watts()
            # A reading after the end may be of the time after it.
            if watts is not None and not self._ended.is_set():
                self._watts.append(watts)
            self._ended.wait(max(0.0, begun + self._interval - time.perf_counter()))


def measure_power(
    run: Callable[[], int],
    *,
    idle_seconds: float = _IDLE_SECONDS,
    interval: float = _INTERVAL_SECONDS,
) -> EnergyUse | None:
    """Measure power before and during `run`, and the energy of one inference.

    Args:
        run: runs inferences for some seconds at least, and returns their number.
        idle_seconds: how long the idle board is measured first.
        interval: seconds between samples.

    Returns:
        None where the board does not report its power (`run` is not called then), or did not
        while `run` went on, or `run` did nothing.
    """
    if read_watts() is None:
        return None
    with Sampler(interval=interval) as idle:
        time.sleep(idle_seconds)
    with Sampler(interval=interval) as running:
        started = time.perf_counter()
        inferences = run()
        seconds = time.perf_counter() - started
    if idle.power is None or running.power is None or inferences <= 0:
        return None
    return EnergyUse(idle=idle.power, running=running.power, inferences=inferences, seconds=seconds)
