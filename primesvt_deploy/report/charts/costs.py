"""Cost of a run: precision alternatives, latency, memory stage by stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from primesvt_deploy.report.charts.style import (
    DENSE,
    INK,
    SHIPPED,
    Figure,
    Row,
    chart_of,
    figure,
    layered,
    names_axis,
    tooltip,
)
from primesvt_deploy.report.content import MemoryStage
from primesvt_deploy.report.numbers import DASH, fixed, interval, number, points, size

__all__ = ["latency", "memory", "precisions"]

_MS = "\N{NARROW NO-BREAK SPACE}ms"


def precisions(manifest: Mapping[str, Any]) -> Figure | None:
    """Bars of the file sizes of all precisions that were tried, with the points that each loses.

    Args:
        manifest: content of `manifest.json`.

    Returns:
        None where a single one was tried.
    """
    found = manifest.get("precision") or {}
    candidates = found.get("candidates") or ()
    if len(candidates) < 2:
        return None
    rows = [_precision(entry, found.get("name")) for entry in candidates]
    base = chart_of(rows).encode(
        y=names_axis("name"),
        x=alt.X("size:Q", axis=alt.Axis(title="MB of the model file", tickCount=5)),
        tooltip=tooltip(name="precision", told="file", drop="lost, search images", met="verdict"),
    )
    bars = base.mark_bar(size=14, yOffset=8).encode(
        color=alt.condition("datum.chosen", alt.value(SHIPPED), alt.value(DENSE))
    )
    words = base.mark_text(align="left", baseline="bottom", dy=-2, fontSize=11).encode(
        x=alt.value(2), text="words:N"
    )
    return figure(
        "precisions",
        f"File size and loss of {len(rows)} precisions that were tried",
        layered(bars, words),
        height=40 * len(rows),
        key=((SHIPPED, "shipped"), (DENSE, "tried")),
    )


def _precision(entry: Mapping[str, Any], chosen: object) -> Row:
    drop = number((entry.get("drop") or {}).get("points"))
    lost = "dense" if drop is None else f"{points(drop, 1)} lost"
    ends = interval((entry.get("drop") or {}).get("interval95_points"), 2)
    bytes_ = number(entry.get("file_bytes")) or 0.0
    name = str(entry.get("precision"))
    return {
        "name": f"{name}, {'pruned' if entry.get('pruned') else 'not pruned'}",
        "size": bytes_ / 1e6,
        "told": size(bytes_),
        "words": f"{size(bytes_)}, {lost}",
        "drop": DASH if drop is None else f"{points(drop)} {ends or ''}".strip(),
        "met": "constraints met" if entry.get("met") else "constraints not met",
        "chosen": name == chosen,
    }


def latency(measured: Mapping[str, Any] | None) -> Figure | None:
    """Medians of each model's run time, with lines to their 95th percentiles.

    Args:
        measured: `latency` of a manifest.

    Returns:
        None where it was not measured.
    """
    named = (("dense", "dense"), ("shipped", "shipped"), ("native", "shipped, native runtime"))
    rows = [
        {
            "model": name,
            "median": entry["median_ms"],
            "p95": max(entry["p95_ms"], entry["median_ms"]),
            "told": fixed(entry["median_ms"], 2, _MS),
            "late": fixed(entry["p95_ms"], 2, _MS),
            "colour": "dense" if key == "dense" else "shipped",
        }
        for key, name in named
        if (entry := (measured or {}).get(key))
        and number(entry.get("median_ms")) is not None
        and number(entry.get("p95_ms")) is not None
    ]
    if not rows:
        return None
    base = chart_of(rows).encode(
        y=names_axis("model"), tooltip=tooltip(model="model", told="median", late="95th percentile")
    )
    axis = alt.Axis(title="ms a run", tickCount=6)
    colours = alt.Scale(domain=["dense", "shipped"], range=[DENSE, SHIPPED])
    bars = base.mark_bar(size=16).encode(
        x=alt.X("median:Q", axis=axis), color=alt.Color("colour:N", scale=colours, legend=None)
    )
    tails = base.mark_rule(strokeWidth=1.5, color=INK).encode(
        x=alt.X("median:Q", axis=axis), x2="p95:Q"
    )
    ends = base.mark_tick(size=10, thickness=1.5, color=INK).encode(x=alt.X("p95:Q", axis=axis))
    key = ((DENSE, "dense"), (SHIPPED, "shipped"), ("line", "from the median to 95% of the runs"))
    return figure(
        "latency",
        "Run time: " + "; ".join(f"{row['model']} {row['told']}" for row in rows),
        layered(bars, tails, ends),
        height=26 * len(rows),
        key=key,
    )


def memory(stages: Sequence[MemoryStage]) -> Figure | None:
    """Resident memory after each stage of a run, dense and shipped.

    Args:
        stages: in the order of a run.

    Returns:
        None where nothing was measured.
    """
    rows = [
        {
            "stage": stage.stage,
            "model": model,
            "mb": value / 1e6,
            "told": size(value),
        }
        for stage in stages
        for model, value in (("dense", stage.dense), ("shipped", stage.shipped))
        if value is not None
    ]
    if not rows:
        return None
    colours = alt.Scale(domain=["dense", "shipped"], range=[DENSE, SHIPPED])
    chart = (
        chart_of(rows)
        .mark_bar()
        .encode(
            y=names_axis("stage"),
            yOffset=alt.YOffset("model:N", sort=["dense", "shipped"]),
            x=alt.X("mb:Q", axis=alt.Axis(title="MB resident", tickCount=6)),
            color=alt.Color("model:N", scale=colours, legend=None),
            tooltip=tooltip(stage="after", model="model", told="resident"),
        )
    )
    return figure(
        "memory",
        f"Resident memory of a fresh process after {len(stages)} stages of a run",
        chart,
        height=34 * len({row["stage"] for row in rows}),
        key=((DENSE, "dense"), (SHIPPED, "shipped")),
    )
