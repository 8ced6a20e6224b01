"""Confidence intervals for accuracies, and for differences of accuracies on the same images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Accuracy", "PairedDrop", "wilson_interval"]

_Z95 = 1.959963984540054


def wilson_interval(successes: int, n: int, z: float = _Z95) -> tuple[float, float]:
    """Score interval of a proportion (Wilson, 1927), as shares in [0, 1].

    Args:
        successes: trials that succeeded.
        n: trials.
        z: standard errors; 1.96 for 95%.
    """
    if n == 0:
        return 0.0, 1.0
    p = successes / n
    scale = 1.0 / (1.0 + z * z / n)
    centre = scale * (p + z * z / (2 * n))
    spread = scale * z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, centre - spread), min(1.0, centre + spread)


@dataclass(frozen=True)
class Accuracy:
    """Top-1 accuracy.

    Args:
        correct: images classified correctly.
        n: images.
    """

    correct: int
    n: int

    @classmethod
    def of(cls, hits: npt.NDArray[np.bool_]) -> Accuracy:
        """Accuracy from a flag for each image, `[n]`."""
        return cls(int(hits.sum()), len(hits))

    @property
    def percent(self) -> float:
        """Top-1, percent."""
        return 100.0 * self.correct / self.n if self.n else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """95% Wilson interval, percent."""
        low, high = wilson_interval(self.correct, self.n)
        return 100.0 * low, 100.0 * high

    def __str__(self) -> str:
        """Such as `75.32% [74.1, 76.5] (n=5000)`."""
        low, high = self.interval
        return f"{self.percent:.2f}% [{low:.1f}, {high:.1f}] (n={self.n})"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        low, high = self.interval
        return {
            "top1_percent": round(self.percent, 4),
            "interval95_percent": [round(low, 4), round(high, 4)],
            "correct": self.correct,
            "n": self.n,
        }


@dataclass(frozen=True)
class PairedDrop:
    """Accuracy that a candidate loses against a reference on the same images.

    Args:
        lost: images that only the reference classifies correctly.
        gained: images that only the candidate does.
        n: images.
    """

    lost: int
    gained: int
    n: int

    @classmethod
    def of(cls, reference: npt.NDArray[np.bool_], candidate: npt.NDArray[np.bool_]) -> PairedDrop:
        """Drop from a flag for each image, over the first images, which the candidate has seen."""
        seen = reference[: len(candidate)]
        return cls(int((seen & ~candidate).sum()), int((candidate & ~seen).sum()), len(candidate))

    @property
    def points(self) -> float:
        """Percentage points lost; negative where the candidate is better."""
        return 100.0 * (self.lost - self.gained) / self.n if self.n else 0.0

    def interval(self, z: float = _Z95) -> tuple[float, float]:
        """Interval of `points` (Agresti and Min, 2005: Wald with half a count in each cell).

        Args:
            z: standard errors; 1.96 for 95%.
        """
        n = self.n + 2
        difference = self.lost - self.gained
        spread = math.sqrt(max(self.lost + self.gained + 1 - difference**2 / n, 0.0)) / n
        return 100.0 * (difference / n - z * spread), 100.0 * (difference / n + z * spread)

    def surely_exceeds(self, max_drop: float, z: float) -> bool:
        """Whether the whole interval of `z` standard errors lies above `max_drop` points."""
        return self.interval(z)[0] > max_drop

    def __str__(self) -> str:
        """Such as `1.20 points [0.48, 1.92]`."""
        low, high = self.interval()
        return f"{self.points:.2f} points [{low:.2f}, {high:.2f}]"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        low, high = self.interval()
        return {
            "points": round(self.points, 4),
            "interval95_points": [round(low, 4), round(high, 4)],
            "lost": self.lost,
            "gained": self.gained,
            "n": self.n,
        }
