"""Compare the result files of benchmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from primesvt_deploy.edge.bench.errors import MeasurementError
from primesvt_deploy.edge.bench.machine import same_machine
from primesvt_deploy.edge.bench.result_schema import key_of
from primesvt_deploy.edge.bench.statistics import Ratio, unpaired_ratio

__all__ = ["Comparison", "compare_results", "require_same_machine", "without_counterpart"]

_LONGEST = 100
"""Characters of a name in a message."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Speed and memory of one configuration in two results.

    Args:
        one: its entry in the later result.
        other: the entry that it is compared with in the other result.
        ratio: time of `one` over that of `other`.
        peak_ratio: peak resident memory likewise; None where a system did not report it.
    """

    one: Mapping[str, Any]
    other: Mapping[str, Any]
    ratio: Ratio
    peak_ratio: float | None

    def slower_than(self, percent: float) -> bool:
        """Whether `one` is slower by more than `percent`, and the 95% interval excludes 1."""
        return self.ratio.time > 1.0 + percent / 100.0 and self.ratio.low > 1.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "variant": self.one["name"],
            "against": self.other["name"],
            "median_ms": self.one["latency_ms"]["median"],
            "against_median_ms": self.other["latency_ms"]["median"],
            **self.ratio.to_dict(),
            "peak_memory_ratio": None if self.peak_ratio is None else round(self.peak_ratio, 4),
        }


def require_same_machine(results: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse results of different machines.

    Args:
        results: results by name; all are compared with the first.

    Raises:
        MeasurementError: they differ; what differs is named.
    """
    (first, reference), *others = results.items()
    for name, result in others:
        differences = same_machine(reference["machine"], result["machine"])
        if differences:
            raise MeasurementError(
                f"{first} and {name} come from different machines ({'; '.join(differences)}): "
                "measure both on one, or pass --any-machine"
            )


def compare_results(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[Comparison]:
    """Compare the configurations of `one` with their counterparts in `other`.

    Counterparts have the same runtime, profile, batch and threads, and the same bundle label; where
    both results are of a single bundle, labels do not matter.

    Raises:
        MeasurementError: there is no pair at all.
    """
    single = len(one["bundles"]) == len(other["bundles"]) == 1
    others = {_identity(variant, single): variant for variant in other["variants"]}
    pairs = [
        (variant, others[_identity(variant, single)])
        for variant in one["variants"]
        if _identity(variant, single) in others
    ]
    if not pairs:
        raise MeasurementError(
            f"nothing to compare: found {_names(one['variants'])} on one side and "
            f"{_names(other['variants'])} on the other; measure the same runtimes, profiles, "
            "batches, threads and bundle names"
        )
    return [_compared(*pair) for pair in pairs]


def without_counterpart(
    one: Mapping[str, Any], other: Mapping[str, Any], compared: Sequence[Comparison]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the configurations of two results that have no counterpart in the other.

    Args:
        one: the later result.
        other: the result that it is compared with.
        compared: what `compare_results` found of these.

    Returns:
        Those of `one`, and those of `other`.
    """
    mine = {found.one["name"] for found in compared}
    theirs = {found.other["name"] for found in compared}
    return (
        tuple(v["name"] for v in one["variants"] if v["name"] not in mine),
        tuple(v["name"] for v in other["variants"] if v["name"] not in theirs),
    )


def _compared(one: Mapping[str, Any], other: Mapping[str, Any]) -> Comparison:
    peaks = [v.get("memory", {}).get("steady", {}).get("VmHWM") for v in (one, other)]
    return Comparison(
        one=one,
        other=other,
        ratio=unpaired_ratio(one["rounds_ms"], other["rounds_ms"]),
        peak_ratio=peaks[0] / peaks[1] if all(peaks) else None,
    )


def _identity(variant: Mapping[str, Any], single: bool) -> tuple[Any, ...]:
    return (*(() if single else (variant["bundle"],)), *key_of(variant))


def _names(variants: Sequence[Mapping[str, Any]]) -> str:
    shown = "; ".join(variant["name"][:_LONGEST] for variant in variants[:3])
    return shown + (f" and {len(variants) - 3} more" if variants[3:] else "")
