"""Tables of what a build or an analysis will cost."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from primesvt_deploy.cli.tables.common import DASH, make_console
from primesvt_deploy.cli.tables.outlook import sizes_table
from primesvt_deploy.measure.span import Span
from primesvt_deploy.pipeline.cost import ExpectedCost
from primesvt_deploy.progress.words import about, seconds_taken
from primesvt_deploy.summary import megabytes

__all__ = ["print_cost"]


def print_cost(cost: ExpectedCost) -> None:
    """Print the stages with their seconds, memory, other numbers of search images, the budget."""
    console = make_console()
    console.print(_stages(cost))
    seconds = cost.seconds
    known = f", {cost.known:,} candidates are known already" if cost.known else ""
    console.print(
        f"{cost.name} on {_where(cost)}: {about(seconds.likely)}, {_range(seconds)}{known}. "
        f"Ranges are of how candidates turn out. Measured in {seconds_taken(cost.measured_s)}.",
        soft_wrap=True,
    )
    console.print(_memory(cost), soft_wrap=True)
    console.print(_search_images(cost))
    _print_budget(console, cost)


def _where(cost: ExpectedCost) -> str:
    workers = f", {cost.workers} workers" if cost.workers > 1 else ""
    return f"{cost.device}{workers}"


def _range(seconds: Span) -> str:
    low, high = (about(value).removeprefix("about ") for value in (seconds.low, seconds.high))
    return f"from {low} to {high}" if low != high else f"within {high}"


def _stages(cost: ExpectedCost) -> Table:
    table = Table(
        "stage", "candidates", "images", "seconds", "from", "to",
        title=f"What this {_NOUNS[cost.what]} will take, about", title_justify="left",
    )  # fmt: skip
    for column in table.columns[1:]:
        column.justify = "right"
    for stage in cost.stages:
        table.add_row(
            stage.name,
            _count(stage.candidates),
            _count(stage.evaluated),
            f"{stage.span.likely:,.1f}",
            *_ends(stage.span),
        )
    table.add_section()
    table.add_row(
        "in all",
        _count(cost.candidates),
        _count(cost.images),
        f"{cost.seconds.likely:,.0f}",
        *_ends(cost.seconds, 0),
    )
    return table


_NOUNS = {"build": "build", "analyze": "analysis"}


def _count(span: Span | None) -> str:
    return DASH if span is None else f"{span.likely:,.0f}"


def _ends(span: Span, decimals: int = 1) -> tuple[str, str]:
    if span.is_exact:
        return "", ""
    return f"{span.low:,.{decimals}f}", f"{span.high:,.{decimals}f}"


def _memory(cost: ExpectedCost) -> str:
    memory = cost.memory
    parts = (
        f"cached states {_whole_megabytes(memory.states)}, "
        f"a batch {_whole_megabytes(memory.activations)}, "
        f"recovery {_whole_megabytes(memory.recovery)}"
    )
    more = " Each worker takes memory of its own beside it." if cost.workers > 1 else ""
    if memory.device_peak is None:
        return (
            f"Peak memory: {_whole_megabytes(memory.peak)} (this process now "
            f"{_whole_megabytes(memory.process)}, {parts}).{more}"
        )
    return (
        f"Peak memory: {_whole_megabytes(memory.device_peak)} of the device ({parts}), "
        f"{_whole_megabytes(memory.peak)} of this machine."
    )


def _whole_megabytes(count: float) -> str:
    """An estimate of bytes, of which no decimal would be true."""
    return f"{count / 1e6:,.0f} MB"


def _search_images(cost: ExpectedCost) -> Table:
    table = Table(
        "--search-images", "a loss is known to", "an accuracy to", "seconds in all",
        title="95% intervals of what the search finds, where a candidate is right and the dense "
        f"model wrong, or the reverse, on {cost.discordant:.1%} of images", title_justify="left",
    )  # fmt: skip
    for column in table.columns:
        column.justify = "right"
    for each in cost.search_images:
        table.add_row(
            f"{each.images:,}{' (chosen)' if each.chosen else ''}",
            f"\N{PLUS-MINUS SIGN}{each.drop_points:.2f} points",
            f"\N{PLUS-MINUS SIGN}{each.accuracy_points:.2f} points",
            f"{each.seconds.likely:,.0f}",
        )
    return table


def _print_budget(console: Console, cost: ExpectedCost) -> None:
    outlook = cost.outlook
    if outlook is None:
        return
    allowed = megabytes(outlook.budget_bytes)
    if outlook.precision is not None:
        verdict = f"nothing has to be pruned: the model fits as {outlook.precision.value}"
    elif outlook.reachable:
        verdict = "within reach by size alone; whether accuracy allows it, the search finds out"
    else:
        verdict = (
            "out of reach: with a single channel a head left in each layer weights have "
            f"{megabytes(outlook.smallest_bytes)}"
        )
    console.print(f"Budget of {allowed}: {verdict}.", soft_wrap=True)
    console.print(sizes_table(outlook))
