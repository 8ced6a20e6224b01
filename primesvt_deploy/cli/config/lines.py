"""Lines of a file of settings that keys and sections stand on: TOML's parser keeps none."""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["line_of", "repeated_key"]

_MULTILINE = re.compile(r"(\"\"\"|''').*?\1", re.DOTALL)
_KEY = re.compile(r"\s*([\w.-]+|\"[^\"]*\"|'[^']*')\s*=")


def line_of(text: str, section: str, key: str) -> int | None:
    """Line, from 1, of a key of a section, or of a section; None where it is not found.

    Args:
        text: of the file.
        section: that the key is in; empty: above all sections, or the key is a section's name.
        key: the name.
    """
    name, table = _quoted(key), _quoted(section)
    own = re.compile(rf"\s*{name}\s*=")
    at_root = rf"{table}\s*(\.\s*{name}\s*=|=\s*{{(.*[,{{\s])?{name}\s*=)"
    above = re.compile(rf"\s*{at_root}" if section else rf"\s*{name}\s*[.=]")
    for number, now, header, line in _lines(text):
        is_section = header and not section and now == key
        is_own = not header and now == section and own.match(line)
        if is_section or is_own or (not header and not now and above.match(line)):
            return number
    return None


def repeated_key(text: str) -> tuple[int, str] | None:
    """Line and name of the first key that its section has twice; None where there is none."""
    seen: set[tuple[str, str]] = set()
    for number, now, header, line in _lines(text):
        match = None if header else _KEY.match(line)
        if match is None:
            continue
        key = match[1].strip("\"'")
        if (now, key) in seen:
            return number, key
        seen.add((now, key))
    return None


def _lines(text: str) -> Iterator[tuple[int, str, bool, str]]:
    """Each line's number, section, whether it begins that, and text, without what it quotes."""
    now = ""
    # Text of several lines may look like keys.
    plain = _MULTILINE.sub(lambda match: '""' + "\n" * match[0].count("\n"), text)
    for number, line in enumerate(plain.split("\n"), start=1):
        is_header = line.lstrip().startswith("[")
        if is_header:
            now = line.lstrip(" \t[").partition("]")[0].strip().strip("\"'")
        yield number, now, is_header, line


def _quoted(name: str) -> str:
    """A pattern of a name with or without quotes."""
    return rf"[\"']?{re.escape(name)}[\"']?"
