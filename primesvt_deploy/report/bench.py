"""Plot of benchmark results: median and p95 of each configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from primesvt_deploy.edge.whole_file import whole_file
from primesvt_deploy.errors import OutputError

__all__ = ["draw_results"]

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#9a7b00", "#7a5fc0")
_MOST_INCHES = 400
"""Height that matplotlib still draws."""
_LONGEST = 80
"""Characters of a name that are shown."""


def draw_results(results: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draw bars of medians with whiskers to p95, a colour for each result.

    Args:
        results: contents of result files, by name.
        path: the file to write whole or not at all, `.png` or `.svg`.

    Raises:
        OutputError: it cannot be written.
    """
    names = list(dict.fromkeys(_row(v) for r in results.values() for v in r["variants"]))
    height = 0.8 / len(results)
    inches = min(1.2 + 0.42 * len(names) * len(results) ** 0.5, _MOST_INCHES)
    figure = Figure(figsize=(7.2, inches), dpi=150, layout="constrained")
    axes = figure.subplots()
    for number, (name, result) in enumerate(results.items()):
        at = [names.index(_row(v)) + height * (number - (len(results) - 1) / 2)
              for v in result["variants"]]  # fmt: skip
        times = [v["latency_ms"] for v in result["variants"]]
        medians = [t["median"] for t in times]
        beyond = [max(t["p95"] - t["median"], 0.0) for t in times]
        axes.barh(at, medians, height * 0.9, color=_COLOURS[number % len(_COLOURS)], label=name)
        axes.errorbar(medians, at, xerr=[[0.0] * len(at), beyond], fmt="none", ecolor="#404040",
                      elinewidth=0.9, capsize=2)  # fmt: skip
    axes.set_yticks(range(len(names)), [name[:_LONGEST] for name in names], fontsize=8,
                    parse_math=False)  # fmt: skip
    axes.invert_yaxis()
    axes.set_xlabel("ms a run: median, whisker to p95")
    axes.set_xlim(left=0.0)
    axes.spines[["top", "right"]].set_visible(False)
    legend = figure.legend(loc="outside lower center", frameon=False, fontsize=8)
    for text in legend.get_texts():
        text.set_parse_math(False)
    try:
        with whole_file(path) as temporary:
            figure.savefig(temporary, format=path.suffix[1:])
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error


def _row(configuration: Mapping[str, Any]) -> str:
    return str(configuration["name"])
