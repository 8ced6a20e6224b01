"""Plot of a frontier: held-out top-1 against bytes of weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from primesvt_deploy.edge.whole_file import whole_file

__all__ = ["draw_frontier"]

_BLUE, _GREY = "#0072b2", "#808080"


def draw_frontier(content: Mapping[str, Any], directory: Path) -> None:
    """Write `frontier.png` and `frontier.svg` beside `frontier.json`.

    Args:
        content: content of `frontier.json`.
        directory: the frontier's directory.
    """
    figure = Figure(figsize=(6.4, 4.2), dpi=150, layout="constrained")
    axes = figure.subplots()
    dense = content["dense"]
    rows = [*sorted(content["points"], key=lambda row: int(row["weight_bytes"])), dense]
    sizes = [row["weight_bytes"] / 1e6 for row in rows]
    tops = [row["held_out"]["top1_percent"] for row in rows]
    low, high = zip(*(row["held_out"]["interval95_percent"] for row in rows), strict=True)
    axes.fill_between(sizes, low, high, color=_BLUE, alpha=0.15, linewidth=0)
    axes.plot(sizes[:-1], tops[:-1], "o-", color=_BLUE, markersize=4, label="pruned")
    axes.plot(sizes[-2:], tops[-2:], "-", color=_BLUE)
    axes.plot(sizes[-1:], tops[-1:], "s", color="black", markersize=5, label="dense")
    for row, top in zip(rows[:-1], tops, strict=False):
        at = (row["weight_bytes"] / 1e6, top)
        saved = f"-{row['saved_percent']:.0f}%"
        axes.annotate(saved, at, (4, -9), textcoords="offset points", fontsize=7)
    axes.axhline(dense["held_out"]["top1_percent"], color=_GREY, linewidth=0.8)
    axes.legend(loc="lower right", frameon=False)
    axes.set_xlabel("weights and biases, MB (float32)")
    axes.set_ylabel(f"held-out top-1, % (n = {dense['held_out']['n']}, 95% interval)")
    axes.set_title(f"{content['model']}: {content['policy']}", fontsize=10, parse_math=False)
    axes.set_xlim(left=0.0)
    axes.spines[["top", "right"]].set_visible(False)
    with whole_file(directory / "frontier.png") as temporary:
        figure.savefig(temporary, format="png")
    with whole_file(directory / "frontier.svg") as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None})
