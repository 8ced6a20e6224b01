"""What a notebook would show, read as a person and a browser read it."""

from __future__ import annotations

import re
from html.parser import HTMLParser

__all__ = ["Fragment", "read_fragment"]


class Fragment(HTMLParser):
    """The cells and the chart of a fragment of HTML, which must close all that it opens."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.values: list[str] = []
        self.drawn: list[str] = []
        self.tags: list[str] = []
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        kept = {"th": self.names, "td": self.values, "text": self.drawn}
        if self._open and self._open[-1] in kept:
            kept[self._open[-1]].append(data)

    def close(self) -> None:
        super().close()
        assert not self._open


def read_fragment(html: str) -> Fragment:
    """A fragment that stands on its own: no script, nothing from elsewhere."""
    fragment = Fragment()
    fragment.feed(html)
    fragment.close()
    assert "script" not in fragment.tags
    urls = set(re.findall(r"""https?://[^"'\s<]+""", html))
    assert urls <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    return fragment
