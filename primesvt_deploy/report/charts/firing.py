"""Firing rates by layer, channels that carry nothing, and spikes of one image."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from primesvt_deploy.report.charts.style import (
    COOL,
    DENSE,
    MARKED,
    MOST_ROWS,
    QUIET,
    SHIPPED,
    Figure,
    Key,
    chart_of,
    figure,
    heat_scale,
    layered,
    names_axis,
    tooltip,
)
from primesvt_deploy.report.content import LayerFiring, SpikeRaster
from primesvt_deploy.report.numbers import DASH, fixed, share

__all__ = ["RATE_STEPS", "by_timestep", "firing_rates", "idle_channels", "raster", "rate_key"]

RATE_STEPS = (0.02, 0.05, 0.1, 0.2, 0.4)
"""Firing rates at which colours change."""


def rate_key() -> Key:
    """Legend of colours for firing rates."""
    ends = [share(step) for step in RATE_STEPS]
    return tuple(zip(COOL, [f"below {ends[0]}", *(f"from {e}" for e in ends)], strict=True))


def firing_rates(layers: Sequence[LayerFiring]) -> Figure | None:
    """Mean firing rate of each neuron layer, dense and shipped, joined by a line."""
    rows = [
        {
            "layer": entry.layer,
            "dense": None if entry.dense is None else round(100 * entry.dense, 4),
            "shipped": None if entry.shipped is None else round(100 * entry.shipped, 4),
            "before": DASH if entry.dense is None else share(entry.dense, 2),
            "after": DASH if entry.shipped is None else share(entry.shipped, 2),
        }
        for entry in layers[:MOST_ROWS]
        if entry.dense is not None or entry.shipped is not None
    ]
    if not rows:
        return None
    base = chart_of(rows).encode(
        y=names_axis("layer"), tooltip=tooltip(layer="layer", before="dense", after="shipped")
    )
    axis = alt.Axis(title="neurons that fire in a timestep, %", tickCount=6)
    line = base.mark_rule(strokeWidth=2, color=QUIET).encode(
        x=alt.X("dense:Q", axis=axis, scale=alt.Scale(domainMin=0)), x2="shipped:Q"
    )
    dense = base.mark_point(filled=True, size=60, color=DENSE, opacity=1)
    shipped = base.mark_point(filled=True, size=60, color=SHIPPED, opacity=1)
    chart = layered(
        line,
        dense.encode(x=alt.X("dense:Q", axis=axis)),
        shipped.encode(x=alt.X("shipped:Q", axis=axis)),
    )
    return figure(
        "firing",
        f"Firing rates of {len(rows)} neuron layers, dense and shipped",
        chart,
        height=19 * len(rows),
        key=((DENSE, "dense"), (SHIPPED, "shipped")),
    )


def idle_channels(layers: Sequence[LayerFiring]) -> Figure | None:
    """Share of each layer's channels that never fire or always do, in the shipped model."""
    rows = [
        {
            "layer": entry.layer,
            "kind": kind,
            "share": round(100 * count / entry.channels, 4),
            "told": f"{fixed(count)} of {fixed(entry.channels)} channels",
        }
        for entry in layers[:MOST_ROWS]
        if entry.channels
        for kind, count in (("never fire", entry.silent), ("always fire", entry.constant))
    ]
    if not any(row["share"] for row in rows):
        return None
    colours = alt.Scale(domain=["never fire", "always fire"], range=[QUIET, MARKED])
    chart = (
        chart_of(rows)
        .mark_bar(size=12)
        .encode(
            y=names_axis("layer"),
            x=alt.X("share:Q", axis=alt.Axis(title="% of the layer's channels", tickCount=5)),
            color=alt.Color("kind:N", scale=colours, legend=None),
            tooltip=tooltip(layer="layer", kind="channels that", told="are"),
        )
    )
    return figure(
        "idle",
        "Share of channels that never fire and that always fire, by layer",
        chart,
        height=19 * len({row["layer"] for row in rows}),
        key=((QUIET, "never fire"), (MARKED, "fire at every timestep")),
    )


def by_timestep(layers: Sequence[LayerFiring]) -> Figure | None:
    """Firing rate of each layer of the shipped model at each timestep."""
    rows = [
        {"layer": entry.layer, "t": t + 1, "rate": rate, "told": share(rate, 2)}
        for entry in layers[:MOST_ROWS]
        for t, rate in enumerate(entry.by_timestep)
    ]
    if len({row["t"] for row in rows}) < 2:
        return None
    axis = alt.Axis(title="timestep", orient="top", labelAngle=0, domain=False, ticks=False)
    chart = (
        chart_of(rows)
        .mark_rect(stroke="var(--page)")
        .encode(
            x=alt.X("t:O", axis=axis),
            y=names_axis("layer"),
            color=alt.Color("rate:Q", scale=heat_scale(RATE_STEPS, COOL), legend=None),
            tooltip=tooltip(layer="layer", t="timestep", told="firing rate"),
        )
    )
    return figure(
        "timesteps",
        "Firing rates of the shipped model's layers by timestep",
        chart,
        height=19 * len({row["layer"] for row in rows}),
        key=rate_key(),
    )


def raster(number: int, spikes: SpikeRaster) -> Figure | None:
    """Spikes of a layer for one image: a row a timestep, a column a channel.

    Args:
        number: of the layer among those shown.
        spikes: of the layer.
    """
    rows = [
        {"t": t + 1, "c": c, "rate": round(rate, 4), "told": share(rate, 1)}
        for t, rates in enumerate(spikes.rates)
        for c, rate in enumerate(rates)
    ]
    if not rows:
        return None
    count = len(spikes.rates[0])
    ticks = list(range(0, count, max(8 * round(count / 48), 8)))
    chart = (
        chart_of(rows)
        .mark_rect()
        .encode(
            x=alt.X(
                "c:O",
                axis=alt.Axis(title="channel", values=ticks, labelAngle=0, ticks=False),
                scale=alt.Scale(paddingInner=0.08),
            ),
            y=alt.Y("t:O", axis=alt.Axis(title="timestep", labelPadding=4), title="timestep"),
            color=alt.Color("rate:Q", scale=heat_scale(RATE_STEPS, COOL), legend=None),
            tooltip=tooltip(c="channel", t="timestep", told="positions that fire"),
        )
    )
    label = f"Spikes of {spikes.layer} for the sample image: {count} channels by timestep"
    return figure(f"raster-{number}", label, chart, height=15 * len(spikes.rates))
