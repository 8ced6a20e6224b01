"""Figures and lists as summaries write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["change", "megabytes", "points_changed", "points_lost", "shortened", "top1"]

_MOST_CHARACTERS = 160


def megabytes(count: float) -> str:
    """Bytes in MB (10^6), to three digits or to two decimals, whichever are more."""
    value = count / 1e6
    return f"{value:.2f} MB" if value >= 1.0 else f"{value:.3g} MB"


def change(before: str, after: str) -> str:
    """A figure before and after; once where nothing changed."""
    return before if before == after else f"{before} to {after}"


def top1(accuracy: Mapping[str, Any]) -> str:
    """Top-1 with its interval, from `Accuracy.to_dict()`."""
    low, high = accuracy["interval95_percent"]
    return f"{accuracy['top1_percent']:.2f}% [{low:.1f}, {high:.1f}]"


def points_lost(drop: float, decimals: int = 2) -> str:
    """A loss of top-1 in words: `0.30 points lost`, or `0.30 points gained` where it is below 0."""
    lost_or_gained = "gained" if round(drop, decimals) < 0 else "lost"
    return f"{abs(drop):.{decimals}f} points {lost_or_gained}"


def points_changed(drop: float, interval: Sequence[float] = ()) -> str:
    """A loss of top-1 as a table shows it: as a signed change, `-0.30 [-1.02, +0.42]`.

    Args:
        drop: percentage points lost; negative where the smaller model is better.
        interval: of the drop; empty: there is none.
    """
    # 0 - x, as -x may be "-0.00".
    ends = [f"{0 - end:+.2f}" for end in reversed(interval)]
    return f"{0 - drop:+.2f}" + (f" [{', '.join(ends)}]" if ends else "")


def shortened(items: Sequence[str], most: int = 3) -> str:
    """The first of some names, and how many more there are."""
    shown = ", ".join(items[:most])
    more = len(items) - most
    text = f"{shown} and {more} more" if more > 0 else shown
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}..."
