"""The interval of the loss beside what the constraint allows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt

from primesvt_deploy.report.charts.style import (
    ALLOWED,
    INK,
    MUTED,
    SHIPPED,
    Figure,
    Row,
    chart_of,
    figure,
    layered,
    names_axis,
    tooltip,
)
from primesvt_deploy.report.numbers import DASH, fixed, interval, number, points

__all__ = ["loss_interval"]

_ROW = 38
"""Height of a row, pixels."""
_LABEL = 14
"""Height at the top of a row that its label takes."""


def loss_interval(manifest: Mapping[str, Any]) -> Figure | None:
    """Points lost on search and held-out images, with the held-out interval and the constraint.

    Args:
        manifest: content of `manifest.json`.

    Returns:
        None where the loss was not measured.
    """
    accuracy = manifest.get("accuracy") or {}
    drop, search = accuracy.get("drop") or {}, accuracy.get("search") or {}
    found = number(drop.get("points"))
    if found is None or interval(drop.get("interval95_points")) is None:
        return None
    most = number((manifest.get("constraints") or {}).get("max_drop_points"))
    rows = [_row("held-out images", found, drop)]
    searched = number(search.get("drop_points"))
    if searched is not None:
        rows.insert(0, _row("search images", searched, {"n": (search.get("dense") or {}).get("n")}))
    ends = [float(row[end]) for row in rows for end in ("low", "high", "drop")]  # type: ignore[arg-type]
    scale = _scale([*ends, 0.0, *([] if most is None else [most])])
    layers = _constraint(most, scale, len(rows)) + _losses(rows, scale)
    told = "; ".join(f"{row['images']} {row['told']}" for row in rows)
    label = f"Points of top-1 lost: {told}"
    return figure("loss", label, layered(*layers), height=_ROW * len(rows))


def _row(images: str, drop: float, measured: Mapping[str, Any]) -> Row:
    low, high = measured.get("interval95_points") or (drop, drop)
    ends = interval(measured.get("interval95_points"), 2)
    return {
        "images": images,
        "drop": drop,
        "low": low,
        "high": high,
        "told": f"{points(drop)} {ends or ''}".strip(),
        "n": fixed(measured["n"]) if number(measured.get("n")) is not None else DASH,
    }


def _scale(values: list[float]) -> alt.Scale:
    low, high = min(values), max(values)
    margin = 0.12 * max(high - low, 0.5)
    return alt.Scale(domain=[low - margin, high + margin], nice=False, zero=False)


def _constraint(most: float | None, scale: alt.Scale, rows: int) -> list[alt.Chart]:
    """The range that is allowed, from the chart's left side on, and its end."""
    if most is None:
        return []
    low = scale.to_dict()["domain"][0]
    limit = [{"from": min(low, most), "to": most, "told": f"allowed: {most:g}"}]
    base = chart_of(limit)
    at = alt.X("to:Q", scale=scale, title="points of top-1 lost")
    words = base.mark_text(align="right", dx=-5, dy=-6, baseline="bottom", color=MUTED, fontSize=11)
    return [
        base.mark_rect(color=ALLOWED).encode(x=alt.X("from:Q", scale=scale), x2="to:Q"),
        # A narrow page has the labels where the limit is: its line leaves them out.
        *(
            base.mark_rule(strokeWidth=1.5, strokeDash=[5, 3]).encode(
                x=at, y=alt.value(_ROW * row + _LABEL), y2=alt.value(_ROW * (row + 1))
            )
            for row in range(rows)
        ),
        words.encode(x=at, y=alt.value(0), text="told:N"),
    ]


def _losses(rows: list[Row], scale: alt.Scale) -> list[alt.Chart]:
    base = chart_of(rows).encode(
        y=names_axis("images"),
        tooltip=tooltip(images="measured on", told="top-1 lost", n="images"),
    )
    axis = alt.Axis(title="points of top-1 lost", tickCount=7)
    return [
        base.mark_rule(strokeWidth=4, color=SHIPPED, opacity=0.45).encode(
            x=alt.X("low:Q", scale=scale, axis=axis), x2="high:Q"
        ),
        base.mark_point(filled=True, size=90, color=SHIPPED, opacity=1).encode(
            x=alt.X("drop:Q", scale=scale, axis=axis)
        ),
        base.mark_text(align="left", baseline="bottom", dx=6, dy=-7, fontSize=11, color=INK).encode(
            x=alt.value(0), text="told:N"
        ),
    ]
