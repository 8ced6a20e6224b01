"""Heat maps over layers and pruning rates: points lost, and what a policy measured otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from primesvt_deploy.report.charts.style import (
    COOL,
    INK,
    LOSS,
    MOST_ROWS,
    Figure,
    Key,
    Row,
    chart_of,
    figure,
    heat_scale,
    layered,
    names_axis,
    quantiles,
    tooltip,
)
from primesvt_deploy.report.content import Sensitivity
from primesvt_deploy.report.numbers import fixed, points, share

__all__ = ["loss_steps", "robustness", "sensitivity"]

_MOST_RATES = 12
"""Columns whose cells have room for a number."""


def loss_steps(max_drop: float | None) -> tuple[float, ...]:
    """Points lost at which a heat map's colour changes; the third is what is allowed, if known."""
    if not max_drop:
        return (0.5, 1.0, 2.0, 5.0, 10.0)
    return tuple(max_drop * factor for factor in (1 / 3, 2 / 3, 1, 2, 4))


def robustness(
    curves: Sequence[Mapping[str, Any]],
    widths: Mapping[str, int],
    max_drop: float | None,
) -> Figure | None:
    """Points lost with one layer pruned alone, a row a layer and a column a rate.

    Args:
        curves: `Curve.to_dict()` of each layer.
        widths: channels that the shipped model keeps of each; its cell is outlined.
        max_drop: points that may be lost; None: any.

    Returns:
        None where no curve was measured.
    """
    rows = [row for curve in curves[:MOST_ROWS] for row in _cells(curve, widths)]
    if not rows:
        return None
    steps = loss_steps(max_drop)
    # A loss of exactly the step belongs below it, as the constraint allows it.
    bounds = [step * (1 + 1e-9) for step in steps]
    told = tooltip(layer="layer", rate="removed", kept="channels left", told="lost", n="images")
    base = chart_of(rows).encode(x=_rates(rows), y=names_axis("layer"), tooltip=told)
    cells = base.mark_rect(stroke="var(--page)").encode(
        color=alt.Color("drop:Q", scale=heat_scale(bounds, LOSS), legend=None),
    )
    outlined = base.transform_filter("datum.shipped").mark_rect(
        filled=False, stroke=INK, strokeWidth=2
    )
    layers = [cells, *_written(base, rows, bounds), outlined]
    chart = layered(*layers).resolve_scale(color="independent")
    count = len({row["layer"] for row in rows})
    label = f"Points of top-1 lost as each of {count} layers is pruned alone, by share removed"
    return figure("robustness", label, chart, height=22 * count, key=_loss_key(steps))


def _cells(curve: Mapping[str, Any], widths: Mapping[str, int]) -> list[Row]:
    name = str(curve.get("layer"))
    # Rates that round to the same channels have one point between them.
    found = {p["rate"]: p for p in curve.get("curve") or () if p.get("drop_points") is not None}
    return [
        {
            "layer": name,
            "rate": share(point["rate"]),
            "drop": point["drop_points"],
            "short": fixed(point["drop_points"], 1 if abs(point["drop_points"]) < 10 else 0),
            "told": points(point["drop_points"]),
            "kept": f"{fixed(point.get('kept') or 0)} of {fixed(curve.get('width') or 0)}",
            "n": fixed(point.get("n") or 0),
            "shipped": widths.get(name) == point.get("kept"),
        }
        for _, point in sorted(found.items())
    ]


def _rates(rows: Sequence[Row]) -> alt.X:
    """Rates along the top, ascending."""
    rates = sorted({str(row["rate"]) for row in rows}, key=lambda rate: float(rate.rstrip("%")))
    axis = alt.Axis(
        title="channels of the layer removed", orient="top", labelAngle=0, domain=False, ticks=False
    )
    return alt.X("rate:O", sort=rates, axis=axis)


def _written(base: alt.Chart, rows: Sequence[Row], bounds: Sequence[float]) -> list[alt.Chart]:
    """The numbers in the cells, where there is room for them."""
    if len({row["rate"] for row in rows}) > _MOST_RATES:
        return []
    inks = [f"var(--on-loss{i})" for i in range(len(LOSS))]
    colour = alt.Color("drop:Q", scale=heat_scale(bounds, inks), legend=None)
    return [base.mark_text(fontSize=10).encode(text="short:N", color=colour)]


def _loss_key(steps: Sequence[float]) -> Key:
    told = [fixed(step, 0 if step == round(step) else 1) for step in steps]
    between = [f"to {step}" for step in told[1:]]
    texts = [f"points lost: up to {told[0]}", *between, f"more than {told[-1]}"]
    return tuple(zip(LOSS, texts, strict=True))


def sensitivity(measured: Sequence[Sensitivity], what: str) -> Figure | None:
    """A policy's own measure of each layer at each rate it tried, in colours of equal shares.

    Rates differ from layer to layer: a policy may remove a number of channels, not a share.

    Args:
        measured: of each group.
        what: what its values are.

    Returns:
        None where no policy measured any.
    """
    rows = [
        {
            "layer": entry.group,
            "rate": round(100 * rate, 3),
            "value": value,
            "removed": share(round(rate, 4)),
            "told": f"{value:.3g}",
        }
        for entry in measured[:MOST_ROWS]
        for rate, value in zip(entry.rates, entry.values, strict=True)
    ]
    if not rows:
        return None
    values = [value for entry in measured[:MOST_ROWS] for value in entry.values]
    steps = quantiles(values, len(COOL))
    axis = alt.Axis(title="% of the layer's channels removed", orient="top", tickCount=10)
    colours = heat_scale(steps, COOL[: len(steps) + 1])
    mark = chart_of(rows).mark_point(
        shape="square", filled=True, size=200, opacity=1, stroke="var(--line)", strokeWidth=0.75
    )
    chart = mark.encode(
        x=alt.X("rate:Q", axis=axis, scale=alt.Scale(domain=[0, 100])),
        y=names_axis("layer"),
        color=alt.Color("value:Q", scale=colours, legend=None),
        tooltip=tooltip(layer="layer", removed="removed", told="measured"),
    )
    key = (
        (COOL[0], f"least, {min(values):.3g}"),
        (COOL[len(steps)], f"most, {max(values):.3g}"),
    )
    label = f"{what or 'Sensitivity'} of {len(measured)} layers by share of channels removed"
    height = 20 * len({row["layer"] for row in rows})
    return figure("sensitivity", label, chart, height=height, key=key)
