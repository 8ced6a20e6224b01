"""Classes: which are taken for which, and how each fares before and after."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from primesvt_deploy.report.charts.style import (
    COOL,
    DENSE,
    LOSS,
    MOST_ROWS,
    QUIET,
    SHIPPED,
    Figure,
    Row,
    chart_of,
    figure,
    heat_scale,
    layered,
    names_axis,
    tooltip,
)
from primesvt_deploy.report.class_counts import ClassCount
from primesvt_deploy.report.content import ConfusedPair
from primesvt_deploy.report.numbers import fixed, share

__all__ = ["MOST_CLASSES", "confusion", "per_class"]

MOST_CLASSES = 40
"""Classes of which a matrix can be read."""
_WRITTEN = 12
"""Classes whose cells have room for a number."""
_SHARES = (0.01, 0.05, 0.15, 0.4, 0.7)
"""Shares of a class's images at which the colour changes."""
_CHANGES = (-0.05, -0.01, -1e-9, 1e-9, 0.01, 0.05)


def confusion(pairs: Sequence[ConfusedPair], classes: Sequence[str]) -> Figure | None:
    """The confusion matrix of the shipped or the dense model, or their difference, as is chosen.

    Args:
        pairs: pairs that occurred.
        classes: names of the classes.

    Returns:
        None where nothing was classified, or there are too many classes for a matrix.
    """
    rows = _cells(pairs, classes)
    if not rows or len(classes) > MOST_CLASSES:
        return None
    shown = alt.param(
        name="shown",
        value="shipped",
        bind=alt.binding_radio(options=["dense", "shipped", "difference"], name="Model: "),
    )
    names = list(dict.fromkeys(classes))
    axis = alt.Axis(
        title="taken for", orient="top", labelAngle=-45, labelAlign="left", domain=False, grid=False
    )
    base = chart_of(rows).encode(
        x=alt.X("predicted:N", sort=names, axis=axis, scale=alt.Scale(domain=names)),
        y=names_axis("label", scale=alt.Scale(domain=names)),
        tooltip=tooltip(label="class", predicted="taken for", dense="dense", shipped="shipped"),
    )
    layers = [*_counts(base, len(names)), *_differences(base, len(names))]
    chart = layered(*layers).resolve_scale(color="independent").add_params(shown)
    label = f"Confusion matrix of {len(names)} classes on held-out images"
    return figure("confusion", label, chart, height=26 * len(names))


def _cells(pairs: Sequence[ConfusedPair], classes: Sequence[str]) -> list[Row]:
    totals: dict[int, int] = {}
    for pair in pairs:
        totals[pair.label] = totals.get(pair.label, 0) + pair.dense
    return [
        {
            "label": classes[pair.label],
            "predicted": classes[pair.predicted],
            "dense": pair.dense,
            "shipped": pair.shipped,
            "difference": pair.shipped - pair.dense,
            "of": max(totals[pair.label], 1),
            # More on the diagonal is good, more beside it is not.
            "sign": -1 if pair.label == pair.predicted else 1,
        }
        for pair in pairs
        if max(pair.label, pair.predicted) < len(classes)
    ]


def _counts(base: alt.Chart, count: int) -> list[alt.Chart]:
    """Cells of one model, in colours of its share of the class."""
    some = base.transform_filter("shown != 'difference' && datum[shown] > 0")
    some = some.transform_calculate(count="datum[shown]", share="datum[shown] / datum.of")
    cells = some.mark_rect(stroke="var(--page)").encode(
        color=alt.Color("share:Q", scale=heat_scale(_SHARES, COOL), legend=None)
    )
    inks = [f"var(--on-cool{i})" for i in range(len(COOL))]
    return [cells, *_written(some, "share", "count", _SHARES, inks, count)]


def _differences(base: alt.Chart, count: int) -> list[alt.Chart]:
    """Cells of the change: orange where more images are wrong, blue where fewer are."""
    some = base.transform_filter("shown == 'difference' && datum.difference != 0")
    some = some.transform_calculate(
        change="datum.sign * datum.difference / datum.of",
        count="(datum.difference > 0 ? '+' : '\N{MINUS SIGN}') + abs(datum.difference)",
    )
    colours = [LOSS[2], LOSS[1], LOSS[0], "var(--page)", LOSS[3], LOSS[4], LOSS[5]]
    cells = some.mark_rect(stroke="var(--page)").encode(
        color=alt.Color("change:Q", scale=heat_scale(_CHANGES, colours), legend=None)
    )
    inks = [f"var(--on-loss{i})" for i in (2, 1, 0, 0, 3, 4, 5)]
    return [cells, *_written(some, "change", "count", _CHANGES, inks, count)]


def _written(
    base: alt.Chart, by: str, text: str, steps: Sequence[float], inks: Sequence[str], count: int
) -> list[alt.Chart]:
    if count > _WRITTEN:
        return []
    colour = alt.Color(f"{by}:Q", scale=heat_scale(steps, inks), legend=None)
    return [base.mark_text(fontSize=11).encode(text=f"{text}:N", color=colour)]


def per_class(counts: Sequence[ClassCount]) -> Figure | None:
    """Accuracy of each class, dense and shipped, joined by a line; those that lose most first."""
    rows = [
        {
            "label": count.name,
            "dense": round(100 * count.dense / count.n, 3),
            "shipped": round(100 * count.shipped / count.n, 3),
            "before": f"{share(count.dense / count.n, 1)}, {fixed(count.dense)} images",
            "after": f"{share(count.shipped / count.n, 1)}, {fixed(count.shipped)} images",
            "n": fixed(count.n),
        }
        for count in sorted(counts, key=lambda count: count.change)[:MOST_ROWS]
    ]
    if not rows:
        return None
    told = tooltip(label="class", n="images", before="dense", after="shipped")
    base = chart_of(rows).encode(y=names_axis("label"), tooltip=told)
    axis = alt.Axis(title="images of the class that are right, %", tickCount=6)
    scale = alt.Scale(zero=False, nice=True)
    line = base.mark_rule(strokeWidth=2, color=QUIET).encode(
        x=alt.X("dense:Q", axis=axis, scale=scale), x2="shipped:Q"
    )
    points = [
        base.mark_point(filled=True, size=64, color=colour, opacity=1).encode(
            x=alt.X(f"{field}:Q", axis=axis, scale=scale)
        )
        for field, colour in (("dense", DENSE), ("shipped", SHIPPED))
    ]
    return figure(
        "classes",
        f"Accuracy of {len(rows)} classes on held-out images, dense and shipped",
        layered(line, *points),
        height=22 * len(rows),
        key=((DENSE, "dense"), (SHIPPED, "shipped")),
    )
