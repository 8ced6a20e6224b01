"""Several bundles in one chart: size against accuracy, and what each keeps of every layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import altair as alt

from primesvt_deploy.report.charts.style import (
    COOL,
    MOST_ROWS,
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
from primesvt_deploy.report.numbers import share

__all__ = ["Point", "kept_shares", "sizes_and_accuracies"]

Point = Mapping[str, object]
"""A bundle: `number`, `label`, `mb`, `top1`, `low`, `high` and, in words, `size` and `accuracy`."""

_KEPT = (0.2, 0.4, 0.6, 0.8, 1.0)


def sizes_and_accuracies(points: Sequence[Point]) -> Figure | None:
    """Held-out accuracy with its interval against the size of the model file; points are numbered.

    Args:
        points: the bundles.

    Returns:
        None where there is none.
    """
    if not points:
        return None
    axis = alt.Axis(title="MB of the model file", tickCount=6)
    base = chart_of(points).encode(
        x=alt.X("mb:Q", scale=alt.Scale(zero=False, padding=30), axis=axis),
        tooltip=tooltip(label="bundle", size="size", accuracy="held-out top-1"),
    )
    scale = alt.Scale(zero=False, padding=16)
    axis = alt.Axis(title="held-out top-1, %, with 95% interval", tickCount=6)
    at = alt.Y("top1:Q", scale=scale, axis=axis)
    layers = [
        base.mark_rule(strokeWidth=2, color=SHIPPED, opacity=0.5).encode(
            y=alt.Y("low:Q", scale=scale, axis=axis), y2="high:Q"
        ),
        base.mark_point(filled=True, size=260, color=SHIPPED, opacity=1).encode(y=at),
        base.mark_text(color="var(--page)", fontWeight="bold", fontSize=11).encode(
            y=at, text="number:N"
        ),
    ]
    label = f"{len(points)} bundles by size and held-out accuracy"
    return figure("several", label, layered(*layers), height=320)


def kept_shares(widths: Sequence[Mapping[str, tuple[int, int]]]) -> Figure | None:
    """Share of its channels that each bundle keeps of each layer; bundles are numbered.

    Args:
        widths: channels kept and channels before, of each layer, for each bundle.

    Returns:
        None where nothing is known.
    """
    rows = [
        {
            "layer": layer,
            "bundle": number,
            "share": kept / before,
            "told": f"{kept} of {before}, {share(kept / before, 0)}",
            "short": str(kept),
        }
        for number, found in enumerate(widths, 1)
        for layer, (kept, before) in list(found.items())[:MOST_ROWS]
        if before
    ]
    if not rows:
        return None
    axis = alt.Axis(title="bundle", orient="top", labelAngle=0, domain=False, ticks=False)
    base = chart_of(rows).encode(
        x=alt.X("bundle:O", axis=axis),
        y=names_axis("layer"),
        tooltip=tooltip(bundle="bundle", layer="layer", told="channels kept"),
    )
    cells = base.mark_rect(stroke="var(--page)").encode(
        color=alt.Color("share:Q", scale=heat_scale(_KEPT, COOL), legend=None)
    )
    inks = [f"var(--on-cool{i})" for i in range(len(COOL))]
    words = base.mark_text(fontSize=11).encode(
        text="short:N", color=alt.Color("share:Q", scale=heat_scale(_KEPT, inks), legend=None)
    )
    chart = layered(cells, words).resolve_scale(color="independent")
    label = f"Channels that {len(widths)} bundles keep of each layer"
    height = 22 * len({row["layer"] for row in rows})
    return figure("kept", label, chart, height=height, key=_kept_key())


def _kept_key() -> Key:
    ends = [share(step, 0) for step in _KEPT]
    between = [f"from {end}" for end in ends[:-1]]
    return tuple(zip(COOL, [f"kept: below {ends[0]}", *between, "all"], strict=True))
