"""A page as a strict reader sees it, for tests."""

from __future__ import annotations

import re
from html.parser import HTMLParser

PLAIN = str.maketrans(
    {
        "\N{MINUS SIGN}": "-",
        "\N{MULTIPLICATION SIGN}": "x",
        "\N{NO-BREAK SPACE}": " ",
        "\N{NARROW NO-BREAK SPACE}": " ",
    }
)
_VOID = {"meta", "br", "link", "hr", "img"}
_APART = {"td", "th", "dd", "dt", "li", "small", "br", "b", "span", "text", "summary", "p"}


class Page(HTMLParser):
    """Reads a page, insisting that every element is closed in turn.

    Args:
        html: the page.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.source = html
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.pieces: list[str] = []
        self.scripts: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open, self.open
        self.text = re.sub(r"\s+", " ", "".join(self.pieces).translate(PLAIN))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag in _APART:
            self.pieces.append(" ")
        if tag == "script":
            self.scripts.append("")
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        within = self.open[-1] if self.open else ""
        if within == "script":
            self.scripts[-1] += data
        elif within not in ("style", "title"):
            self.pieces.append(data)

    def values(self, name: str) -> list[str]:
        """Values of an attribute, in the order of the page."""
        return [value for _, found, value in self.attributes if found == name]
