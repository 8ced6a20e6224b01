"""Figures and notes as all tables write them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console

__all__ = ["DASH", "make_console", "print_notes", "print_unpruned", "top1"]

DASH = "\N{EN DASH}"
"""A cell without a value."""


def make_console(*, stderr: bool = False) -> Console:
    """A console that shows text as it is: nothing in a name is taken for a style or an emoji."""
    return Console(
        stderr=stderr,
        markup=False,
        highlight=False,
        emoji=False,
        # Without any style, too: rich's own NO_COLOR leaves bold and dim.
        color_system=None if os.environ.get("NO_COLOR") else "auto",
    )


def top1(accuracy: Mapping[str, Any]) -> str:
    """Top-1 with its interval, from `Accuracy.to_dict()`."""
    low, high = accuracy["interval95_percent"]
    return f"{accuracy['top1_percent']:.2f}% [{low:.1f}, {high:.1f}]"


def print_notes(console: Console, notes: Iterable[str]) -> None:
    """Print notes on how a model was read, each on a line of its own."""
    for note in notes:
        console.print(f"note: {note}", soft_wrap=True)


def print_unpruned(console: Console, reasons: Mapping[str, str]) -> None:
    """Print the layers that pruning leaves alone, each with its reason."""
    for layer, reason in reasons.items():
        console.print(f"left unpruned: {layer}: {reason}")
