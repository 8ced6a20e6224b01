"""The look of all charts, and how one becomes a figure of the page.

Colours are CSS variables of the page's style (`templates/report.css`): a chart follows the page
from light to dark, and onto paper, without being drawn again. Scales are therefore lists of
colours, never gradients.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import altair as alt
import vl_convert

__all__ = [
    "ALLOWED",
    "CONFIG",
    "COOL",
    "DENSE",
    "INK",
    "LOSS",
    "MARKED",
    "MOST_ROWS",
    "MUTED",
    "QUIET",
    "SHIPPED",
    "Figure",
    "Key",
    "Row",
    "chart_of",
    "draw_static",
    "figure",
    "heat_scale",
    "layered",
    "names_axis",
    "quantiles",
    "tooltip",
    "vega_script",
]

Row = Mapping[str, object]
Key = tuple[tuple[str, str], ...]
"""A legend: colours, and what they stand for."""

INK, MUTED, GRID = "var(--ink)", "var(--muted)", "var(--grid)"
DENSE, SHIPPED, MARKED = "var(--dense)", "var(--shipped)", "var(--marked)"
QUIET, ALLOWED = "var(--quiet)", "var(--allowed)"
COOL = tuple(f"var(--cool{i})" for i in range(6))
"""From nothing to much."""
LOSS = tuple(f"var(--loss{i})" for i in range(6))
"""Three colours of losses that are allowed, least first, and three of those beyond."""

MOST_ROWS = 60
"""Layers that a chart shows; tables show all."""
_STATIC_WIDTH = 760
_LETTERS = 30
"""Characters of a name beside a chart; the page's script takes fewer on a narrow screen."""
_FONT = "system-ui, sans-serif"
"""Measures text; the page's own takes its place."""
_NEEDLESS = re.compile(
    rf' (?:font-family="{_FONT}"|opacity="1"|pointer-events="none"|aria-hidden="true")(?=[^<]*>)'
)
_LONG = re.compile(r"(?<=[\s(,\"MLhvAC-])(\d+\.\d\d)\d+(?=[^<]*>)")
"""Decimals of coordinates, which are pixels."""
_SHORTENED = (
    "length(datum.label) > letters ? slice(datum.label, 0, floor(0.4 * letters)) + '…' + "
    "slice(datum.label, -ceil(0.6 * letters) + 1) : datum.label"
)

CONFIG: dict[str, Any] = {
    "aria": False,  # the page describes each figure in words
    "background": None,
    "font": _FONT,
    "view": {"stroke": None},
    "axis": {
        "domainColor": GRID,
        "gridColor": GRID,
        "labelColor": INK,
        "labelFontSize": 12,
        "labelLimit": 240,
        "tickColor": GRID,
        "titleColor": MUTED,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "titlePadding": 8,
    },
    "axisY": {"domain": False, "ticks": False, "labelPadding": 8},
    "text": {"color": INK, "fontSize": 12},
    "rule": {"color": INK},
}
"""Vega-Lite's configuration of every chart."""


@dataclass(frozen=True)
class Figure:
    """A chart in the page.

    Args:
        name: of the element.
        label: what the chart shows, for whoever cannot see it.
        spec: Vega-Lite, without configuration.
        key: its legend, which the page draws.
    """

    name: str
    label: str
    spec: Mapping[str, Any]
    key: Key = ()


def figure(
    name: str,
    label: str,
    chart: alt.Chart | alt.LayerChart,
    *,
    height: float,
    key: Key = (),
) -> Figure:
    """A figure as wide as its place in the page.

    Args:
        name: of the element.
        label: what the chart shows, in words.
        chart: the chart, with its data.
        height: of the plotted area, pixels.
        key: legend.
    """
    letters = alt.param(name="letters", value=_LETTERS)
    fit = alt.AutoSizeParams(type="fit-x", contains="padding")
    sized = chart.add_params(letters).properties(width="container", height=height, autosize=fit)
    spec = sized.to_dict()
    # The page has one configuration for all, and its own version of Vega-Lite.
    return Figure(name, label, {k: spec[k] for k in spec if k not in ("config", "$schema")}, key)


def layered(*charts: alt.Chart) -> alt.LayerChart:
    """Charts on top of one another, the last one uppermost."""
    return cast(alt.LayerChart, alt.layer(*charts))


def draw_static(drawn: Figure) -> str:
    """The figure as an `<svg>` element, for pages whose script does not run."""
    # A browser's letters may be wider than those that this is measured with.
    spec = {**drawn.spec, "width": _STATIC_WIDTH, "padding": {"left": 28, "right": 12}}
    svg = vl_convert.vegalite_to_svg(spec, config=CONFIG)
    return _NEEDLESS.sub("", _LONG.sub(r"\1", svg[svg.index("<svg") :]))


@cache
def vega_script() -> str:
    """Vega, Vega-Lite and Vega-Embed, as the installed package carries them, for a `<script>`."""
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return bundle.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def chart_of(rows: Sequence[Row]) -> alt.Chart:
    """A chart of rows of plain values."""
    return alt.Chart(alt.InlineData(values=[dict(row) for row in rows]))


def names_axis(field: str, **options: Any) -> alt.Y:
    """Names down the left side, in the order of the rows; long ones lose their middle."""
    axis = alt.Axis(title=None, labelExpr=_SHORTENED, labelOverlap=False, grid=False)
    return alt.Y(f"{field}:N", sort=None, axis=axis, **options)


def tooltip(**titles: str) -> list[alt.Tooltip]:
    """A tooltip with these fields under these titles; values are shown as the rows have them."""
    return [alt.Tooltip(f"{field}:N", title=title) for field, title in titles.items()]


def heat_scale(steps: Sequence[float], colours: Sequence[str]) -> alt.Scale:
    """Colours between steps: the first below all of them, the last from the last one on."""
    return alt.Scale(type="threshold", domain=list(steps), range=list(colours))


def quantiles(values: Sequence[float], count: int) -> list[float]:
    """Steps that part values into `count` shares of equal size, as far as they differ."""
    ordered = sorted(set(values))
    if len(ordered) < 2:
        return [(ordered[0] if ordered else 0.0) + 1.0]
    at = [ordered[min(len(ordered) * i // count, len(ordered) - 1)] for i in range(1, count)]
    return sorted(set(at))
