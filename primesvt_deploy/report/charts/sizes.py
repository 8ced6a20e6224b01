"""Bytes of each layer before and after, and what else has a figure a layer for both models."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import altair as alt

from primesvt_deploy.report.charts.style import (
    DENSE,
    MOST_ROWS,
    SHIPPED,
    Figure,
    Row,
    chart_of,
    figure,
    layered,
    names_axis,
    tooltip,
)
from primesvt_deploy.report.content import LayerBytes, LayerEnergy
from primesvt_deploy.report.numbers import DASH, share, size

__all__ = ["Entry", "before_and_after", "layer_bytes", "layer_energy"]

Entry = tuple[str, float | None, float | None]
"""Name of a layer, its dense and its shipped value; None: that model has no such layer."""

_KEY = ((DENSE, "dense"), (SHIPPED, "shipped"))


def layer_bytes(layers: Sequence[LayerBytes]) -> Figure | None:
    """Bars of each layer's bytes in both models, in the model's order."""
    if not layers:
        return None
    found = [(entry.layer, float(entry.dense), float(entry.shipped)) for entry in layers]
    label = f"Bytes of {len(layers)} weight layers in the dense and in the shipped model"
    return before_and_after("layer-bytes", label, found, size)


def layer_energy(layers: Sequence[LayerEnergy], told: Callable[[float], str]) -> Figure | None:
    """Bars of each layer's estimated energy for an image in both models.

    Args:
        layers: in the model's order.
        told: picojoules in words.
    """
    if not layers:
        return None
    found = [(entry.layer, entry.dense, entry.shipped) for entry in layers]
    label = f"Estimated energy for one image of {len(layers)} layers, dense and shipped"
    return before_and_after("layer-energy", label, found, told)


def before_and_after(
    name: str,
    label: str,
    found: Sequence[Entry],
    told: Callable[[float], str],
) -> Figure:
    """A wide bar for the dense model with a narrow one for the shipped model in it, a row a layer.

    Args:
        name: of the figure.
        label: in words.
        found: of each layer.
        told: a value in words.
    """
    totals = [sum(row[1] or 0.0 for row in found), sum(row[2] or 0.0 for row in found)]
    rows = [_row(*entry, totals, told) for entry in _largest(found)]
    base = chart_of(rows).encode(
        y=names_axis("layer"),
        tooltip=tooltip(layer="layer", before="dense", after="shipped", change="change"),
    )
    axis = alt.Axis(title="% of the dense model", tickCount=5, domain=False)
    wide = base.mark_bar(color=DENSE, size=14)
    narrow = base.mark_bar(color=SHIPPED, size=7)
    chart = layered(
        wide.encode(x=alt.X("dense:Q", axis=axis)), narrow.encode(x=alt.X("shipped:Q", axis=axis))
    )
    return figure(name, label, chart, height=19 * len(rows), key=_KEY)


def _row(
    layer: str,
    dense: float | None,
    shipped: float | None,
    totals: Sequence[float],
    told: Callable[[float], str],
) -> Row:
    whole = totals[0] or 1.0
    change = None if not dense or shipped is None else shipped / dense - 1.0
    return {
        "layer": layer,
        "dense": round(100.0 * (dense or 0.0) / whole, 4),
        "shipped": round(100.0 * (shipped or 0.0) / whole, 4),
        "before": _told(dense, totals[0], told),
        "after": _told(shipped, totals[1], told),
        "change": DASH if change is None else share(change, 1),
    }


def _told(value: float | None, whole: float, told: Callable[[float], str]) -> str:
    if value is None:
        return DASH
    return f"{told(value)}, {share(value / (whole or 1.0), 1)} of its model"


def _largest(found: Sequence[Entry]) -> list[Entry]:
    """As many rows as a chart shows, in order; the smaller ones are summed up in the last."""
    if len(found) <= MOST_ROWS:
        return list(found)
    order = sorted(range(len(found)), key=lambda i: -max(found[i][1] or 0, found[i][2] or 0))
    shown = sorted(order[: MOST_ROWS - 1])
    others = [found[i] for i in sorted(order[MOST_ROWS - 1 :])]
    dense, shipped = (sum(o[1] or 0.0 for o in others), sum(o[2] or 0.0 for o in others))
    rest = (f"{len(others)} smaller layers", dense, shipped)
    return [*(found[i] for i in shown), rest]
