"""Robustness curves as inline SVG: top-1 accuracy against the share of channels removed."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

__all__ = ["dense_percent", "robustness_svg"]

# Okabe and Ito's colour-blind-safe hues that keep 3:1 against white and near-black alike;
# the last two are darker stand-ins for their orange and sky blue, which do not.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#9a7b00", "#7a5fc0")
_MARKERS = "os^DvPX*"
_GREY = "#808080"
_INK = "#010203"  # stands for the page's text colour, which SVG calls currentColor

_WIDTH = 7.4  # inches; at 72 units an inch, 8.5 pt text fills about 12 px of a 760 px column
_ROW = 0.165  # inches a label takes
_STYLE: Any = {  # releases of matplotlib differ in how they type its keys
    "svg.fonttype": "none",
    "svg.hashsalt": "primesvt-deploy",
    "font.family": "sans-serif",
    "font.size": 8.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.edgecolor": _GREY,
    "axes.labelcolor": _INK,
    "text.color": _INK,
    "xtick.color": _GREY,
    "ytick.color": _GREY,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


@dataclass(frozen=True)
class _Line:
    """The curve of a layer as it is drawn: percent removed, top-1 in percent."""

    name: str
    colour: str
    marker: str
    x: list[float]
    y: list[float]
    within: list[bool]


@dataclass(frozen=True)
class _Tag:
    """A label beside the frame, and the point that it names."""

    text: str
    x: float
    y: float
    colour: str
    marker: str


def dense_percent(curves: Sequence[Mapping[str, Any]]) -> float | None:
    """Top-1 of the dense model on the images that the curves were measured on, percent.

    Points are judged by their paired drop on these images, so they compare with this accuracy and
    not with that on a larger split.
    """
    points = [p for c in curves for p in c.get("curve") or () if _is_drawn(p)]
    points = [p for p in points if p.get("drop_points") is not None]
    if not points:
        return None
    fullest = max(points, key=lambda p: p.get("n") or 0)
    return float(fullest["top1_percent"]) + float(fullest["drop_points"])


def robustness_svg(curves: Sequence[Mapping[str, Any]], *, max_drop: float | None = None) -> str:
    """Draw robustness curves for an HTML page; text takes the page's colour.

    Args:
        curves: `Curve.to_dict()` of each layer, largest first.
        max_drop: points that may be lost: a dashed line is drawn so far below the dense model.

    Returns:
        An `<svg>` element, the same one for the same curves.
    """
    dense = dense_percent(curves)
    lines = _lines(curves, dense)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, max(3.9, 0.75 + _ROW * len(lines))))
        figure.subplots_adjust(left=0.075, right=0.8, top=0.97, bottom=0.5 / figure.get_figheight())
        axes = figure.add_subplot()
        _frame(axes, lines)
        for line in lines:
            _draw(axes, line)
        tags = [_Tag(line.name, line.x[-1], line.y[-1], line.colour, line.marker) for line in lines]
        if dense is not None and max_drop is not None:
            tags.append(_draw_constraint(axes, dense - max_drop))
        _label(axes, tags)
        return _export(figure, len(lines))


def _is_drawn(point: Mapping[str, Any]) -> bool:
    return point.get("rate") is not None and point.get("top1_percent") is not None


def _lines(curves: Sequence[Mapping[str, Any]], dense: float | None) -> list[_Line]:
    """A colour for each kind of layer (its name without numbers), a marker for each of a kind."""
    colours: dict[str, str] = {}
    members: dict[str, int] = {}
    lines = []
    for curve in curves:
        points = sorted(filter(_is_drawn, curve.get("curve") or ()), key=lambda p: p["rate"])
        if not points:
            continue
        name = str(curve.get("layer"))
        kind = re.sub(r"\d+", "", name)
        colour = colours.setdefault(kind, _COLOURS[len(colours) % len(_COLOURS)])
        member = members[kind] = members.get(kind, -1) + 1
        x = [100.0 * p["rate"] for p in points]
        y = [float(p["top1_percent"]) for p in points]
        within = [bool(p.get("within")) for p in points]
        if dense is not None:  # nothing removed: all curves start here
            x, y, within = [0.0, *x], [dense, *y], [True, *within]
        lines.append(_Line(name, colour, _MARKERS[member % len(_MARKERS)], x, y, within))
    return lines


def _frame(axes: Axes, lines: Sequence[_Line]) -> None:
    values = [value for line in lines for value in line.y] or [0.0, 100.0]
    pad = max(0.05 * (max(values) - min(values)), 0.5)
    axes.set_xlim(0, max((x for line in lines for x in line.x), default=100.0) + 2)
    axes.set_ylim(max(min(values) - pad, -1.0), min(max(values) + pad, 101.0))
    axes.set_xlabel("channels of the layer removed, %")
    axes.set_ylabel("top-1 on the search split, %")
    axes.set_xticks(range(0, int(axes.get_xlim()[1]) + 1, 10))
    axes.grid(color=_GREY, alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)


def _draw_constraint(axes: Axes, level: float) -> _Tag:
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, level - 0.02 * (high - low)), high)
    axes.axhline(level, color=_INK, linewidth=1.0, linestyle=(0, (5, 3)))
    return _Tag(f"constraint {level:.1f}%", axes.get_xlim()[1], level, _INK, "")


def _draw(axes: Axes, line: _Line) -> None:
    axes.plot(line.x, line.y, color=line.colour, linewidth=1.4)
    for filled in (True, False):
        axes.plot(
            [x for x, inside in zip(line.x, line.within, strict=True) if inside is filled],
            [y for y, inside in zip(line.y, line.within, strict=True) if inside is filled],
            linestyle="none",
            marker=line.marker,
            markersize=4.5,
            color=line.colour,
            markerfacecolor=line.colour if filled else "none",
        )


def _label(axes: Axes, tags: Sequence[_Tag]) -> None:
    """Name each curve to the right of its end, apart from one another, with a leader."""
    low, high = axes.get_ylim()
    right = axes.get_xlim()[1]
    inches = axes.get_position().height * axes.figure.get_figheight()  # type: ignore[union-attr]
    ordered = sorted(tags, key=lambda tag: -tag.y)
    levels = _apart([tag.y for tag in ordered], (high - low) * _ROW / inches, low)
    for tag, level in zip(ordered, levels, strict=True):
        start, end = 1.025 * right, 1.055 * right
        style: dict[str, Any] = {"color": tag.colour, "clip_on": False, "linewidth": 0.8}
        # Dotted, so that the leader of a curve that ends early does not read as its data.
        path = [tag.x, right, start, end], [tag.y, tag.y, level, level]
        axes.plot(*path, linestyle=(0, (1, 1.5)), **style)
        axes.plot(end, level, marker=tag.marker, markersize=4.5, **style)
        # Names are no mathematics, whatever dollar signs they hold.
        text = axes.text(1.075 * right, level, tag.text, parse_math=False)
        text.set_verticalalignment("center_baseline")


def _apart(levels: Sequence[float], gap: float, low: float) -> list[float]:
    """Move descending `levels` so that neighbours are `gap` apart, none below `low` if it fits."""
    placed: list[float] = []
    for level in levels:
        placed.append(min(level, placed[-1] - gap) if placed else level)
    floor = low
    for index in range(len(placed) - 1, -1, -1):
        placed[index] = max(placed[index], floor)
        floor = placed[index] + gap
    return placed


def _export(figure: Figure, count: int) -> str:
    buffer = io.StringIO()
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    FigureCanvasSVG(figure).print_svg(buffer, metadata=metadata)  # type: ignore[no-untyped-call]
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    layers = f"{count} layer{'s' * (count != 1)}"
    label = f"Robustness curves of {layers}: top-1 accuracy by share of channels removed"
    svg = re.sub(r'^<svg ([^>]*?)width="[^"]*" height="[^"]*"', r"<svg \1", svg)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
