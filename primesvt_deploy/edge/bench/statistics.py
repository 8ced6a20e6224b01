"""Summaries of wall times, and ratios of them with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Ratio", "Rounds", "histogram", "paired_ratio", "summary", "unpaired_ratio"]

Rounds = Sequence[Sequence[float]]
"""Wall times in ms, in the blocks they were measured in."""

_RESAMPLES = 4000
_BINS = 24
_FEWEST_FOR_P99 = 100


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """Ratio of two median times with its 95% interval.

    Args:
        time: median time of one over that of the other; below 1 it is faster.
        low: lower end of the 95% interval.
        high: upper end.
    """

    time: float
    low: float
    high: float

    @property
    def shows_difference(self) -> bool:
        """Whether the interval excludes that both take the same time."""
        return not self.low <= 1.0 <= self.high

    def __str__(self) -> str:
        """Text such as `1.42x faster [1.38, 1.45]`."""
        doubt = "" if self.shows_difference else ", no difference shown"
        if self.time <= 1.0:
            faster = 1 / self.time
            return f"{faster:.2f}x faster [{1 / self.high:.2f}, {1 / self.low:.2f}]{doubt}"
        return f"{self.time:.2f}x slower [{self.low:.2f}, {self.high:.2f}]{doubt}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "time_ratio": round(self.time, 5),
            "interval95": [round(self.low, 5), round(self.high, 5)],
        }


def summary(rounds: Rounds) -> dict[str, Any]:
    """Wall times in ms: `n`, `min`, `median`, `mean`, `p95`, `p99` (None for fewer than 100)."""
    times = np.concatenate([np.asarray(block) for block in rounds])
    p95, p99 = np.percentile(times, (95, 99))
    return {
        "n": len(times),
        "min": round(float(times.min()), 4),
        "median": round(float(np.median(times)), 4),
        "mean": round(float(times.mean()), 4),
        "p95": round(float(p95), 4),
        "p99": round(float(p99), 4) if len(times) >= _FEWEST_FOR_P99 else None,
    }


def histogram(rounds: Rounds) -> dict[str, Any]:
    """Histogram of wall times, in equal bins from the least to p99; `above` counts the others."""
    times = np.concatenate([np.asarray(block) for block in rounds])
    low, high = float(times.min()), float(np.percentile(times, 99))
    counts, edges = np.histogram(times, bins=_BINS, range=(low, max(high, low + 1e-6)))
    return {
        "edges_ms": [round(float(edge), 4) for edge in edges],
        "counts": counts.tolist(),
        "above": int(len(times) - counts.sum()),
    }


def paired_ratio(one: Rounds, other: Rounds) -> Ratio:
    """Time of `one` over that of `other`, measured in alternating blocks.

    Noise that lasts longer than a round meets both alike, so each round gives one ratio of block
    medians; the estimate is their geometric mean, the interval a bootstrap over rounds.
    """
    logs = np.log(_medians(one) / _medians(other))
    drawn = _resampled(logs).mean(axis=1)
    low, high = np.exp(np.percentile(drawn, (2.5, 97.5)))
    return Ratio(time=float(np.exp(logs.mean())), low=float(low), high=float(high))


def unpaired_ratio(one: Rounds, other: Rounds) -> Ratio:
    """Time of `one` over that of `other`, measured separately: medians of block medians.

    The bootstrap over rounds covers the noise within each measurement, not changes of the
    machine between them.
    """
    a, b = _medians(one), _medians(other)
    drawn = np.median(_resampled(a), axis=1) / np.median(_resampled(b, seed=1), axis=1)
    low, high = np.percentile(drawn, (2.5, 97.5))
    return Ratio(time=float(np.median(a) / np.median(b)), low=float(low), high=float(high))


def _medians(rounds: Rounds) -> npt.NDArray[np.float64]:
    return np.array([np.median(block) for block in rounds], dtype=np.float64)


def _resampled(values: npt.NDArray[np.float64], *, seed: int = 0) -> npt.NDArray[np.float64]:
    """Samples with replacement, `[resamples, n]`."""
    draws = np.random.default_rng(seed).integers(0, len(values), (_RESAMPLES, len(values)))
    return values[draws]
