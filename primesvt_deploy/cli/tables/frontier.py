"""Table of a frontier's points."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from primesvt_deploy.cli.tables.common import DASH, make_console, top1
from primesvt_deploy.measure.megabytes import millions
from primesvt_deploy.summary.words import points_changed

__all__ = ["print_frontier"]


def print_frontier(content: Mapping[str, Any], output: Path) -> None:
    """Print the points from the largest to the smallest, and what each cost."""
    console = make_console()
    dense = content["dense"]
    whole, *sizes = millions(
        dense["weight_bytes"], *(point["weight_bytes"] for point in content["points"])
    )
    table = Table(
        "saved",
        "weights",
        "search change",
        "held-out top-1",
        "held-out change",
        "evaluations",
        title=f"{content['model']}, {content['policy']}: dense weights "
        f"{whole} MB, {top1(dense['held_out'])}",
    )
    for point, size in zip(content["points"], sizes, strict=True):
        table.add_row(
            _saved(point),
            f"{size} MB",
            points_changed(point["search"]["points"]) if point["search"] else DASH,
            top1(point["held_out"]),
            points_changed(point["drop"]["points"], point["drop"]["interval95_points"]),
            f"{point['cost']['evaluations']} ({point['cost']['seconds']:.0f} s)",
        )
    console.print(table)
    _print_timesteps(console, [{**dense, "saved_percent": 0.0, "met": True}, *content["points"]])
    console.print(
        f"{output}: frontier.json, frontier.png, frontier.svg, ledger.jsonl   "
        "try, with the same model and data: primesvt-deploy build --frontier "
        f"{shlex.quote(str(output))} --max-drop 1",
    )


def _saved(point: Mapping[str, Any]) -> str:
    return f"{point['saved_percent']:.1f}%" + ("" if point["met"] else "\n(not met)")


def _print_timesteps(console: Console, points: Sequence[Mapping[str, Any]]) -> None:
    """Print accuracy and latency at each T, in a table that fits 80 columns."""
    steps = sorted({row["T"] for point in points for row in point.get("timesteps", ())})
    if not steps:
        return
    table = Table("saved", *(f"T = {t}" for t in steps), title="Held-out top-1 and latency")
    for point in points:
        by_steps = {row["T"]: row for row in point.get("timesteps", ())}
        cells = [_at_steps(by_steps[t]) if t in by_steps else DASH for t in steps]
        table.add_row(_saved(point), *cells)
    console.print(table)


def _at_steps(row: Mapping[str, Any]) -> str:
    return f"{row['held_out']['top1_percent']:.2f}%\n{row['latency']['median_ms']:.1f} ms"
