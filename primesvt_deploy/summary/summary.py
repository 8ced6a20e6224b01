"""Summaries of values: the same names and figures as text and as HTML."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from html import escape

__all__ = ["Shown", "Summary"]

_LINE = "1px solid rgba(128, 128, 128, 0.35)"
_TABLE = "border-collapse: collapse; color: inherit; margin: 4px 0"
_CELL = f"text-align: left; vertical-align: top; padding: 2px 12px 2px 0; border-bottom: {_LINE}"


@dataclass(frozen=True)
class Summary:
    """A title, and names with figures, that say what a value is.

    Args:
        title: what it is, in one line.
        rows: names and figures.
        chart: draws it, as an `<svg>` element; None: there is nothing to draw.
    """

    title: str
    rows: tuple[tuple[str, str], ...]
    chart: Callable[[], str] | None = None

    def text(self) -> str:
        """The title, and a line for each row."""
        width = max((len(name) for name, _ in self.rows), default=0)
        return "\n".join(
            [self.title, *(f"  {name:<{width}}  {value}" for name, value in self.rows)]
        )

    def html(self) -> str:
        """A fragment of HTML that needs nothing else; it takes colours and font of its page."""
        rows = "".join(
            f'<tr style="background: none"><th scope="row" style="{_CELL}">{escape(name)}</th>'
            f'<td style="{_CELL}">{escape(value)}</td></tr>'
            for name, value in self.rows
        )
        table = f'<table style="{_TABLE}">{rows}</table>'
        chart = f'<div style="overflow-x: auto">{self.chart()}</div>' if self.chart else ""
        return (
            f'<div style="color: inherit"><div style="font-weight: bold">{escape(self.title)}</div>'
            f"{table}{chart}</div>"
        )


class Shown:
    """Base of values that show themselves by a summary."""

    @abstractmethod
    def _summary(self) -> Summary:
        """Title, figures and chart that say what this is."""

    def __repr__(self) -> str:
        """A few lines that say what it is."""
        return self._summary().text()

    def _repr_html_(self) -> str:
        """The same in a notebook, with a chart."""
        return self._summary().html()
