"""Tables of the sizes that a build can reach, and the command to type next."""

from __future__ import annotations

import io
from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from primesvt_deploy.cli.tables.common import make_console
from primesvt_deploy.model.stored_frontier import MeasuredDrop, StoredFrontier
from primesvt_deploy.pipeline.outlook import RATES, Outlook
from primesvt_deploy.settings import Precision
from primesvt_deploy.summary.words import points_changed

__all__ = ["next_line", "next_options", "outlook_lines", "print_outlook", "sizes_table"]

_MB = 1e6
_LITTLE = 1.0
"""Points of top-1 that few would mind, where no less is allowed."""
_BESIDE = 100_000
"""Bytes of a file beside its weights, about."""


def print_outlook(console: Console, outlook: Outlook, command: str) -> None:
    """Print that a budget is met without pruning, or out of reach; the sizes; the next command."""
    allowed = f"{_shown(outlook.budget_bytes)} MB are allowed"
    if outlook.precision is not None:
        size = outlook.sizes[outlook.precision][0]
        console.print(
            f"Nothing has to be pruned: as {outlook.precision.value} the weights have "
            f"{_shown(size)} MB, {allowed}. What follows exports this model and verifies it.",
            soft_wrap=True,
        )
    else:
        console.print(
            f"Out of reach: {allowed}, and with a single channel a head left in each layer weights "
            f"have {_shown(outlook.smallest_bytes)} MB. What follows finds the best there is.",
            soft_wrap=True,
        )
    console.print(sizes_table(outlook))
    if outlook.known is not None:
        console.print(_measured(outlook.known))
    console.print(next_line(outlook, command), soft_wrap=True)


def next_line(outlook: Outlook, command: str) -> str:
    """The command to type next, and what for."""
    return f"Next, to prune it: {command}" if outlook.precision else f"Next: {command}"


def outlook_lines(outlook: Outlook, command: str) -> list[str]:
    """The lines of `print_outlook`, for a progress that shows messages above its bars."""
    text = io.StringIO()
    print_outlook(Console(file=text, width=make_console(stderr=True).width), outlook, command)
    return [line.rstrip() for line in text.getvalue().splitlines()]


def next_options(outlook: Outlook, max_drop: float | None) -> Mapping[str, str | bool | None]:
    """Options that change in the next command, by name.

    Args:
        outlook: of this one.
        max_drop: points that may be lost; None: any.
    """
    again: dict[str, str | bool | None] = {"force": True, "saving": None}
    if outlook.precision is None:
        smaller = outlook.sizes[Precision.INT4][-1] + _BESIDE
        if smaller <= outlook.budget_bytes:
            return {**again, "budget_mb": _rounded_up(outlook.budget_bytes), "precision": "auto"}
        return {**again, "budget_mb": _rounded_up(int(1.25 * outlook.smallest_bytes) + _BESIDE)}
    dense, form = outlook.sizes[Precision.FP32][0], outlook.sizes[outlook.precision][0]
    point = _best_point(outlook.known, max_drop)
    if point is None:
        left = 100.0 * (1.0 - 0.5 * form / dense)
        return {**again, "budget_mb": None, "saving": f"{left:.0f}", "policy": "greedy"}
    # In another precision the same share of the weights.
    size = point.weight_bytes * form // dense + (_BESIDE if outlook.on_file else 0)
    return {**again, "budget_mb": _rounded_up(size), "policy": "greedy"}


def _best_point(known: StoredFrontier | None, max_drop: float | None) -> MeasuredDrop | None:
    """The smallest point that loses little; None: nothing was measured."""
    if known is None:
        return None
    allowed = _LITTLE if max_drop is None else min(max_drop, _LITTLE)
    keeping = [point for point in known.points if point.points <= allowed]
    return min(keeping, key=lambda point: point.weight_bytes) if keeping else None


def sizes_table(outlook: Outlook) -> Table:
    """Sizes that can be reached, by the share of channels that leaves and by precision."""
    table = Table(
        "channels that leave", *(f"{each.value}, MB" for each in Precision),
        title="Weights by size alone, about", title_justify="left",
    )  # fmt: skip
    for column, rate in enumerate(RATES):
        sizes = (_shown(outlook.sizes[each][column]) for each in Precision)
        table.add_row(f"{rate:.0%} of each layer" if rate else "none", *sizes)
    return table


def _measured(known: StoredFrontier) -> Table:
    """Losses of smaller models, as they were measured before."""
    table = Table(
        "weights, MB", "how", "change of top-1, points",
        title=f"Measured before (held-out {known.data}, dense {known.top1_percent:.2f}%, "
        f"n={known.points[0].n})",
        title_justify="left",
    )  # fmt: skip
    rows = [(point, f"fp32, pruned by {known.policy}") for point in known.points]
    rows += [(drop, f"{name}, not pruned") for name, drop in known.precisions.items()]
    for drop, how in sorted(rows, key=lambda row: -row[0].weight_bytes):
        change = points_changed(drop.points, (drop.low, drop.high))
        table.add_row(_shown(drop.weight_bytes), how, change)
    return table


def _shown(size: int) -> str:
    """Megabytes with digits enough to differ."""
    return f"{size / _MB:.2f}" if size >= _MB / 10 else f"{size / _MB:.4f}"


def _rounded_up(size: int) -> str:
    """Megabytes, rounded up to a number that is easily typed."""
    digits = 1 if size >= _MB else 2
    for more in range(digits, 7):
        value = -(-size // 10 ** (6 - more)) / 10**more
        if value <= 1.2 * size / _MB:
            return f"{value:g}"
    return f"{size / _MB:g}"
