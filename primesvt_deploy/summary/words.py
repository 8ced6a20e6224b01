"""Figures and lists as summaries write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["change", "megabytes", "shortened", "top1"]

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


def shortened(items: Sequence[str], most: int = 3) -> str:
    """The first of some names, and how many more there are."""
    shown = ", ".join(items[:most])
    more = len(items) - most
    text = f"{shown} and {more} more" if more > 0 else shown
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}..."
