"""Draw `results/frontier.json`: held-out drop against bytes saved, as PNG and SVG."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from common import RESULTS
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from primesvt_deploy.edge.whole_file import whole_file

COLOURS = {
    "greedy": "#0072b2",
    "prioritized": "#d55e00",
    "uniform": "#009e73",
    "global-l2": "#cc79a7",
    "random": "#808080",
}
PAPER = {"bare": (26.68, 3.0), "recovered": (26.68, 3.0), "fine-tuned": (26.68, 0.4)}
"""Percent saved and points lost."""


def draw(content: dict[str, Any]) -> None:
    """Write `results/frontier.png` and `.svg`."""
    figure = Figure(figsize=(12.0, 4.8), dpi=150, layout="constrained")
    panels = dict(zip(PAPER, figure.subplots(1, 3, sharex=True, sharey=True), strict=True))
    series = content["series"]
    for title, axes in panels.items():
        _frame(axes, title, megabytes=series[0]["dense"]["weight_bytes"] / 1e6)
    _curves(panels["bare"], [s for s in series if s["recovery"] == "none"])
    _curves(panels["recovered"], [s for s in series if s["recovery"] == "all"])
    _with_head(panels["recovered"], series, content.get("head", ()))
    _finetuned(panels["fine-tuned"], content["finetuned"])
    panels["bare"].set_ylabel("held-out top-1 against the dense model, points")
    named = {
        label: handle
        for axes in panels.values()
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=4, frameon=False)
    for suffix in ("png", "svg"):
        metadata = {"Date": None} if suffix == "svg" else None
        with whole_file(RESULTS / f"frontier.{suffix}") as temporary:
            figure.savefig(temporary, format=suffix, metadata=metadata)


def _frame(axes: Axes, title: str, megabytes: float) -> None:
    saved, drop = PAPER[title]
    axes.plot(saved, -drop, "k*", markersize=10, label="the paper's point", zorder=4)
    axes.set_title(title if title == "fine-tuned" else f"{title}, no gradient step")
    axes.set_xlabel("weights saved, %")
    above = axes.secondary_xaxis(
        "top",
        functions=(
            lambda percent: megabytes * (1.0 - percent / 100.0),
            lambda mb: 100.0 * (1.0 - mb / megabytes),
        ),
    )
    above.set_xlabel("MB of weights")
    axes.set_xlim(-4.0, 94.0)
    axes.set_ylim(-25.0, 4.0)
    axes.axhline(0.0, color="#808080", linewidth=0.8)
    axes.spines["right"].set_visible(False)


def _curves(axes: Axes, series: Sequence[dict[str, Any]]) -> None:
    for policy, colour in COLOURS.items():
        for one in (s for s in series if s["policy"] == policy):
            points = sorted(one["points"], key=lambda p: p["saved_percent"])
            saved = [p["saved_percent"] for p in points]
            gained = [-p["drop"]["points"] for p in points]
            low = [-p["drop"]["interval95_points"][1] for p in points]
            high = [-p["drop"]["interval95_points"][0] for p in points]
            axes.plot(saved, gained, "o-", color=colour, label=policy, markersize=3.5)
            axes.fill_between(saved, low, high, color=colour, alpha=0.12, linewidth=0)


def _with_head(
    axes: Axes, series: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]]
) -> None:
    (whole,) = (s for s in series if (s["policy"], s["recovery"]) == ("greedy", "all"))
    saved_at = {p["asked_saving_percent"]: p["saved_percent"] for p in whole["points"]}
    points = sorted((saved_at[r["asked_saving_percent"]], -r["drop"]["points"]) for r in rows)
    saved, gained = [p[0] for p in points], [p[1] for p in points]
    label, colour = "greedy, classifier fitted anew", COLOURS["greedy"]
    axes.plot(saved, gained, "--", color=colour, label=label, linewidth=1.2)


def _finetuned(axes: Axes, rows: Sequence[dict[str, Any]]) -> None:
    for policy, seed in sorted({(row["policy"], row["seed"]) for row in rows}):
        colour = COLOURS.get(policy, "black")
        points = sorted(
            (row["asked_saving_percent"], -row["drop"]["points"], row["drop"]["interval95_points"])
            for row in rows
            if (row["policy"], row["seed"]) == (policy, seed)
        )
        for at, gain, (low, high) in points:
            axes.plot((at, at), (-high, -low), color=colour, linewidth=1.0, alpha=0.4)
            if policy == "dense":
                label = "dense, trained as long"
                axes.plot(at, gain, "D", color=colour, markersize=5, label=label)
                axes.axhline(gain, color=colour, linewidth=0.8, linestyle=":")
        if policy != "dense":
            saved, gained = [p[0] for p in points], [p[1] for p in points]
            axes.plot(saved, gained, "o-", color=colour, markersize=3.5)


if __name__ == "__main__":
    draw(json.loads((RESULTS / "frontier.json").read_text()))
