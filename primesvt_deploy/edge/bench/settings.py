"""Settings of a benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from primesvt_deploy.edge.bench.errors import MeasurementError
from primesvt_deploy.edge.bench.result_schema import MOST_ROUNDS
from primesvt_deploy.edge.runtime.checked_json import fields as json_fields
from primesvt_deploy.edge.runtime.checked_json import flag, list_of, number, text, whole
from primesvt_deploy.edge.runtime.errors import on_one_line
from primesvt_deploy.edge.runtime.runtimes import RUNTIMES

__all__ = ["ALL_PROFILES", "BenchSettings"]

ALL_PROFILES = "all"
_FEWEST_ROUNDS = 5
_MOST = {"batches": 65536, "threads": 1024}
_NAMES, _NUMBERS = list_of(text(most=10_000)), list_of(whole())
_SETTINGS = json_fields(
    {},
    {
        **dict.fromkeys(("runtimes", "profiles", "labels"), _NAMES),
        **dict.fromkeys(("batches", "threads"), _NUMBERS),
        **dict.fromkeys(("seconds", "warmup_seconds", "power_seconds"), number()),
        "rounds": whole(),
        "operators": flag(),
    },
)


@dataclass(frozen=True, kw_only=True)
class BenchSettings:
    """How bundles are measured; each combination of the first four is a `Configuration`.

    Args:
        runtimes: names of runtimes; empty: each that a bundle is built for.
        profiles: names of session profiles of ONNX Runtime, or `all` of each bundle's; empty: the
            bundle's default. The native runtime has none.
        batches: samples a run. A file with a fixed batch size is measured at that one; the native
            runtime runs the samples of a batch one by one.
        threads: intra-op threads of ONNX Runtime, or threads of the native runtime; empty: one, and
            one for each physical core.
        seconds: seconds of timed runs of a configuration.
        rounds: number of blocks of these; in each round every configuration has one block.
        warmup_seconds: seconds after which one is measured though its times are not stable.
        operators: whether to profile each operator, in a process of its own.
        power_seconds: seconds over which power is measured where the board reports it; 0: never.
        labels: names of the bundles in the result; empty: the ends of their paths.

    Raises:
        MeasurementError: a value out of range.
    """

    runtimes: tuple[str, ...] = ()
    profiles: tuple[str, ...] = ()
    batches: tuple[int, ...] = (1, 4)
    threads: tuple[int, ...] = ()
    seconds: float = 5.0
    rounds: int = 20
    warmup_seconds: float = 10.0
    operators: bool = False
    power_seconds: float = 5.0
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        for name in ("batches", "threads"):
            values = getattr(self, name)
            if any(type(value) is not int or not 1 <= value <= _MOST[name] for value in values):
                raise MeasurementError(
                    f"{name} are {_list(values)}: expected 1 to {_MOST[name]} each"
                )
        for runtime in self.runtimes:
            if runtime not in RUNTIMES:
                raise MeasurementError(
                    f"there is no runtime {runtime!r}: pass {', '.join(RUNTIMES)} or both"
                )
        for name in ("runtimes", "profiles", "batches", "threads"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise MeasurementError(f"{name} are {_list(values)}: name each once")
        if not self.batches:
            raise MeasurementError("there is no batch size: expected 1 or more, such as 1,4")
        if not _FEWEST_ROUNDS <= self.rounds <= MOST_ROUNDS:
            raise MeasurementError(
                f"rounds are {self.rounds}: expected {_FEWEST_ROUNDS} or more, to {MOST_ROUNDS}"
            )
        if not 0.0 < self.seconds <= 3600.0:
            raise MeasurementError(f"seconds are {self.seconds:g}: expected more than 0, to 3600")
        for name in ("warmup_seconds", "power_seconds"):
            if not 0.0 <= getattr(self, name) <= 3600.0:
                raise MeasurementError(
                    f"{name.replace('_seconds', '')} is {getattr(self, name):g} seconds: expected "
                    "0 to 3600"
                )

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> BenchSettings:
        """Make settings from what `to_dict` gives; raises MeasurementError."""
        unknown = sorted(set(d) - {field.name for field in fields(cls)})
        if unknown:
            names = on_one_line(", ".join(unknown)[:200])
            raise MeasurementError(f"unknown settings {names}: use one version")
        try:
            _SETTINGS(d, "")
        except ValueError as error:
            raise MeasurementError(f"settings: {error}") from error
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in d.items()}
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


def _list(values: tuple[Any, ...]) -> str:
    return ",".join(map(str, values)) or "none"
