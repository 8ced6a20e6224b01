"""Charts of summaries, as SVG whose ink is the page's, so that light and dark pages suit them.

Drawn by Vega-Lite, here, without a browser and without the network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["accuracy_by_size", "bars", "kept_channels"]

_INK, _GRID = "currentColor", "#80808055"
# Okabe and Ito's blue and vermilion, which keep 3:1 against white and near-black alike.
_BLUE, _RED, _GREY = "#0072b2", "#d55e00", "#808080"
_WIDTH, _HEIGHT, _BAR = 360, 200, 15
_MOST_BARS = 30
_PADDING = {"left": 40, "right": 20, "top": 5, "bottom": 5}
"""Pixels around a chart: the page's letters may be wider than those that it is laid out for."""


def accuracy_by_size(
    points: Sequence[Mapping[str, Any]], *, size: str, accuracy: str, budget: float | None = None
) -> str:
    """Accuracy against size: a line through points with their intervals.

    Args:
        points: `name`, `mb`, `top1`, `low` and `high` (percent) of each; the names `dense` and
            others have different colours.
        size: title of the axis of sizes, MB.
        accuracy: title of the axis of accuracies, percent.
        budget: megabytes that were allowed, drawn as a line; None: no line.
    """
    import altair as alt

    rows = [
        {**point, "kind": "dense" if point["name"] == "dense" else "pruned"} for point in points
    ]
    top = max(budget or 0.0, *(float(row["mb"]) for row in rows))
    x = alt.X("mb:Q", title=size, scale=alt.Scale(domain=[0.0, 1.08 * top], nice=False))
    y = alt.Y("top1:Q", title=accuracy, scale=alt.Scale(zero=False))
    base = alt.Chart(alt.Data(values=rows))
    colour = alt.Color(
        "kind:N", legend=None, scale=alt.Scale(domain=["dense", "pruned"], range=[_INK, _BLUE])
    )
    layers: list[Any] = [
        base.mark_line(color=_BLUE, strokeWidth=1.5).encode(x=x, y=y),
        base.mark_rule(strokeWidth=1.5).encode(
            x=x, y=alt.Y("low:Q", title=accuracy, scale=alt.Scale(zero=False)), y2="high:Q",
            color=colour,
        ),
        base.mark_point(filled=True, size=60, opacity=1).encode(x=x, y=y, color=colour),
        base.mark_text(dx=6, dy=-8, align="left", color=_INK).encode(x=x, y=y, text="name:N"),
    ]  # fmt: skip
    if budget is not None:
        line = alt.Chart(alt.Data(values=[{"mb": budget}]))
        layers.append(line.mark_rule(color=_RED, strokeDash=[5, 3]).encode(x=x))
    return _svg(alt.layer(*layers).properties(width=_WIDTH, height=_HEIGHT))


def bars(values: Mapping[str, float], *, title: str) -> str:
    """A horizontal bar for each value, in their order; many small ones are put together.

    Args:
        values: by name.
        title: of the axis of values.
    """
    import altair as alt

    largest = sorted(values, key=lambda name: -values[name])[:_MOST_BARS]
    rows = [{"name": name, "value": value} for name, value in values.items() if name in largest]
    left = [value for name, value in values.items() if name not in largest]
    if left:
        rows.append({"name": f"{len(left)} smaller ones", "value": sum(left)})
    chart = alt.Chart(alt.Data(values=rows)).mark_bar(color=_BLUE)
    return _svg(
        chart.encode(x=alt.X("value:Q", title=title), y=_names()).properties(
            width=_WIDTH, height=alt.Step(_BAR)
        )
    )


def kept_channels(widths: Mapping[str, tuple[int, int]]) -> str:
    """For each group of channels the share that is kept.

    Args:
        widths: channels that are kept, and of how many, by the group's name.
    """
    import altair as alt

    rows = [
        {"name": name, "share": part / whole, "kind": kind, "order": order}
        for name, (kept, whole) in list(widths.items())[:_MOST_BARS]
        for order, (kind, part) in enumerate((("kept", kept), ("removed", whole - kept)))
    ]
    colour = alt.Color(
        "kind:N",
        title=None,
        scale=alt.Scale(domain=["kept", "removed"], range=[_BLUE, _GREY]),
        legend=alt.Legend(orient="top"),
    )
    x = alt.X("share:Q", title="share of its channels", axis=alt.Axis(format="%", tickCount=5))
    chart = alt.Chart(alt.Data(values=rows)).mark_bar()
    return _svg(
        chart.encode(x=x, y=_names(), color=colour, order="order:O").properties(
            width=_WIDTH, height=alt.Step(_BAR)
        )
    )


def _names() -> Any:
    import altair as alt

    return alt.Y("name:N", title=None, sort=None)


def _svg(chart: Any) -> str:
    """The chart as an `<svg>` element that takes the text colour of its page."""
    import vl_convert

    styled = chart.configure(background="transparent", padding=_PADDING)
    styled = styled.configure_view(stroke=None)
    styled = styled.configure_axis(
        labelColor=_INK, titleColor=_INK, gridColor=_GRID, domainColor=_GRID, tickColor=_GRID,
        titleFontWeight="normal", labelLimit=220,
    ).configure_legend(labelColor=_INK, titleColor=_INK)  # fmt: skip
    svg: str = vl_convert.vegalite_to_svg(styled.to_dict())
    return svg
