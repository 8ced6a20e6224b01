"""Draw `results/frontier.json`: held-out drop against bytes saved, as PNG and SVG."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from common import RESULTS
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = {
    "greedy": "#0072b2",
    "prioritized": "#d55e00",
    "uniform": "#009e73",
    "global-l2": "#cc79a7",
    "random": "#808080",
}
PAPER = ((26.68, 3.0, "paper, not fine-tuned"), (26.68, 0.4, "paper, fine-tuned"))


def draw(content: dict[str, Any]) -> None:
    """Write `results/frontier.png` and `.svg`."""
    figure = Figure(figsize=(10.0, 4.6), dpi=150, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, recovery, title in ((left, "none", "bare"), (right, "all", "recovered")):
        _panel(axes, [s for s in content["series"] if s["recovery"] == recovery], title)
    _finetuned(right, content["finetuned"])
    for axes in (left, right):
        for saved, drop, label in PAPER:
            axes.plot(saved, -drop, "k*", markersize=8)
            axes.annotate(label, (saved, -drop), textcoords="offset points", xytext=(6, -3))
        axes.legend(loc="lower left", frameon=False)
    left.set_ylabel("held-out top-1 against the dense model, points")
    for suffix in ("png", "svg"):
        metadata = {"Date": None} if suffix == "svg" else None
        figure.savefig(RESULTS / f"frontier.{suffix}", metadata=metadata)


def _panel(axes: Axes, series: Sequence[dict[str, Any]], title: str) -> None:
    for policy, colour in COLOURS.items():
        for number, one in enumerate(s for s in series if s["policy"] == policy):
            points = sorted(one["points"], key=lambda p: p["saved_percent"])
            saved = [p["saved_percent"] for p in points]
            gained = [-p["drop"]["points"] for p in points]
            low = [-p["drop"]["interval95_points"][1] for p in points]
            high = [-p["drop"]["interval95_points"][0] for p in points]
            label = policy if number == 0 else None
            axes.plot(saved, gained, "o-", color=colour, label=label, markersize=3.5)
            axes.fill_between(saved, low, high, color=colour, alpha=0.12, linewidth=0)
    axes.set_title(f"{title}, no gradient step" if title == "recovered" else title)
    axes.set_xlabel("weights saved, %")
    axes.set_ylim(-25.0, 4.0)
    axes.axhline(0.0, color="#808080", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)


def _finetuned(axes: Axes, rows: Sequence[dict[str, Any]]) -> None:
    for policy in ("dense", *COLOURS):
        points = sorted(
            (r["asked_saving_percent"], -r["drop"]["points"]) for r in rows if r["policy"] == policy
        )
        if not points:
            continue
        colour = COLOURS.get(policy, "black")
        line = "D--" if len(points) > 1 else "D"
        label = {"dense": "dense, trained as long", "greedy": "greedy, fine-tuned"}.get(policy)
        axes.plot(
            *zip(*points, strict=True), line, color=colour, markersize=5, label=label,
            markerfacecolor="white", zorder=3,
        )  # fmt: skip


if __name__ == "__main__":
    draw(json.loads((RESULTS / "frontier.json").read_text()))
