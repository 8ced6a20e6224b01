"""Parts of the documentation's pictures: text, boxes, lines, and the frame around them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

__all__ = ["box", "line", "picture", "text"]

_STYLE = """
text { font-family: Helvetica, Arial, "DejaVu Sans", sans-serif; font-size: 13px; fill: #1b2430 }
.title { font-size: 15px; font-weight: bold }
.name { font-weight: bold }
.small { font-size: 11px; fill: #56616f }
.cell { font-size: 11px; fill: #1b2430 }
.page { fill: #ffffff }
.box { fill: #eef3f8; stroke: #8895a5; rx: 5px }
.gone { fill: #fbe9e4; stroke: #d55e00; stroke-dasharray: 4 3; rx: 5px }
.once { fill: #e6f4ea; stroke: #009e73; rx: 5px }
.line { fill: none; stroke: #6f7c8c; stroke-width: 1.4 }
.grid { stroke: #d8dee5; stroke-width: 1 }
.tip { fill: #6f7c8c }
.spike { stroke: #d55e00; stroke-width: 3 }
.membrane { fill: none; stroke: #0072b2; stroke-width: 2 }
.threshold { stroke: #d55e00; stroke-width: 1; stroke-dasharray: 5 4 }
"""


def text(x: float, y: float, content: str, kind: str = "", anchor: str = "start") -> str:
    """A line of text."""
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">'
        f"{escape(content)}</text>"
    )


def box(x: float, y: float, width: float, height: float, kind: str = "box") -> str:
    """A rectangle."""
    return (
        f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"/>'
    )


def line(points: Sequence[tuple[float, float]], kind: str = "line", *, tip: bool = False) -> str:
    """A line through points, with an arrow's tip if asked for."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    end = ' marker-end="url(#tip)"' if tip else ""
    return f'<polyline class="{kind}" points="{path}"{end}/>'


def picture(width: int, height: int, label: str, parts: Iterator[str]) -> str:
    """A whole picture, as SVG.

    Args:
        width: pixels.
        height: pixels.
        label: what it shows, for who cannot see it.
        parts: what is drawn, from back to front.
    """
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}" role="img" aria-label="{escape(label)}">',
            f"<style>{_STYLE}</style>",
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
            'markerHeight="7" orient="auto"><path class="tip" d="M0,0 L8,4 L0,8 z"/></marker>'
            "</defs>",
            box(0, 0, width, height, "page"),
            *parts,
            "</svg>\n",
        ]
    )
